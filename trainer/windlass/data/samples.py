"""The training samples of weighted corpora by their position in the global order: where they lie, and their tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from windlass.data.corpus import Corpus, Split
from windlass.data.order import Mixture, SampleOrder
from windlass.errors import WindlassError
from windlass.storage import shown

WeightedCorpora = Sequence[tuple[Corpus, float]]


@dataclass(frozen=True)
class Windows:
    """How a split is cut into samples of `length` tokens and one more, the last one's label."""

    length: int
    stride: int | None = None
    """Tokens from one sample's start to the next; default: `length`."""
    packing: bool = True
    """False: a sample is one document, cut where it is longer and padded where it is shorter."""

    def order(self, corpus: Corpus, seed: int) -> SampleOrder:
        """Return the order of the corpus's training samples."""
        split = corpus.split("train")
        starts = None if self.packing else document_starts(split)
        stride = self.stride if self.packing else None
        return SampleOrder(corpus.id, seed, self.length, split.tokens, split.block_tokens, stride, starts)


@dataclass(frozen=True)
class Rows:
    """The tokens of some samples."""

    tokens: NDArray[Any]
    """[n, length + 1]"""
    lengths: NDArray[np.int64] | None = None
    """[n] how many of them are the sample's; the rest pads. None: all."""
    documents: NDArray[np.int64] | None = None
    """[n, length + 1] the number of the token's document in its split."""

    def __getitem__(self, rows: "slice | NDArray[np.int64]") -> "Rows":
        lengths = None if self.lengths is None else self.lengths[rows]
        return Rows(self.tokens[rows], lengths, None if self.documents is None else self.documents[rows])

    @classmethod
    def stacked(cls, parts: Sequence["Rows"]) -> "Rows":
        """Return the rows of all parts."""
        lengths = [part.lengths for part in parts if part.lengths is not None]
        documents = [part.documents for part in parts if part.documents is not None]
        return cls(
            np.concatenate([part.tokens for part in parts]),
            np.concatenate(lengths) if lengths else None,
            np.concatenate(documents) if documents else None,
        )


class Samples:
    """All samples of a mixture; the blocks that come next are fetched while these are used."""

    def __init__(self, corpora: WeightedCorpora, windows: Windows, seed: int, *, document_mask: bool = False) -> None:
        """Raises ConfigInvalid for a corpus of which not one sample can be cut."""
        self._windows = windows
        self._document_mask = document_mask
        self._mixture = Mixture.of([weight for _, weight in corpora])
        self._sources = [_Source(corpus.split("train"), windows.order(corpus, seed)) for corpus, _ in corpora]
        self.per_epoch = sum(source.order.samples for source in self._sources)
        """Samples in one pass; of a mixture, as many as its corpora have together."""
        self._padding = [corpus.manifest.tokenizer.end_of_document for corpus, _ in corpora]
        self.dtype = np.result_type(*(source.split.dtype for source in self._sources))
        """In which all tokens can be stored."""
        self._unique = {id(corpus.counts): corpus.counts for corpus, _ in corpora}.values()

    def require(self, corpora: WeightedCorpora, global_batch_size: int) -> None:
        """Raise ConfigInvalid unless there are samples for a batch of this size."""
        for (corpus, _), source in zip(corpora, self._sources, strict=True):
            if self.per_epoch < global_batch_size or not source.order.samples:
                raise WindlassError(
                    "ConfigInvalid",
                    f"corpus {shown(corpus.uri)} is too small: its {source.split.tokens} training tokens are "
                    f"{source.order.samples} sequences of {self._windows.length}, and one batch has "
                    f"{global_batch_size}; lower globalBatchSize or sequenceLength, or add data",
                )

    def counts(self) -> dict[str, int]:
        """Return what reading took so far, by name: see `windlass.ranges.ReadCounts`."""
        found: dict[str, int] = {}
        for counts in self._unique:
            for name, amount in counts.amounts().items():
                found[name] = found.get(name, 0) + amount
        return found

    def read(self, positions: NDArray[np.int64], dtype: DTypeLike) -> Rows:
        """Return the samples at these positions of the global order, in `dtype`."""
        corpora, places = self._mixture.at(positions)
        mine = {number: np.flatnonzero(corpora == number) for number in np.unique(corpora).tolist()}
        # Blocks of all corpora are on their way before the first is waited for.
        samples = {
            number: self._sources[number].begin(places[rows], self._windows.length) for number, rows in mine.items()
        }
        parts = [self._rows(number, samples[number], dtype) for number in mine]
        return parts[0] if len(parts) == 1 else Rows.stacked(parts)[np.argsort(np.concatenate(list(mine.values())))]

    def read_ahead(self) -> None:
        """Fetch the blocks that come after these; only once these are read, so that the first are not held up."""
        for source in self._sources:
            source.read_ahead(self._windows.length)

    def _rows(self, number: int, samples: NDArray[np.int64], dtype: DTypeLike) -> Rows:
        source = self._sources[number]
        starts = source.order.start(samples)
        if not self._windows.packing:
            ends = source.split.document_ends()[samples]
            return padded(source.split, starts, ends, self._windows.length, self._padding[number], dtype)
        length = self._windows.length + 1
        documents = documents_of(source.split, starts, length) if self._document_mask else None
        return Rows(source.split.windows(starts, length, dtype), None, documents)


class _Source:
    """A training split in its order, and the fetching of the blocks that the order needs now and next."""

    def __init__(self, split: Split, order: SampleOrder) -> None:
        self.split = split
        self.order = order
        self._position = 0
        self._near: set[int] = set()
        self._fetched: set[int] = set()

    def begin(self, positions: NDArray[np.int64], reach: int) -> NDArray[np.int64]:
        """Return the samples at these positions, whose blocks are on their way from here on."""
        self._position = int(positions[-1])
        self._near = self._fetch(int(positions[0]), 0, reach) | self._fetch(self._position, 0, reach)
        return self.order.at(positions)

    def read_ahead(self, reach: int) -> None:
        """Fetch the window after this one."""
        self._fetched &= self._near | self._fetch(self._position, 1, reach)

    def _fetch(self, position: int, ahead: int, reach: int) -> set[int]:
        wanted = set(self.order.window(position, ahead).tolist())
        if missing := wanted - self._fetched:
            self.split.prefetch(sorted(missing), reach)
            self._fetched |= wanted
        return wanted


def document_starts(split: Split) -> NDArray[np.int64]:
    """Return where each document starts, in tokens, [documents]."""
    return np.concatenate([[0], split.document_ends()[:-1]])


def documents_of(split: Split, starts: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Return the number of the document of each of `length` tokens from each start, [n, length]."""
    return np.searchsorted(split.document_ends(), starts[:, None] + np.arange(length), side="right")


def padded(
    split: Split, starts: NDArray[np.int64], ends: NDArray[np.int64], length: int, padding: int, dtype: DTypeLike
) -> Rows:
    """Return the first `length` + 1 tokens of each document, and `padding` where it has fewer."""
    lengths = np.minimum(ends - starts, length + 1)
    tokens = np.full((len(starts), length + 1), padding, dtype)
    for row, (start, size) in enumerate(zip(starts.tolist(), lengths.tolist(), strict=True)):
        tokens[row, :size] = split.read(start, start + size)
    return Rows(tokens, lengths)
