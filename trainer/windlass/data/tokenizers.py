"""Tokenizers: text to token ids and back, and their files in Hugging Face layout beside corpora and exports.

Names of special tokens in a text are plain text unless asked for; only Windlass itself ends a document.
"""

import difflib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from windlass.errors import WindlassError
from windlass.storage import Storage

if TYPE_CHECKING:
    import tiktoken
    import tokenizers

END_OF_TEXT = "<|endoftext|>"
TIKTOKEN = {"gpt2": "r50k_base", "r50k_base": "r50k_base", "cl100k_base": "cl100k_base", "o200k_base": "o200k_base"}
"""Our name -> tiktoken's; its own `gpt2` has the same ranks in files of another form."""
BUILT_IN = ("bytes", *TIKTOKEN)
FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")

# What published tokenizers call the end of a document, for a tokenizer.json without a tokenizer_config.json.
_ENDS = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "<|im_end|>", "[SEP]")


class Tokenizer(Protocol):
    """What every tokenizer has."""

    @property
    def name(self) -> str:
        """The name in the job file."""

    @property
    def vocab_size(self) -> int:
        """One more than the largest token id."""

    @property
    def end_of_document(self) -> int:
        """The token after each document."""

    @property
    def fingerprint(self) -> str:
        """Hash of what makes two tokenizers encode alike; equal for a tokenizer and its saved files."""

    def encode(self, text: str, *, special_tokens: bool = False) -> NDArray[Any]:
        """Return token ids, [tokens], unsigned integers; no token is added.

        With `special_tokens`, names of special tokens in the text become these tokens.
        """

    def encode_alone(self, text: str, limit: int) -> tuple[NDArray[Any], bool]:
        """Return what an encoder reads of a text by itself, at most `limit` tokens, and whether the text was cut.

        What the tokenizer's own template puts around a text, such as [CLS] and [SEP], is there and is not cut.
        """

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text; bytes that are no UTF-8 become U+FFFD, end_of_document its name."""

    def save(self, folder: Path) -> None:
        """Write tokenizer.json and tokenizer_config.json, as transformers' AutoTokenizer reads them."""


@dataclass(frozen=True)
class BytesTokenizer:
    """UTF-8 bytes as tokens, and one more that ends a document."""

    name: str = "bytes"
    vocab_size: int = 257
    end_of_document: int = 256
    fingerprint: str = "bytes-1"

    def encode(self, text: str, *, special_tokens: bool = False) -> NDArray[Any]:
        """Return the text's UTF-8 bytes, [bytes]."""
        if not special_tokens or END_OF_TEXT not in text:
            return np.frombuffer(text.encode(), np.uint8)
        end = np.array([self.end_of_document], np.uint16)
        parts = [np.frombuffer(part.encode(), np.uint8) for part in text.split(END_OF_TEXT)]
        return np.concatenate([part for piece in parts for part in (piece, end)][:-1])

    def encode_alone(self, text: str, limit: int) -> tuple[NDArray[Any], bool]:
        """Return the text's first bytes."""
        return _cut(self.encode(text), limit)

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text; incomplete characters become U+FFFD."""
        end = END_OF_TEXT.encode()
        return b"".join(end if token == 256 else bytes((token,)) for token in tokens).decode(errors="replace")

    def save(self, folder: Path) -> None:
        """Write a byte-level BPE without merges: token id = byte."""
        vocabulary = {_shown(bytes((byte,))): byte for byte in range(256)}
        _save_bpe(self, folder, vocabulary, {END_OF_TEXT: self.end_of_document}, merges=[], pattern=None)


@dataclass(frozen=True)
class TiktokenTokenizer:
    """GPT-2's and OpenAI's byte-pair encodings, by tiktoken."""

    name: str
    encoding: "tiktoken.Encoding" = field(repr=False)

    @property
    def vocab_size(self) -> int:
        """One more than the largest token id."""
        return self.encoding.n_vocab

    @property
    def end_of_document(self) -> int:
        """<|endoftext|>."""
        return self.encoding.eot_token

    @property
    def fingerprint(self) -> str:
        """Hash of the ranks; the pattern is left out, since tiktoken rewrites it between versions for speed."""
        ranks = self.encoding._mergeable_ranks
        digest = hashlib.sha256(self.encoding.name.encode())
        digest.update(b"".join(b"%d %s\n" % (rank, token) for token, rank in ranks.items()))
        return digest.hexdigest()[:32]

    def encode(self, text: str, *, special_tokens: bool = False) -> NDArray[Any]:
        """Return token ids, [tokens] uint32."""
        allowed: Literal["all"] | set[str] = "all" if special_tokens else set()
        return self.encoding.encode_to_numpy(text, allowed_special=allowed, disallowed_special=())

    def encode_alone(self, text: str, limit: int) -> tuple[NDArray[Any], bool]:
        """Return the text's first tokens."""
        return _cut(self.encode(text), limit)

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text; incomplete characters become U+FFFD."""
        return self.encoding.decode(list(map(int, tokens)), errors="replace")

    def save(self, folder: Path) -> None:
        """Write the ranks as a byte-level BPE."""
        ranks = self.encoding._mergeable_ranks
        vocabulary = {_shown(token): rank for token, rank in ranks.items()}
        pattern = self.encoding._pat_str.replace("{1,3}+", "{1,3}")  # possessive there, repeated in Oniguruma
        _save_bpe(self, folder, vocabulary, self.encoding._special_tokens, _merges(ranks), pattern)


@dataclass(frozen=True)
class HuggingFaceTokenizer:
    """Any tokenizer.json."""

    name: str
    vocab_size: int
    end_of_document: int
    fingerprint: str
    tokenizer: "tokenizers.Tokenizer" = field(repr=False)
    files: dict[str, bytes] = field(repr=False)

    def encode(self, text: str, *, special_tokens: bool = False) -> NDArray[Any]:
        """Return token ids, [tokens] uint32."""
        self.tokenizer.encode_special_tokens = not special_tokens
        return np.array(self.tokenizer.encode(text, add_special_tokens=False).ids, np.uint32)

    def encode_alone(self, text: str, limit: int) -> tuple[NDArray[Any], bool]:
        """Return what tokenizer.json's post-processor makes of the text."""
        self.tokenizer.encode_special_tokens = True
        encoding = self.tokenizer.encode(text, add_special_tokens=False)
        room = max(0, limit - self.tokenizer.num_special_tokens_to_add(False))
        is_cut = len(encoding) > room
        encoding.truncate(room)
        return np.array(self.tokenizer.post_process(encoding).ids, np.uint32), is_cut

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text, special tokens by name."""
        return str(self.tokenizer.decode(list(map(int, tokens)), skip_special_tokens=False))

    def save(self, folder: Path) -> None:
        """Write the files as they were read."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in self.files.items():
            (folder / name).write_bytes(data)


def _cut(tokens: NDArray[Any], limit: int) -> tuple[NDArray[Any], bool]:
    return tokens[:limit], len(tokens) > limit


def load_tokenizer(name: str) -> Tokenizer:
    """Return the tokenizer: a name of BUILT_IN, hf://org/name, or file, folder or URI of a tokenizer.json.

    Raises DataNotFound where its files are not to be had, ConfigInvalid for a name that means nothing.
    """
    if name == "bytes":
        return BytesTokenizer()
    if name in TIKTOKEN:
        return TiktokenTokenizer(name, _tiktoken(name))
    if name.startswith("hf://"):
        return _from_files(name, _hub_files(name))
    storage = Storage(name.removesuffix("/tokenizer.json") if name.endswith("/tokenizer.json") else name)
    files = {file: storage.read(file) for file in FILES if storage.exists(file)}
    if "tokenizer.json" in files:
        return _from_files(name, files)
    if "/" not in name and not storage.exists(""):
        near = difflib.get_close_matches(name, BUILT_IN, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(BUILT_IN)}, hf://org/name, or a path"
        raise WindlassError("ConfigInvalid", f"tokenizer {name}: no such name or folder; {hint}")
    raise WindlassError("DataNotFound", f"tokenizer {name}: there is no tokenizer.json")


def _tiktoken(name: str) -> "tiktoken.Encoding":
    import requests  # as tiktoken does, to fetch its ranks
    import tiktoken

    try:
        return tiktoken.get_encoding(TIKTOKEN[name])
    except (requests.RequestException, OSError) as error:
        raise WindlassError(
            "DataNotFound",
            f"tokenizer {name}: tiktoken cannot download its ranks; allow the download once, "
            f"or point TIKTOKEN_CACHE_DIR to a folder that has them ({type(error).__name__})",
        ) from error


def _hub_files(name: str) -> dict[str, bytes]:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    files = {}
    for file in FILES:
        try:
            files[file] = Path(hf_hub_download(name.removeprefix("hf://"), file)).read_bytes()
        except (LocalEntryNotFoundError, OSError) as error:
            if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
                continue  # the repository has no such file
            message = f"tokenizer {name}: cannot be downloaded and is not in HF_HOME; check name, token and network"
            raise WindlassError("DataNotFound", f"{message} ({type(error).__name__})") from error
    if "tokenizer.json" not in files:
        raise WindlassError("DataNotFound", f"tokenizer {name}: the repository has no tokenizer.json")
    return files


def _from_files(name: str, files: dict[str, bytes]) -> Tokenizer:
    import tokenizers

    content = hashlib.sha256(files["tokenizer.json"]).hexdigest()[:32]
    config = json.loads(files.get("tokenizer_config.json", b"{}"))
    saved = config.get("windlass", {})
    ours = saved.get("content") == content  # our own files, unchanged since
    if ours and saved["name"] == "bytes":
        return BytesTokenizer()
    try:
        tokenizer = tokenizers.Tokenizer.from_str(files["tokenizer.json"].decode())
    except Exception as error:  # tokenizers has no class of its own for it
        raise WindlassError("DataCorrupt", f"tokenizer {name}: tokenizer.json cannot be read: {error}") from error
    tokenizer.no_truncation()  # some files ask for it, and for padding, for every text
    tokenizer.no_padding()
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    return HuggingFaceTokenizer(
        name=saved["name"] if ours else name,
        vocab_size=max(vocabulary.values()) + 1,
        end_of_document=_end(name, config.get("eos_token"), vocabulary),
        fingerprint=saved["fingerprint"] if ours else content,
        tokenizer=tokenizer,
        files=files,
    )


def _end(name: str, configured: Any, vocabulary: dict[str, int]) -> int:
    token = configured["content"] if isinstance(configured, dict) else configured
    for candidate in (token, *_ENDS):
        if candidate in vocabulary:
            return vocabulary[candidate]
    message = f"tokenizer {name}: no token ends a document; name it as eos_token in tokenizer_config.json"
    raise WindlassError("ConfigInvalid", message)


def _save_bpe(
    tokenizer: Tokenizer,
    folder: Path,
    vocabulary: dict[str, int],
    special: dict[str, int],
    merges: list[tuple[str, str]],
    pattern: str | None,
) -> None:
    """Write a byte-level BPE that splits text by `pattern` first, in Hugging Face layout."""
    from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as Fast

    # A piece that is a token is taken whole, as tiktoken does. Without a pattern a piece can be a special token's name.
    fast = Fast(models.BPE(vocabulary | special, merges, ignore_merges=pattern is not None))
    split = [pre_tokenizers.Split(Regex(pattern), behavior="isolated")] if pattern else []
    bytes_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    fast.pre_tokenizer = pre_tokenizers.Sequence([*split, bytes_level])
    fast.decoder = decoders.ByteLevel()
    fast.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in special])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(fast.to_str(pretty=True), encoding="utf-8")  # its own save hides a full disk
    content = hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest()[:32]
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "clean_up_tokenization_spaces": False,
        "windlass": {"name": tokenizer.name, "fingerprint": tokenizer.fingerprint, "content": content},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def _merges(ranks: dict[bytes, int]) -> list[tuple[str, str]]:
    """Return all pairs of tokens that make a token, by the rank of what they make: the order tiktoken merges in."""
    merges = []
    for token in sorted(ranks, key=ranks.__getitem__):
        cuts = range(1, len(token))
        pairs = [(token[:cut], token[cut:]) for cut in cuts if token[:cut] in ranks and token[cut:] in ranks]
        merges += sorted(pairs, key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
    return [(_shown(left), _shown(right)) for left, right in merges]


def _byte_characters() -> dict[int, str]:
    """Return the printable character that stands for each byte in GPT-2's vocabulary files."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    spare = iter(range(256, 512))
    return {byte: chr(byte) if byte in printable else chr(next(spare)) for byte in range(256)}


_BYTE_CHARACTERS = _byte_characters()


def _shown(token: bytes) -> str:
    return token.decode("latin-1").translate(_BYTE_CHARACTERS)
