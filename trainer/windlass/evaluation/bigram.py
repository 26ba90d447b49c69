"""The baseline that a trained model is compared with: a bigram model, from counts of adjacent tokens."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from windlass.data.corpus import Split
from windlass.data.stream import Batch

CHUNKS = 64
"""A split of more than `max_tokens` is read in this many pieces, spread evenly over it."""


@dataclass(frozen=True)
class Bigram:
    """P(token | the one before), by interpolated Kneser-Ney smoothing.

    P(b | a) = max(c(ab) - d, 0) / c(a) + d n(a·) / c(a) P(b), with counts c, the number n(a·) of different tokens seen
    after a, and P(b) likewise from the number n(·b) of different tokens seen before b. The discount d comes from the
    numbers of pairs seen once and twice (Chen and Goodman 1999, An empirical study of smoothing techniques for language
    modeling, sections 2.7 and 2.8).
    """

    pairs: NDArray[np.int64]
    """Pairs seen, as a * vocabulary size + b, ascending: [pairs]."""
    discounted: NDArray[np.float64]
    """The first term of each pair's probability: [pairs]."""
    backoff: NDArray[np.float64]
    """Weight of the second term after each token; 1 after one that was never seen: [vocabulary]."""
    unigram: NDArray[np.float64]
    """P(b): [vocabulary]."""

    @classmethod
    def fit(cls, splits: Sequence[tuple[Split, float]], vocab_size: int, max_tokens: int = 2**24) -> Self:
        """Count the pairs of at most `max_tokens` tokens of the splits, which have two or more each, by weight.

        A split that has fewer tokens than its share counts more than once, as it does in training.
        """
        total_weight = sum(weight for _, weight in splits)
        taken = [min(split.tokens, max(2, int(max_tokens * weight / total_weight))) for split, weight in splits]
        rates = np.array([weight / tokens for (_, weight), tokens in zip(splits, taken, strict=True)])
        found = [
            _counted(np.concatenate([_pairs(piece, vocab_size) for piece in _pieces(split, tokens)]), vocab_size)
            for (split, _), tokens in zip(splits, taken, strict=True)
        ]
        pairs, of_pair = np.unique(np.concatenate([seen for seen, _ in found]), return_inverse=True)
        # Each pair counts at least once, so that discounting leaves no count below zero.
        times = [count * rate for (_, count), rate in zip(found, rates / rates.min(), strict=True)]
        counts = np.bincount(of_pair, weights=np.concatenate(times))
        first, second = np.divmod(pairs, vocab_size)
        once, twice = np.count_nonzero(counts == 1), np.count_nonzero(counts == 2)
        discount = (once + 1) / (once + 2 * twice + 2)  # + 1 and + 2: never 0, so that no probability is

        before = np.bincount(second, minlength=vocab_size)
        unigram = np.maximum(before - discount, 0) + discount * np.count_nonzero(before) / vocab_size
        total = np.bincount(first, weights=counts, minlength=vocab_size)
        after = np.bincount(first, minlength=vocab_size)
        return cls(
            pairs=pairs,
            discounted=np.maximum(counts - discount, 0) / total[first],
            backoff=np.where(total > 0, discount * after / np.maximum(total, 1), 1.0),
            unigram=unigram / unigram.sum(),
        )

    def probability(self, first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.float64]:
        """P(second | first), elementwise: both [n]."""
        pair = first * len(self.unigram) + second
        place = np.minimum(np.searchsorted(self.pairs, pair), len(self.pairs) - 1)
        seen = np.where(self.pairs[place] == pair, self.discounted[place], 0.0)
        return seen + self.backoff[first] * self.unigram[second]

    def losses(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[float]:
        """Summed cross entropy, in nats, of each continuation after its context; neither may be empty."""
        found = []
        for context, continuation in pairs:
            tokens = np.array([context[-1], *continuation])
            found.append(-float(np.log(self.probability(tokens[:-1], tokens[1:])).sum()))
        return found

    def loss(self, batches: Iterable[Batch]) -> float:
        """Cross entropy in nats a token, over all labels that are not ignored. Raises ValueError where all are."""
        total, tokens = 0.0, 0
        for batch in batches:
            counted = batch.labels >= 0
            probability = self.probability(batch.inputs[counted], batch.labels[counted])
            total -= float(np.log(probability).sum())
            tokens += probability.size
        if tokens == 0:
            raise ValueError("There are no validation tokens to measure the bigram baseline on.")
        return total / tokens


def _pieces(split: Split, max_tokens: int) -> list[NDArray[np.integer]]:
    if split.tokens <= max_tokens:
        return [split.read(0, split.tokens)]
    size = max_tokens // CHUNKS
    starts = np.linspace(0, split.tokens - size, CHUNKS, dtype=np.int64).tolist()
    return [split.read(start, start + size) for start in starts]


def _counted(pairs: NDArray[np.int64], vocab_size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Each different pair, ascending, and how often it is there."""
    if vocab_size**2 > len(pairs):
        seen, counts = np.unique(pairs, return_counts=True)
        return seen, counts
    counts = np.bincount(pairs)  # of few different pairs, without sorting all
    seen = np.flatnonzero(counts)
    return seen, counts[seen]


def _pairs(tokens: NDArray[np.integer], vocab_size: int) -> NDArray[np.int64]:
    return tokens[:-1].astype(np.int64) * vocab_size + tokens[1:]
