"""MinHash signatures in bands: similar documents probably share a band (Broder 1997; Indyk and Motwani 1998)."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from windlass.data.deduplication.ngrams import Hashes, mix

Signatures = NDArray[np.uint32]

_CHUNK = 1024  # n-grams that are permuted at once: their hashes stay in the processor's cache


@dataclass(frozen=True)
class Bands:
    """How a signature is cut: documents of similarity s share a band with probability 1 - (1 - s ** rows) ** count."""

    count: int
    rows: int
    """Hash functions in each band."""

    def probability(self, similarity: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return how probably documents of these Jaccard similarities are found."""
        found: NDArray[np.float64] = 1 - (1 - similarity**self.rows) ** self.count
        return found


@lru_cache
def bands_of(permutations: int, threshold: float) -> Bands:
    """Return the bands with the smallest area of errors on both sides of the threshold."""
    grid = (np.arange(1000) + 0.5) / 1000
    wanted = grid >= threshold
    candidates = [Bands(permutations // rows, rows) for rows in range(1, permutations + 1)]
    return min(candidates, key=lambda bands: float(np.abs(wanted - bands.probability(grid)).sum()))


def signature(ngrams: Hashes, permutations: int) -> Signatures:
    """Return the least value of each hash function over the n-grams, [permutations]; there must be an n-gram.

    The functions are a * x + b modulo 2 ** 32 with odd a, permutations of the n-grams' upper 32 bits.
    """
    factors, summands = _functions(permutations)
    values = (ngrams >> np.uint64(32)).astype(np.uint32)
    least = np.full(permutations, 0xFFFFFFFF, np.uint32)
    for at in range(0, len(values), _CHUNK):
        hashed = np.multiply(factors, values[at : at + _CHUNK])
        hashed += summands
        np.minimum(least, hashed.min(axis=1), out=least)
    return least


def window_signatures(
    ngrams: Hashes, permutations: int, sizes: Collection[int]
) -> Iterator[tuple[int, NDArray[np.int64], Signatures]]:
    """Yield, of each size, a power of two: it, where windows of so many n-grams begin, and their signatures
    [windows, permutations].

    One begins every quarter of the size, and one ends at the end; n-grams that are fewer than a window are one. A
    window's least values are those of its halves, so that all sizes take one pass.
    """
    factors, summands = _functions(permutations)
    least = factors * (ngrams >> np.uint64(32)).astype(np.uint32) + summands
    width = 1
    while width <= max(sizes):
        if width in sizes:
            starts = np.unique([*range(0, least.shape[1], max(1, width // 4)), least.shape[1] - 1])
            yield width, starts, least[:, starts].T
        if least.shape[1] > width:
            least = np.minimum(least[:, :-width], least[:, width:])
        elif least.shape[1] > 1:  # no window is whole: the only one has all n-grams
            least = least.min(axis=1, keepdims=True)
        width *= 2


def band_hashes(signatures: Signatures, bands: Bands) -> Hashes:
    """Return a hash of each band of signatures [documents, permutations]: [bands, documents]."""
    used = signatures[:, : bands.count * bands.rows].reshape(-1, bands.count, bands.rows).astype(np.uint64)
    total = np.zeros(used.shape[:2], np.uint64)
    for row in range(bands.rows):
        total = mix(total + used[:, :, row] + np.uint64(1))
    return np.ascontiguousarray(total.T)


@lru_cache
def _functions(count: int) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Return odd factors and summands, each [count, 1]: always the same ones."""
    random = (mix(np.arange(1, 2 * count + 1) * 0x632BE5AB) >> np.uint64(32)).astype(np.uint32).reshape(2, count, 1)
    return random[0] | np.uint32(1), random[1]
