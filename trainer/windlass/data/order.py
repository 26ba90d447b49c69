"""The global order of training samples: position -> sample, a pure function with random access.

Order and mixture depend on nothing but their fields, never on ranks, so that any rank of any world size computes its
own part, and a resume needs one number. Why it is as it is: docs/decisions/0002-order-of-samples.md.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

WINDOW = 4
"""Blocks whose samples are shuffled together."""
_LONGEST_CYCLE = 65_536

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class SampleOrder:
    """The order of one split's samples; sample i is tokens [i * L, i * L + L] of the split, labels included."""

    corpus_id: str
    seed: int
    sequence_length: int
    tokens: int
    """Tokens in the split."""
    block_tokens: int
    """Tokens in a block, the unit that is read and verified."""

    @property
    def samples(self) -> int:
        """Samples in an epoch."""
        return max(0, (self.tokens - 1) // self.sequence_length)

    def at(self, positions: Indices) -> Indices:
        """Return the sample at each position, [n]; position `samples` begins the second epoch, in another order."""
        epochs, places = np.divmod(positions, self.samples)
        found = np.empty_like(positions)
        for epoch in np.unique(epochs):
            in_epoch = epochs == epoch
            starts = _blocks(self, int(epoch))[1]
            windows = np.searchsorted(starts, places[in_epoch], side="right") - 1
            part = np.empty_like(windows)
            for window in np.unique(windows):
                chosen = windows == window
                part[chosen] = _window(self, int(epoch), int(window))[places[in_epoch][chosen] - starts[window]]
            found[in_epoch] = part
        return found

    def window(self, position: int, ahead: int = 0) -> Indices:
        """Return the blocks of the window that `position` lies in, or with ahead=1 of the one after it."""
        epoch, place = divmod(position, self.samples)
        blocks, starts = _blocks(self, epoch)
        window = int(np.searchsorted(starts, place, side="right")) - 1 + ahead
        if window == len(starts):
            return _blocks(self, epoch + 1)[0][:WINDOW]
        return blocks[window * WINDOW :][:WINDOW]


@lru_cache(maxsize=8)
def _blocks(order: SampleOrder, epoch: int) -> tuple[Indices, Indices]:
    """Return the epoch's blocks in their order, and the position at which each window of them starts."""
    first = _first_samples(order)
    counts = np.diff(first)
    occupied = np.flatnonzero(counts)  # a sequence can be longer than a block
    blocks = occupied[_permutation(_key(order, epoch, "blocks"), len(occupied))]
    ends = np.cumsum(counts[blocks])
    return blocks, np.concatenate([[0], ends[WINDOW - 1 : -1 : WINDOW]])


@lru_cache(maxsize=8)
def _window(order: SampleOrder, epoch: int, window: int) -> Indices:
    """Return the samples of a window in their order."""
    first = _first_samples(order)
    blocks = _blocks(order, epoch)[0][window * WINDOW : (window + 1) * WINDOW]
    samples = np.concatenate([np.arange(first[block], first[block + 1]) for block in blocks])
    return samples[_permutation(_key(order, epoch, f"window {window}"), len(samples))]


@lru_cache(maxsize=8)
def _first_samples(order: SampleOrder) -> Indices:
    """Return the first sample that starts in each block, [blocks + 1]."""
    blocks = -(-order.tokens // order.block_tokens)
    first = -(-np.arange(blocks + 1) * order.block_tokens // order.sequence_length)
    return np.minimum(first, order.samples)


def _key(order: SampleOrder, epoch: int, use: str) -> int:
    text = f"{order.corpus_id}/{order.seed}/{epoch}/{order.sequence_length}/{use}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _permutation(key: int, n: int) -> Indices:
    """Return a permutation of range(n): the argsort of splitmix64 (Steele et al. 2014) at key + i.

    Ours, since the streams of numpy's and torch's generators may change between versions.
    """
    z = (np.arange(n, dtype=np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.argsort(z ^ (z >> np.uint64(31)), kind="stable")


@dataclass(frozen=True)
class Mixture:
    """Which corpus each position draws from: a short cycle with the exact share of each, evenly spread."""

    cycle: Indices
    """[cycle] the corpus of each place."""
    nth: Indices
    """[cycle] how many places before it have the same corpus."""
    counts: Indices
    """[corpora] places of each in a cycle."""

    @classmethod
    def of(cls, weights: Sequence[float]) -> "Mixture":
        """Return the mixture of corpora by weight; each has a place at least.

        Shares are exact up to a cycle of 65,536 places, and the nearest that it holds beyond.
        """
        total = sum(Fraction(str(weight)) for weight in weights)
        shares = [Fraction(str(weight)) / total for weight in weights]
        length = math.lcm(*(share.denominator for share in shares))
        counts = [max(1, round(share * min(length, _LONGEST_CYCLE))) for share in shares]
        corpora = np.repeat(np.arange(len(counts)), counts)
        nth = np.concatenate([np.arange(count) for count in counts])
        # Correctly rounded, so that equal quotients are equal floats and the corpus decides, on every machine.
        places = np.lexsort((corpora, (2 * nth + 1) / np.take(counts, corpora)))
        return cls(corpora[places], nth[places], np.array(counts, np.int64))

    def at(self, positions: Indices) -> tuple[Indices, Indices]:
        """Return (corpus, position in that corpus's own order) of each position, [n] each."""
        cycles, places = np.divmod(positions, len(self.cycle))
        corpora = self.cycle[places]
        return corpora, cycles * self.counts[corpora] + self.nth[places]
