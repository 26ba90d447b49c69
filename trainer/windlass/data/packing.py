"""Examples of their own lengths in sequences of one length, which they share without seeing one another."""

from bisect import bisect_left, insort
from collections.abc import Sequence

import numpy as np

from windlass.data.buckets import Example


def pack(examples: Sequence[Example], length: int) -> list[Example]:
    """The examples in sequences of at most `length` tokens: each in the fullest that has room, the longest first.

    Best fit decreasing, which needs at most 11/9 of the fewest sequences there can be (Johnson 1974).
    """
    rooms: list[tuple[int, int]] = []  # tokens that are free, and the sequence
    sequences: list[list[Example]] = []
    for example in sorted(examples, key=lambda example: -len(example.inputs)):
        size = len(example.inputs)
        place = bisect_left(rooms, (size, -1))
        if place == len(rooms):
            sequences.append([])
            room, number = length, len(sequences) - 1
        else:
            room, number = rooms.pop(place)
        sequences[number].append(example)
        insort(rooms, (room - size, number))
    return [_joined(sequence) for sequence in sequences]


def _joined(examples: Sequence[Example]) -> Example:
    return Example(
        np.concatenate([example.inputs for example in examples]),
        np.concatenate([example.labels for example in examples]),
        np.concatenate([np.full(len(example.inputs), number) for number, example in enumerate(examples)]),
    )
