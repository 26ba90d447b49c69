"""The global order of training samples: position -> sample, a pure function with random access.

Order and mixture depend on nothing but their fields, never on ranks, so that any rank of any world size computes its
own part, and a resume needs one number. Why it is as it is: docs/decisions/0002-order-of-samples.md.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

WINDOW = 4
"""Blocks whose samples are shuffled together."""
_LONGEST_CYCLE = 65_536

Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class SampleOrder:
    """The order of one split's samples; sample i is tokens [i * stride, i * stride + L] of it, labels included.

    Or, with `starts`, the first L + 1 tokens or fewer from the i-th start.
    """

    corpus_id: str
    seed: int
    sequence_length: int
    tokens: int
    """Tokens in the split."""
    block_tokens: int
    """Tokens in a block, the unit that is read and verified."""
    stride: int | None = None
    """Tokens from one sample's start to the next; default: sequence_length."""
    starts: Indices | None = None
    """[samples] where each sample starts, ascending; default: every `stride` tokens."""

    @cached_property
    def samples(self) -> int:
        """Samples in an epoch."""
        if self.starts is not None:
            return len(self.starts)
        return max(0, (self.tokens - 1 - self.sequence_length) // self._stride + 1)

    def start(self, samples: Indices) -> Indices:
        """Return the first token of each sample, [n]."""
        return samples * self._stride if self.starts is None else self.starts[samples]

    def at(self, positions: Indices) -> Indices:
        """Return the sample at each position, [n]; position `samples` begins the second epoch, in another order."""
        epochs, places = np.divmod(positions, self.samples)
        found = np.empty_like(positions)
        for epoch in np.unique(epochs):
            in_epoch = epochs == epoch
            starts = self._blocks(int(epoch))[1]
            windows = np.searchsorted(starts, places[in_epoch], side="right") - 1
            part = np.empty_like(windows)
            for window in np.unique(windows):
                chosen = windows == window
                part[chosen] = self._window(int(epoch), int(window))[places[in_epoch][chosen] - starts[window]]
            found[in_epoch] = part
        return found

    def window(self, position: int, ahead: int = 0) -> Indices:
        """Return the blocks of the window that `position` lies in, or with ahead=1 of the one after it."""
        epoch, place = divmod(position, self.samples)
        blocks, starts = self._blocks(epoch)
        window = int(np.searchsorted(starts, place, side="right")) - 1 + ahead
        if window == len(starts):
            return self._blocks(epoch + 1)[0][:WINDOW]
        return blocks[window * WINDOW :][:WINDOW]

    @property
    def _stride(self) -> int:
        return self.stride or self.sequence_length

    @cached_property
    def _first(self) -> Indices:
        """The first sample that starts in each block, [blocks + 1]."""
        borders = np.arange(-(-self.tokens // self.block_tokens) + 1) * self.block_tokens
        if self.starts is not None:
            return np.searchsorted(self.starts, borders)
        return np.minimum(-(-borders // self._stride), self.samples)

    @cached_property
    def _blocks(self) -> Callable[[int], tuple[Indices, Indices]]:
        """epoch -> the epoch's blocks in their order, and the position at which each window of them starts."""

        def blocks(epoch: int) -> tuple[Indices, Indices]:
            counts = np.diff(self._first)
            occupied = np.flatnonzero(counts)  # a sample can be longer than a block
            order = occupied[permutation(self._key(epoch, "blocks"), len(occupied))]
            ends = np.cumsum(counts[order])
            return order, np.concatenate([[0], ends[WINDOW - 1 : -1 : WINDOW]])

        return lru_cache(maxsize=2)(blocks)

    @cached_property
    def _window(self) -> Callable[[int, int], Indices]:
        """epoch, window -> the samples of the window in their order."""

        def window(epoch: int, window: int) -> Indices:
            blocks = self._blocks(epoch)[0][window * WINDOW : (window + 1) * WINDOW]
            samples = np.concatenate([np.arange(self._first[block], self._first[block + 1]) for block in blocks])
            return samples[permutation(self._key(epoch, f"window {window}"), len(samples))]

        return lru_cache(maxsize=2)(window)

    def _key(self, epoch: int, use: str) -> int:
        samples = "documents" if self.starts is not None else str(self.sequence_length)
        stride = f"/{self.stride}" if self.stride not in (None, self.sequence_length) else ""
        return key(f"{self.corpus_id}/{self.seed}/{epoch}/{samples}{stride}/{use}")


def key(text: str) -> int:
    """Return the key of a permutation by what it is for."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def permutation(key: int, n: int) -> Indices:
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
