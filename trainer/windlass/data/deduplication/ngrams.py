"""Hashes of words and of word n-grams, without a Python loop over words.

A word is a run of letters, digits and underscores in lower case; Chinese, Japanese and Korean characters are words by
themselves. A substring's hash is a difference of prefix sums of byte * BASE ** position modulo 2 ** 64 (Karp and Rabin
1987), moved to position 0 by the inverse power and mixed.
"""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

_CHUNK = 1 << 16  # bytes that are hashed at once; what they need stays in the processor's cache
_BASE = 0x9E3779B97F4A7C15
_WORD_BASE = 0xD1B54A32D192ED03


def _table(characters: bytes) -> NDArray[np.bool_]:
    return np.isin(np.arange(256), np.frombuffer(characters, np.uint8))


# Bytes of words: ASCII letters, digits, the underscore, and every byte of other scripts' UTF-8.
_IN_WORD = _table(b"abcdefghijklmnopqrstuvwxyz0123456789_" + bytes(range(0x80, 0x100)))
_ALONE = _table(bytes(range(0xE3, 0xEE)))  # first bytes of kana, CJK ideographs and Hangul


def mix(values: NDArray[Any]) -> Hashes:
    """Spread 64-bit values evenly: the finaliser of SplitMix64 (Steele et al. 2014)."""
    mixed = np.asarray(values, np.uint64)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def word_hashes(text: str) -> Hashes:
    """Return the hash of each word of the text, [words]."""
    data = np.frombuffer(text.lower().encode(), np.uint8)
    found = []
    start = 0
    while start < len(data):
        stop = min(start + _CHUNK, len(data))
        if stop < len(data):  # the chunk ends between words, unless one is longer than a chunk
            gaps = np.flatnonzero(~_IN_WORD[data[start:stop]])
            stop = start + int(gaps[-1]) + 1 if len(gaps) else stop
        found.append(_chunk_hashes(data[start:stop]))
        start = stop
    return np.concatenate(found) if found else np.empty(0, np.uint64)


def ngram_hashes(words: Hashes, n: int) -> Hashes:
    """Return the hash of each n words in a row, [words - n + 1]; of all words, [1], where there are fewer than n."""
    n = min(n, len(words))
    if n == 0:
        return np.empty(0, np.uint64)
    powers = _powers(_WORD_BASE, n)
    total = np.zeros(len(words) - n + 1, np.uint64)
    for offset in range(n):
        total += words[offset : offset + len(total)] * powers[offset]
    return mix(total + np.uint64(n))


def _chunk_hashes(data: NDArray[np.uint8]) -> Hashes:
    inside, alone = _IN_WORD[data], _ALONE[data]
    cut = np.ones(len(data) + 1, bool)  # between a byte and the one before: no word goes across
    cut[1:-1] = ~inside[:-1] | ~inside[1:] | alone[1:]
    starts = np.flatnonzero(inside & cut[:-1])
    ends = np.flatnonzero(inside & cut[1:]) + 1
    powers, inverses = _byte_powers()
    sums = np.zeros(len(data) + 1, np.uint64)
    np.cumsum((data.astype(np.uint64) + np.uint64(1)) * powers[: len(data)], out=sums[1:])
    return mix((sums[ends] - sums[starts]) * inverses[starts])


@lru_cache(maxsize=1)
def _byte_powers() -> tuple[Hashes, Hashes]:
    return _powers(_BASE, _CHUNK), _powers(pow(_BASE, -1, 1 << 64), _CHUNK)


def _powers(base: int, count: int) -> Hashes:
    factors = np.full(count, base, np.uint64)
    factors[0] = 1
    return np.multiply.accumulate(factors)
