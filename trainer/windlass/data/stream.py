"""Training batches of one rank in the global order, and the windows that a model is validated on."""

from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from windlass.data.ahead import Ahead
from windlass.data.corpus import Corpus
from windlass.data.order import SampleOrder
from windlass.data.samples import Rows, Samples, WeightedCorpora, Windows, document_starts, documents_of, padded
from windlass.errors import WindlassError
from windlass.storage import shown

IGNORED = -100
"""The label that no loss counts."""
_LIST_TOKENS = 1 << 19
"""Steps are made by the list, of so many tokens: more would leave the processor's cache, fewer cost handing over."""
_LIST_STEPS = 32

T = TypeVar("T")


@dataclass(frozen=True)
class Batch:
    """Sequences for one forward pass."""

    inputs: NDArray[np.int64]
    """[micro batch, sequence] token ids."""
    labels: NDArray[np.int64]
    """[micro batch, sequence] the next token of each; IGNORED does not count. May be a view of what inputs views."""
    documents: NDArray[np.int64] | None = None
    """[micro batch, sequence] number of the token's document, from 0 in each row; None: attention crosses documents."""
    read: int | None = None
    """Tokens without those that pad, where not each of them has a label that counts; None: as many as labels."""
    reference: NDArray[np.float32] | None = None
    """[micro batch] of pairs of answers: log-probability of each, in nats, by the model that was started from. Rows are
    then a chosen answer and the rejected one after it, in turns, and the loss is a mean over pairs."""


class Stream(Generic[T]):
    """An endless iterator over this rank's part of each step, made ahead by a background thread."""

    def __init__(self, made: Iterator[list[T]], lists: int, samples_per_epoch: int) -> None:
        """Start making them."""
        self.samples_per_epoch = samples_per_epoch
        """Samples in one pass, over all ranks; of a mixture, as many as its corpora have together."""
        self._ahead = Ahead(made, lists)

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        """Return the next step; raises what reading it raised."""
        return next(self._ahead)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop reading ahead; the thread ends with the read that it is in."""
        self._ahead.close()

    def counts(self) -> dict[str, float]:
        """Return what the stream took so far: `waited_seconds` of the trainer; of reading: see ReadCounts."""
        return {"waited_seconds": round(self._ahead.waited_seconds, 6)}


class TokenStream(Stream[NDArray[np.integer]]):
    """This rank's part of each global batch as the corpus stores it: token ids, [batch / ranks, sequence + 1].

    Step s has the global samples start_sample + [s * G, (s + 1) * G), of which each rank has a contiguous G / W.
    """

    def __init__(
        self,
        corpora: WeightedCorpora,
        *,
        sequence_length: int,
        seed: int,
        global_batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        start_sample: int = 0,
        stride: int | None = None,
        prefetch_steps: int = 2,
    ) -> None:
        """Start reading ahead. Raises ConfigInvalid where batch, ranks and corpora do not fit together."""
        samples = Samples(corpora, Windows(sequence_length, stride), seed)
        share = _share(samples, corpora, global_batch_size, world_size, 1)
        steps = _steps_of_list(share, sequence_length)
        self._samples = samples
        lists = _lists(samples, start_sample + rank * share, share, global_batch_size, steps, samples.dtype)
        made = ([rows.tokens for rows in per_step] for per_step in lists)
        super().__init__(made, max(1, prefetch_steps // steps), samples.per_epoch)

    def counts(self) -> dict[str, float]:
        return super().counts() | self._samples.counts()


class TrainingStream(Stream[list[Batch]]):
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
        stride: int | None = None,
        packing: bool = True,
        document_mask: bool = False,
        prefetch_steps: int = 2,
    ) -> None:
        """Start reading ahead; `stride` and `packing` as of `Windows`.

        Raises ConfigInvalid where batch, ranks and corpora do not fit together.
        """
        self._samples = Samples(
            corpora, Windows(sequence_length, stride, packing), seed, document_mask=document_mask and packing
        )
        share = _share(self._samples, corpora, global_batch_size, world_size, micro_batch_size)
        steps = _steps_of_list(share, sequence_length)
        lists = _lists(self._samples, start_sample + rank * share, share, global_batch_size, steps, np.dtype(np.int64))
        made = ([_micro_batches(rows, micro_batch_size) for rows in per_step] for per_step in lists)
        super().__init__(made, max(1, prefetch_steps // steps), self._samples.per_epoch)

    def counts(self) -> dict[str, float]:
        return super().counts() | self._samples.counts()


def _share(
    samples: Samples, corpora: WeightedCorpora, global_batch_size: int, world_size: int, micro_batch_size: int
) -> int:
    """Return how many samples of a step a rank has."""
    if global_batch_size % (world_size * micro_batch_size):
        raise WindlassError(
            "ConfigInvalid",
            f"globalBatchSize {global_batch_size} is no multiple of {world_size} ranks x {micro_batch_size}",
        )
    samples.require(corpora, global_batch_size)
    return global_batch_size // world_size


def _steps_of_list(share: int, sequence_length: int) -> int:
    return min(_LIST_STEPS, max(1, _LIST_TOKENS // (share * (sequence_length + 1))))


def _lists(
    samples: Samples, first: int, share: int, global_batch_size: int, steps: int, dtype: np.dtype[Any]
) -> Iterator[list[Rows]]:
    """Yield this rank's rows of each step, in lists of up to `steps`; short ones first, to have them at once."""
    done, size = 0, 1
    while True:
        begins = first + (done + np.arange(size)) * global_batch_size
        rows = samples.read((begins[:, None] + np.arange(share)).ravel(), dtype)
        yield [rows[step * share : (step + 1) * share] for step in range(size)]
        samples.read_ahead()
        done += size
        size = min(2 * size, steps)


def _micro_batches(rows: Rows, size: int) -> list[Batch]:
    return [_batch(rows[at : at + size]) for at in range(0, len(rows.tokens), size)]


def _batch(rows: Rows) -> Batch:
    """Return the rows as inputs and the labels one further."""
    inputs, labels, documents = rows.tokens[:, :-1], rows.tokens[:, 1:], rows.documents
    if rows.lengths is not None:
        labels = np.where(np.arange(1, rows.tokens.shape[1]) < rows.lengths[:, None], labels, IGNORED)
    if documents is None:
        return Batch(inputs, labels)
    # The first token of a document cannot be told from the one before it, which may not be looked at.
    labels = np.where(documents[:, 1:] == documents[:, :-1], labels, IGNORED)
    return Batch(inputs, labels, documents[:, :-1] - documents[:, :1])


def validation_batches(
    corpora: WeightedCorpora,
    *,
    sequence_length: int,
    batch_size: int,
    max_tokens: int,
    rank: int,
    world_size: int,
    packing: bool = True,
    document_mask: bool = False,
) -> Iterator[Batch]:
    """Yield this rank's part of the same windows every time, whatever the world size: spread evenly over the splits.

    About `max_tokens` labels in all, shared among the corpora by weight; the last batch may have fewer rows, and a rank
    may get none. Raises ConfigInvalid where a validation split is shorter than one sequence.
    """
    weights = np.array([weight for _, weight in corpora])
    wanted = np.maximum(1, weights / weights.sum() * (max_tokens // sequence_length)).astype(np.int64)
    windows: list[tuple[Corpus, int]] = []
    for (corpus, _), share in zip(corpora, wanted.tolist(), strict=True):
        there = _validation_samples(corpus, sequence_length, packing)
        number = min(share, there)
        windows += [(corpus, i * there // number) for i in range(number)]
    mine = windows[rank::world_size]
    for at in range(0, len(mine), batch_size):
        rows = [
            _validation_row(corpus, sample, sequence_length, packing, document_mask)
            for corpus, sample in mine[at : at + batch_size]
        ]
        yield _batch(Rows.stacked(rows))


def _validation_samples(corpus: Corpus, sequence_length: int, packing: bool) -> int:
    split = corpus.split("validation")
    there = (split.tokens - 1) // sequence_length if packing else split.documents
    if there < 1:
        raise WindlassError(
            "ConfigInvalid",
            f"corpus {shown(corpus.uri)} has {split.tokens} validation tokens, fewer than one sequence of "
            f"{sequence_length}; raise validationFraction or lower sequenceLength",
        )
    return there


def _validation_row(corpus: Corpus, sample: int, sequence_length: int, packing: bool, document_mask: bool) -> Rows:
    split = corpus.split("validation")
    if not packing:
        starts, ends = document_starts(split)[[sample]], split.document_ends()[[sample]]
        return padded(split, starts, ends, sequence_length, corpus.manifest.tokenizer.end_of_document, np.int64)
    start = np.array([sample * sequence_length])
    length = sequence_length + 1
    documents = documents_of(split, start, length) if document_mask else None
    return Rows(split.windows(start, length), None, documents)


def sample_order(corpus: Corpus, sequence_length: int, seed: int) -> SampleOrder:
    """Return the order of the corpus's training samples."""
    return Windows(sequence_length).order(corpus, seed)
