"""Batches of examples of like length, so that little of them pads: the order, a pure function, and the stream.

For tasks whose samples are examples of their own, such as instructions or texts to classify. Like the order of tokens
it depends on no rank, gives every sample once an epoch, and starts anywhere.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import count
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from windlass.data.order import Indices, key, permutation
from windlass.data.stream import IGNORED, Batch, Stream
from windlass.errors import WindlassError

PADDING_DOCUMENT = -1
"""Of tokens that pad, which see one another alone."""
POOL = 64
"""Batches among which samples are sorted by length: more pads less, and mixes less."""


class Example(NamedTuple):
    """A sample of its own length, or several that share a sequence."""

    inputs: NDArray[np.int64]
    """[length] token ids."""
    labels: NDArray[np.int64]
    """[length]; labels of IGNORED do not count."""
    documents: NDArray[np.int64] | None = None
    """[length] number of the token's document, from 0; None: there is one."""
    reference: float | None = None
    """Of one of a pair of answers: as of `Batch.reference`."""


@dataclass(frozen=True, eq=False)
class LengthOrder:
    """The order of examples: shuffled, sorted by length within pools of batches, and the batches shuffled again.

    Positions [s * G, (s + 1) * G) are step s's global batch G, in any epoch: one that begins in mid-batch first
    completes it.
    """

    name: str
    """What the order depends on besides: a corpus's id."""
    seed: int
    lengths: Indices
    """[samples] tokens of each."""
    batch: int
    """G."""
    pool: int = POOL
    """Batches of a pool; 1 leaves batches as they were shuffled."""

    @property
    def samples(self) -> int:
        """Samples in an epoch."""
        return len(self.lengths)

    def at(self, positions: Indices) -> Indices:
        """Return the sample at each position, [n]; position `samples` begins the second epoch, in another order."""
        epochs, places = np.divmod(positions, self.samples)
        found = np.empty_like(positions)
        for epoch in np.unique(epochs).tolist():
            mine = epochs == epoch
            found[mine] = self._epoch(epoch)[places[mine]]
        return found

    @cached_property
    def _epoch(self) -> Callable[[int], Indices]:
        """epoch -> its samples in their order."""

        def order(epoch: int) -> Indices:
            shuffled = permutation(self._key(epoch, "samples"), self.samples)
            head = min(-epoch * self.samples % self.batch, self.samples)  # completes the last epoch's batch
            tail = (self.samples - head) % self.batch
            middle = shuffled[head : self.samples - tail]
            pool = self.pool * self.batch
            pools = [middle[at : at + pool] for at in range(0, len(middle), pool)]
            pooled = [pool[np.argsort(self.lengths[pool], kind="stable")].reshape(-1, self.batch) for pool in pools]
            batches = np.concatenate([middle[:0].reshape(0, self.batch), *pooled])
            batches = batches[permutation(self._key(epoch, "batches"), len(batches))]
            return np.concatenate([shuffled[:head], batches.ravel(), shuffled[self.samples - tail :]])

        return lru_cache(maxsize=2)(order)

    def _key(self, epoch: int, use: str) -> int:
        return key(f"{self.name}/{self.seed}/{epoch}/by length/{use}")


class ExampleStream(Stream[list[Batch]]):
    """An endless iterator over optimizer steps, as TrainingStream: the micro-batches that this rank computes."""

    def __init__(
        self,
        order: LengthOrder,
        read: Callable[[Indices], Sequence[Example]],
        *,
        micro_batch_size: int,
        rank: int,
        world_size: int,
        start_sample: int,
        padding: int,
        multiple: int = 8,
        prefetch_steps: int = 2,
    ) -> None:
        """Start reading ahead; `read` returns examples by sample, in a thread of its own: one each, or two that are a
        pair.

        A micro-batch is as long as its longest example, rounded up to a `multiple` of tokens, and filled with the token
        `padding`. Raises ConfigInvalid where batch, ranks and examples do not fit together.
        """
        if order.batch % (world_size * micro_batch_size) or order.samples < order.batch:
            raise WindlassError(
                "ConfigInvalid",
                f"globalBatchSize {order.batch} has to be a multiple of {world_size} ranks x {micro_batch_size}, and "
                f"at most the {order.samples} examples",
            )
        share = order.batch // world_size

        def steps() -> Iterator[list[list[Batch]]]:
            for step in count():
                first = start_sample + step * order.batch + rank * share
                examples = read(order.at(np.arange(first, first + share)))
                rows = len(examples) // share * micro_batch_size
                parts = [examples[at : at + rows] for at in range(0, len(examples), rows)]
                yield [[padded_batch(part, padding, multiple) for part in parts]]

        super().__init__(steps(), prefetch_steps, order.samples)


def padded_batch(examples: Sequence[Example], padding: int, multiple: int = 1) -> Batch:
    """Return examples as one batch, as long as the longest and a `multiple`; what pads does not count."""
    lengths = [len(example.inputs) for example in examples]
    shape = len(examples), -(-max(lengths) // multiple) * multiple
    references = [example.reference for example in examples]
    packed = any(example.documents is not None for example in examples)
    batch = Batch(
        inputs=np.full(shape, padding, np.int64),
        labels=np.full(shape, IGNORED, np.int64),
        documents=np.full(shape, PADDING_DOCUMENT) if packed else None,
        read=sum(lengths),
        reference=None if references[0] is None else np.array(references, np.float32),
    )
    for row, (example, length) in enumerate(zip(examples, lengths, strict=True)):
        batch.inputs[row, :length] = example.inputs
        batch.labels[row, :length] = example.labels
        if batch.documents is not None:
            batch.documents[row, :length] = 0 if example.documents is None else example.documents
    return batch
