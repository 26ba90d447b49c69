"""A byte-pair encoding of one's own, by the library `tokenizers`: byte-level, so that every text has tokens."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from windlass.data.sources.documents import documents
from windlass.data.sources.listing import list_files
from windlass.data.tokenizers import END_OF_TEXT, Tokenizer, load_tokenizer
from windlass.errors import WindlassError
from windlass.spec.job import RawData

# How text is split before merges: as for cl100k_base (tiktoken), words with their space and at most three digits.
_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
_BYTES = 256
_EVERY = 10_000  # documents between two lines of progress


def train_tokenizer(
    sources: Sequence[RawData],
    vocab_size: int,
    folder: Path,
    *,
    special: Sequence[str] = (),
    progress: Callable[[str], None] = lambda line: None,
) -> Tokenizer:
    """Write a byte-level BPE trained on all documents of the sources, in Hugging Face layout, and return it.

    <|endoftext|> and the `special` names get tokens of their own, within `vocab_size`. The same sources give the same
    tokenizer. Raises DataNotFound where there is no text, ConfigInvalid for too small a vocabulary or a folder that is
    there.
    """
    from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers
    from tokenizers import Tokenizer as Fast

    names = list(dict.fromkeys((END_OF_TEXT, *special)))
    if vocab_size < _BYTES + len(names):
        message = f"vocabulary of {vocab_size}: {_BYTES} bytes and {len(names)} special tokens need a larger one"
        raise WindlassError("ConfigInvalid", message)
    if folder.exists() and any(folder.iterdir()):
        raise WindlassError("ConfigInvalid", f"{folder} is not empty; name a new folder")
    fast = Fast(models.BPE())
    split = pre_tokenizers.Split(Regex(_PATTERN), behavior="isolated")
    fast.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    fast.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(name, special=True, normalized=False) for name in names],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    read = _Texts(sources, progress)
    fast.train_from_iterator(iter(read), trainer)
    if not read.count:
        raise WindlassError(
            "DataNotFound", f"{', '.join(source.uri for source in sources)}: there is no text to learn of"
        )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(fast.to_str(pretty=True), encoding="utf-8")  # its own save hides a full disk
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    return load_tokenizer(str(folder))


class _Texts:
    """The documents' texts, counted."""

    def __init__(self, sources: Sequence[RawData], progress: Callable[[str], None]) -> None:
        self._sources = sources
        self._progress = progress
        self.count = 0

    def __iter__(self) -> Iterator[str]:
        for source in self._sources:
            for file in list_files(source):
                for document in documents(source, file):
                    if document.text and document.text.strip():
                        self.count += 1
                        if self.count % _EVERY == 0:
                            self._progress(f"{self.count:,} documents")
                        yield document.text
