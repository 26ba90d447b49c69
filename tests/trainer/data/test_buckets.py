"""Batches by length: each example once an epoch, the same for any ranks and from anywhere, with little padding."""

from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from windlass.data.buckets import Example, ExampleStream, LengthOrder, padded_batch
from windlass.data.stream import IGNORED
from windlass.errors import WindlassError

orders = st.builds(
    lambda lengths, batch, seed: LengthOrder("corpus", seed, np.array(lengths, np.int64), batch),
    lengths=st.lists(st.integers(1, 500), min_size=1, max_size=300),
    batch=st.integers(1, 12),
    seed=st.integers(0, 2**40),
)


@given(orders, st.integers(0, 6))
def test_every_epoch_has_every_example_once(order: LengthOrder, epoch: int) -> None:
    positions = np.arange(order.samples) + epoch * order.samples
    assert sorted(order.at(positions)) == list(range(order.samples))


@given(orders, st.data())
def test_any_part_is_what_the_whole_says(order: LengthOrder, data: st.DataObject) -> None:
    whole = order.at(np.arange(3 * order.samples))
    positions = np.array(data.draw(st.lists(st.integers(0, 3 * order.samples - 1), max_size=40)), np.int64)
    assert order.at(positions).tolist() == whole[positions].tolist()


def test_batches_of_every_epoch_pad_little_and_epochs_differ() -> None:
    lengths = np.random.default_rng(1).integers(1, 1000, 5003)
    order = LengthOrder("corpus", 7, lengths, 16)
    batches = order.at(np.arange(4 * 5003 // 16 * 16)).reshape(-1, 16)
    longest = lengths[batches].max(axis=1)
    assert 16 * longest.sum() / lengths[batches].sum() < 1.08
    assert np.abs(np.corrcoef(np.arange(len(longest)), longest)[0, 1]) < 0.1  # short ones do not come first
    assert len({tuple(sorted(batch)) for batch in batches.tolist()}) == len(batches)


def test_the_order_never_changes_between_versions() -> None:
    order = LengthOrder("corpus", 1337, np.arange(20)[::-1].copy(), 4)
    assert order.at(np.arange(20)).tolist() == [15, 14, 13, 12, 11, 10, 9, 8, 19, 18, 17, 16, 3, 2, 1, 0, 7, 6, 5, 4]


def stream(world: int = 1, rank: int = 0, micro: int = 1, first: int = 0, lengths: int = 50) -> ExampleStream:
    sizes = np.arange(lengths) % 17 + 1

    def read(samples: NDArray[np.int64]) -> list[Example]:
        return [Example(np.full(sizes[sample], sample), np.full(sizes[sample], sample + 1000)) for sample in samples]

    order = LengthOrder("corpus", 7, sizes, 12)
    where = {"rank": rank, "world_size": world, "start_sample": first, "micro_batch_size": micro}
    return ExampleStream(order, read, padding=999, **where)


def seen(steps: int, world: int = 1, micro: int = 1, first: int = 0) -> list[list[int]]:
    """The samples of each step, over all ranks."""
    found: list[list[int]] = [[] for _ in range(steps)]
    for rank in range(world):
        with stream(world, rank, micro, first) as batches:
            for step, micro_batches in enumerate(islice(batches, steps)):
                found[step] += [int(row[0]) for batch in micro_batches for row in batch.inputs]
    return found


def test_any_world_size_and_micro_batch_sees_the_same_steps_from_anywhere() -> None:
    one = seen(9)
    for world, micro in ((1, 4), (2, 3), (4, 3), (12, 1)):
        assert seen(9, world, micro) == one
    assert seen(4, 3, 2, first=5 * 12) == one[5:]


def test_a_micro_batch_is_as_long_as_its_longest_example_and_padding_does_not_count() -> None:
    for batch in next(stream(micro=4)):
        counted = batch.labels != IGNORED
        assert batch.inputs.shape == batch.labels.shape
        assert batch.inputs.shape[1] == -(-counted.sum(axis=1).max() // 8) * 8
        assert (batch.inputs[counted] + 1000 == batch.labels[counted]).all()
        assert (batch.inputs[~counted] == 999).all()


def test_examples_that_do_not_fit_the_batch_are_refused_with_the_numbers() -> None:
    with pytest.raises(WindlassError, match="globalBatchSize 12 has to be a multiple of 5 ranks x 1"):
        stream(world=5)
    with pytest.raises(WindlassError, match="at most the 11 examples"):
        stream(lengths=11)


def test_examples_become_one_batch() -> None:
    batch = padded_batch(
        [Example(np.array([1, 2]), np.array([2, IGNORED])), Example(np.array([3]), np.array([4]))], padding=0
    )
    assert batch.inputs.tolist() == [[1, 2], [3, 0]]
    assert batch.labels.tolist() == [[2, IGNORED], [4, IGNORED]]
    assert batch.read == 3
