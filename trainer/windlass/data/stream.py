"""Training batches of one rank, in the global order, made ahead by a background thread."""

import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from windlass.data.corpus import Corpus, Split
from windlass.data.order import Mixture, SampleOrder
from windlass.errors import WindlassError
from windlass.storage import shown

IGNORED = -100
"""The label that no loss counts."""

WeightedCorpora = Sequence[tuple[Corpus, float]]


@dataclass(frozen=True)
class Batch:
    """Sequences for one forward pass."""

    inputs: NDArray[np.int64]
    """[micro batch, sequence] token ids."""
    labels: NDArray[np.int64]
    """[micro batch, sequence] the next token of each; IGNORED does not count."""
    documents: NDArray[np.int64] | None = None
    """[micro batch, sequence] number of the token's document, from 0 in each row; None: attention crosses documents."""


class TrainingStream:
    """An endless iterator over optimizer steps: the list of micro-batches that this rank computes.

    Step s takes the global samples start_sample + [s * G, (s + 1) * G), of which each rank has a contiguous G / W.
    """

    def __init__(
        self,
        corpora: WeightedCorpora,
        *,
        sequence_length: int,
        seed: int,
        global_batch_size: int,
        micro_batch_size: int,
        rank: int,
        world_size: int,
        start_sample: int,
        document_mask: bool = False,
        prefetch_steps: int = 2,
    ) -> None:
        """Start reading ahead. Raises ConfigInvalid where batch, ranks and corpora do not fit together."""
        if global_batch_size % (world_size * micro_batch_size):
            raise WindlassError(
                "ConfigInvalid",
                f"globalBatchSize {global_batch_size} is no multiple of {world_size} ranks x {micro_batch_size}",
            )
        self._sources = [
            _Source(corpus.split("train"), sample_order(corpus, sequence_length, seed)) for corpus, _ in corpora
        ]
        self._mixture = Mixture.of([weight for _, weight in corpora])
        self.samples_per_epoch = sum(source.order.samples for source in self._sources)
        """Samples in one pass, over all ranks; of a mixture, as many as its corpora have together."""
        for (corpus, _), source in zip(corpora, self._sources, strict=True):
            if self.samples_per_epoch < global_batch_size or not source.order.samples:
                raise WindlassError(
                    "ConfigInvalid",
                    f"corpus {shown(corpus.uri)} is too small: its {source.split.tokens} training tokens are "
                    f"{source.order.samples} sequences of {sequence_length}, and one batch has {global_batch_size}; "
                    "lower globalBatchSize or sequenceLength, or add data",
                )
        self._length = sequence_length
        self._micro_batch_size = micro_batch_size
        self._global_batch_size = global_batch_size
        self._share = global_batch_size // world_size
        self._first = start_sample + rank * self._share
        self._document_mask = document_mask
        self._ready: queue.Queue[list[Batch] | BaseException] = queue.Queue(maxsize=max(1, prefetch_steps))
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._produce, name="training-stream", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[list[Batch]]:
        return self

    def __next__(self) -> list[Batch]:
        """Return the next step's micro-batches; raises what reading them raised."""
        if self._closed.is_set():
            raise StopIteration
        step = self._ready.get()
        if isinstance(step, BaseException):
            self._closed.set()
            raise step
        return step

    def __enter__(self) -> "TrainingStream":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop reading ahead; the thread ends with the read that it is in."""
        self._closed.set()
        while not self._ready.empty():  # room for the thread to see it
            self._ready.get_nowait()

    def _produce(self) -> None:
        first = self._first
        while not self._closed.is_set():
            try:
                step: list[Batch] | BaseException = self._step(first)
            except BaseException as error:  # noqa: BLE001 - raised again where the step is asked for
                step = error
            self._ready.put(step)
            if isinstance(step, BaseException):
                return
            first += self._global_batch_size

    def _step(self, first: int) -> list[Batch]:
        corpora, places = self._mixture.at(np.arange(first, first + self._share))
        samples = np.empty_like(places)
        for number, source in enumerate(self._sources):
            mine = corpora == number
            samples[mine] = source.begin(places[mine])
        size = self._micro_batch_size
        batches = [self._batch(corpora[at : at + size], samples[at : at + size]) for at in range(0, self._share, size)]
        for source in self._sources:
            source.read_ahead()
        return batches

    def _batch(self, corpora: NDArray[np.int64], samples: NDArray[np.int64]) -> Batch:
        tokens = np.empty((len(samples), self._length + 1), np.int64)
        documents = np.empty_like(tokens) if self._document_mask else None
        for number in np.unique(corpora).tolist():
            rows = corpora == number
            starts = samples[rows] * self._length
            tokens[rows] = self._sources[number].split.windows(starts, self._length + 1)
            if documents is not None:
                documents[rows] = self._sources[number].documents(starts, self._length + 1)
        batch = _shifted(tokens)
        if documents is None:
            return batch
        # The first token of a document cannot be told from the one before it, which may not be looked at.
        batch.labels[documents[:, 1:] != documents[:, :-1]] = IGNORED
        return Batch(batch.inputs, batch.labels, documents[:, :-1] - documents[:, :1])


class _Source:
    """A training split in its order, and the fetching of the blocks that the order needs now and next."""

    def __init__(self, split: Split, order: SampleOrder) -> None:
        self.split = split
        self.order = order
        self._ends: NDArray[np.uint64] | None = None
        self._position = 0
        self._near: set[int] = set()
        self._fetched: set[int] = set()

    def begin(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the samples at these positions, whose blocks are on their way from here on."""
        if len(positions):
            self._position = int(positions[-1])
            self._near = self._fetch(ahead=0)
        return self.order.at(positions)

    def read_ahead(self) -> None:
        """Fetch the window after this one; only once this one is read, so that the first batch is not held up."""
        self._fetched &= self._near | self._fetch(ahead=1)

    def _fetch(self, ahead: int) -> set[int]:
        # Each block with its neighbour, which its last sample reaches into.
        wanted = {block + after for block in self.order.window(self._position, ahead).tolist() for after in (0, 1)}
        self.split.prefetch(sorted(wanted - self._fetched))
        self._fetched |= wanted
        return wanted

    def documents(self, starts: NDArray[np.int64], length: int) -> NDArray[np.int64]:
        """Return the number of the document of each of `length` tokens from each start, [n, length]."""
        if self._ends is None:
            self._ends = self.split.document_ends()
        return np.searchsorted(self._ends, (starts[:, None] + np.arange(length)).astype(np.uint64), side="right")


def validation_batches(
    corpora: WeightedCorpora, *, sequence_length: int, batch_size: int, max_tokens: int, rank: int, world_size: int
) -> Iterator[Batch]:
    """Yield this rank's part of the same windows every time, whatever the world size: spread evenly over the splits.

    About `max_tokens` labels in all, shared among the corpora by weight; the last batch may have fewer rows, and a rank
    may get none. Raises ConfigInvalid where a validation split is shorter than one sequence.
    """
    weights = np.array([weight for _, weight in corpora])
    wanted = np.maximum(1, weights / weights.sum() * (max_tokens // sequence_length)).astype(np.int64)
    windows: list[tuple[Split, int]] = []
    for (corpus, _), share in zip(corpora, wanted.tolist(), strict=True):
        split = corpus.split("validation")
        there = (split.tokens - 1) // sequence_length
        if there < 1:
            raise WindlassError(
                "ConfigInvalid",
                f"corpus {shown(corpus.uri)} has {split.tokens} validation tokens, fewer than one sequence of "
                f"{sequence_length}; raise validationFraction or lower sequenceLength",
            )
        count = min(share, there)
        windows += [(split, i * there // count * sequence_length) for i in range(count)]
    mine = windows[rank::world_size]
    for at in range(0, len(mine), batch_size):
        rows = [split.read(start, start + sequence_length + 1) for split, start in mine[at : at + batch_size]]
        yield _shifted(np.stack(rows))


def sample_order(corpus: Corpus, sequence_length: int, seed: int) -> SampleOrder:
    """Return the order of the corpus's training samples."""
    split = corpus.split("train")
    return SampleOrder(corpus.id, seed, sequence_length, split.tokens, split.block_tokens)


def _shifted(tokens: NDArray[Any]) -> Batch:
    """Return [rows, sequence + 1] tokens as inputs and the labels one further."""
    return Batch(tokens[:, :-1].astype(np.int64), tokens[:, 1:].astype(np.int64))
