"""What a corpus holds, and what the model sees of it, for people."""

from collections.abc import Callable
from itertools import islice, pairwise

import numpy as np

from windlass.data.corpus import SPLITS, Corpus, LeftOut
from windlass.data.preparation.card import CARD
from windlass.data.stream import sample_order
from windlass.data.tokenizers import Tokenizer
from windlass.errors import WindlassError
from windlass.storage import Storage, shown

_PAIRS = 8  # inputs and labels shown of each sample


def describe(corpus: Corpus) -> list[str]:
    """Return lines that say what the corpus is made of."""
    manifest = corpus.manifest
    tokenizer = manifest.tokenizer
    lines = [
        f"corpus      {corpus.id} at {shown(corpus.uri)}",
        f"tokenizer   {tokenizer.name}, {tokenizer.vocab_size:,} tokens, as {manifest.token_type}",
    ]
    for name in SPLITS:
        split = manifest.splits[name]
        ratio = f", {split.bytes / split.tokens:.2f} bytes each" if split.tokens else ""
        size = sum(shard.size for shard in split.shards)
        lines.append(
            f"{name:<11} {split.tokens:,} tokens{ratio}, {split.documents:,} documents, "
            f"{len(split.shards)} shards of {size / 2**20:,.1f} MiB together"
        )
    lines += [f"source      {source['uri']}" for source in manifest.preparation.sources]
    left_out = {"not UTF-8": manifest.preparation.not_utf8, "empty": manifest.preparation.empty}
    return lines + [_left_out(kind, documents) for kind, documents in left_out.items() if documents.count]


def card_of(corpus: Corpus) -> list[str]:
    """Return the lines of the corpus's card; none where it has none."""
    folder = Storage(corpus.uri).child(corpus.manifest.folder)
    return folder.read(CARD).decode().splitlines() if folder.exists(CARD) else []


def samples(corpus: Corpus, *, sequence_length: int, seed: int, count: int = 3, first: int = 0) -> list[str]:
    """Return `count` training samples in the order of training: where each lies, its text, its inputs and labels."""
    order = sample_order(corpus, sequence_length, seed)
    if not order.samples:
        message = f"corpus {shown(corpus.uri)} has {order.tokens} training tokens, fewer than {sequence_length} and one"
        raise WindlassError("ConfigInvalid", f"{message}; choose a shorter sequence")
    split, tokenizer = corpus.split("train"), corpus.tokenizer()
    ends = split.document_ends()
    lines = []
    for position, sample in enumerate(order.at(np.arange(first, first + count)).tolist(), first):
        start = sample * sequence_length
        tokens = split.read(start, start + sequence_length + 1).tolist()
        documents = np.searchsorted(ends, [start, start + sequence_length - 1], side="right") + 1
        place = f"tokens {start:,} to {start + sequence_length:,}, documents {documents[0]:,} to {documents[1]:,}"
        lines += [f"position {position:,} is sample {sample:,}: {place}", *_text(tokenizer, tokens[:-1])]
        pairs = islice(pairwise(tokens), _PAIRS)
        lines += [f"    {_token(tokenizer, token)} -> {_token(tokenizer, label)}" for token, label in pairs]
    return lines


def verify(corpus: Corpus, progress: Callable[[str], None] = lambda line: None) -> int:
    """Check every hash of the corpus; return the bytes checked. DataCorrupt names the first block that differs."""
    checked = 0
    for name in SPLITS:
        for size in corpus.split(name).verify():
            checked += size
            progress(f"verified {checked / 2**20:,.1f} MiB")
    return checked


def _text(tokenizer: Tokenizer, tokens: list[int]) -> list[str]:
    """Return the text's lines, a rule where a document ends."""
    lines: list[str] = []
    document: list[int] = []
    for token in tokens:
        if token == tokenizer.end_of_document:
            lines += [*_quoted(tokenizer, document), "  --- end of document ---"]
            document = []
        else:
            document.append(token)
    return lines + _quoted(tokenizer, document)


def _quoted(tokenizer: Tokenizer, tokens: list[int]) -> list[str]:
    return [f"  | {line}" for line in tokenizer.decode(tokens).splitlines()] if tokens else []


def _token(tokenizer: Tokenizer, token: int) -> str:
    return f"{token} {tokenizer.decode([token])!r}"


def _left_out(kind: str, documents: LeftOut) -> str:
    names = ", ".join(documents.names) + (", ..." if documents.count > len(documents.names) else "")
    return f"left out    {documents.count:,} {kind}: {names}"
