"""Packed examples: each whole and once, in few sequences, told apart by their document."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from windlass.data.buckets import Example, padded_batch
from windlass.data.packing import pack


@given(st.lists(st.integers(1, 50), min_size=1, max_size=60))
def test_each_example_is_in_one_sequence_as_a_document(lengths: list[int]) -> None:
    examples = [Example(np.full(length, n), np.full(length, n + 1000)) for n, length in enumerate(lengths)]
    packed = pack(examples, 50)
    found = []
    for sequence in packed:
        assert len(sequence.inputs) <= 50
        assert sequence.documents is not None
        for document in range(sequence.documents.max() + 1):
            mine = sequence.documents == document
            [number] = set(sequence.inputs[mine].tolist())
            assert (sequence.labels[mine] == number + 1000).all()
            assert mine.sum() == lengths[number]
            found.append(number)
    assert sorted(found) == list(range(len(lengths)))
    assert sum(len(sequence.inputs) <= 25 for sequence in packed) <= 1  # two of them would have shared one


def test_what_pads_a_packed_batch_is_in_no_document_of_its_examples() -> None:
    examples = pack([Example(np.array([1, 2]), np.array([2, 3])), Example(np.array([4]), np.array([5]))], 4)
    batch = padded_batch(examples, padding=0, multiple=4)
    assert batch.documents is not None
    assert batch.inputs.tolist() == [[1, 2, 4, 0]]
    assert batch.documents.tolist() == [[0, 0, 1, -1]]
    assert batch.read == 3
