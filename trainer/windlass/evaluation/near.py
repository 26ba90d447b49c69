"""Test items that a document has in other words here and there: near duplicates of items among its passages.

MinHash finds passages that may be one (`data/deduplication/minhash.py`); what they share is then counted.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from windlass.data.contamination import LEAST_WORDS
from windlass.data.deduplication.minhash import Bands, band_hashes, signature, window_signatures
from windlass.data.deduplication.ngrams import Hashes, ngram_hashes, word_hashes

NGRAM = 3
"""Words in a row that are compared; one word in six may be another, and 0.6 of them are left."""
SHARE = 0.6
"""Of an item's n-grams that a passage has, if it is a near duplicate."""
BANDS = Bands(count=64, rows=2)
"""An item that fills only three eighths of a window and shares 0.6 of its n-grams with it is found in 9 of 10."""
PART = 1 << 13
"""N-grams of a document that are looked through at once."""


@dataclass(frozen=True)
class NearItems:
    """Items by the size of the passages that they are looked for in, a power of two: up to 8/3 of their n-grams."""

    ngrams: Sequence[Hashes]
    """Different ones of each item, sorted."""
    keys: dict[int, Hashes]
    """Size -> hashes of the bands of all items, sorted."""
    owners: dict[int, NDArray[np.int64]]
    """Size -> the item of each of them."""

    def find(self, words: Hashes) -> dict[int, float]:
        """Item -> the largest share of its n-grams that a passage of a document of these words has; from SHARE on."""
        found: dict[int, float] = {}
        every = ngram_hashes(words, NGRAM)
        if not self.keys or not len(every):
            return found
        overlap = max(self.keys)
        for start in range(0, max(1, len(every) - overlap), PART):
            part = every[start : start + PART + overlap]
            for begin, size, item in self._candidates(part):
                known = self.ngrams[item]
                share = float(np.isin(known, part[begin : begin + size]).mean())
                if share >= max(SHARE, found.get(item, 0.0)):
                    found[item] = share
        return found

    def _candidates(self, ngrams: Hashes) -> Iterator[tuple[int, int, int]]:
        """First n-gram and size of windows that share a band with an item."""
        for size, starts, signatures in window_signatures(ngrams, BANDS.count * BANDS.rows, self.keys):
            keys, owners = self.keys[size], self.owners[size]
            bands = band_hashes(signatures, BANDS)
            first, last = np.searchsorted(keys, bands, "left"), np.searchsorted(keys, bands, "right")
            hits = np.argwhere(last > first)
            pairs = {
                (int(window), int(owner))
                for band, window in hits
                for owner in owners[first[band, window] : last[band, window]]
            }
            yield from ((int(starts[window]), size, owner) for window, owner in sorted(pairs))


def index_near(texts: Sequence[str]) -> NearItems:
    """Items to look for; those of fewer than `LEAST_WORDS` words are not."""
    ngrams: list[Hashes] = []
    by_size: dict[int, list[int]] = {}
    for number, text in enumerate(texts):
        words = word_hashes(text)
        ngrams.append(np.unique(ngram_hashes(words, NGRAM)))
        if len(words) >= LEAST_WORDS:
            size = 1 << (4 * (len(words) - NGRAM + 1) // 3).bit_length()
            by_size.setdefault(size, []).append(number)
    keys, owners = {}, {}
    for size, items in by_size.items():
        signatures = np.array([signature(ngrams[item], BANDS.count * BANDS.rows) for item in items])
        bands = band_hashes(signatures, BANDS)
        order = np.argsort(bands, axis=None, kind="stable")
        keys[size] = bands.reshape(-1)[order]
        owners[size] = np.tile(np.array(items), len(bands))[order]
    return NearItems(ngrams, keys, owners)
