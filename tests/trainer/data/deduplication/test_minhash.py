"""MinHash: signatures estimate similarity, and bands find what they are said to find."""

import numpy as np
import pytest

from windlass.data.deduplication.minhash import Bands, band_hashes, bands_of, signature
from windlass.data.deduplication.ngrams import Hashes, mix


def pair(similarity: float, size: int, seed: int) -> tuple[Hashes, Hashes]:
    """Return two sets of this Jaccard similarity."""
    shared = round(2 * size * similarity / (1 + similarity))
    values = mix(np.arange(2 * size) + seed * 1_000_003)
    return values[:size], np.concatenate([values[:shared], values[size : 2 * size - shared]])


@pytest.mark.parametrize("similarity", [0.3, 0.5, 0.8])
def test_signatures_agree_as_often_as_sets_are_similar(similarity: float) -> None:
    pairs = [pair(similarity, 300, seed) for seed in range(60)]
    agree = [np.mean(signature(a, 128) == signature(b, 128)) for a, b in pairs]
    error = np.sqrt(similarity * (1 - similarity) / (128 * 60))
    assert abs(np.mean(agree) - similarity) < 4 * error


def test_bands_find_pairs_as_often_as_published() -> None:
    bands = bands_of(128, 0.7)
    for similarity in (0.6, 0.75, 0.9):
        pairs = [pair(similarity, 300, seed) for seed in range(200)]
        stacked = band_hashes(np.array([signature(part, 128) for both in pairs for part in both]), bands)
        found = np.mean((stacked[:, ::2] == stacked[:, 1::2]).any(axis=0))
        expected = float(bands.probability(np.array([similarity]))[0])
        assert abs(found - expected) < 4 * np.sqrt(expected * (1 - expected) / 200) + 0.02


def test_bands_use_no_more_functions_than_there_are_and_follow_the_threshold() -> None:
    for permutations in (8, 128, 256):
        chosen = [bands_of(permutations, threshold) for threshold in (0.3, 0.5, 0.7, 0.9)]
        assert all(bands.count * bands.rows <= permutations for bands in chosen)
        assert [bands.rows for bands in chosen] == sorted(bands.rows for bands in chosen)
    assert bands_of(128, 0.7) == Bands(14, 9)


def test_functions_never_change() -> None:
    expected = [65345603, 24938256, 10226645, 116923396, 11229410, 76248467, 88093849, 183059668]
    assert signature(mix(np.arange(100)), 8).tolist() == expected
