"""From equal hashes to clusters of documents: sorting, a part of the hashes at a time, then union-find."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from windlass.data.deduplication.ngrams import Hashes

Documents = NDArray[np.int64]
MOST = 1 << 24
"""Hashes that are sorted at once; more are taken in parts, each a range of their values: 0.4 GiB."""


def first_of_equals(hashes: Hashes) -> Documents:
    """Return for each hash the position of its first occurrence, [n]."""
    _, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    found: Documents = first[inverse]
    return found


def pairs_of_equals(read: Callable[[], Hashes], total: int) -> NDArray[np.int64]:
    """Return [pairs, 2]: the first position of each hash that occurs again, and each of the others.

    `read` gives the `total` hashes, once for each part; hashes of 0 have no equals.
    """
    parts = -(-total // MOST) or 1
    found = [_pairs(read(), part, parts) for part in range(parts)]
    return np.concatenate(found)


def _pairs(hashes: Hashes, part: int, parts: int) -> NDArray[np.int64]:
    positions = np.flatnonzero((hashes % np.uint64(parts) == part) & (hashes != 0))
    order = positions[np.argsort(hashes[positions], kind="stable")]
    ordered = hashes[order]
    new = np.ones(len(order), bool)
    new[1:] = ordered[1:] != ordered[:-1]
    first = order[np.maximum.accumulate(np.where(new, np.arange(len(order)), 0))] if len(order) else order
    return np.stack([first[~new], order[~new]], axis=1)


def clusters(total: int, pairs: NDArray[np.int64]) -> Documents:
    """Return for each of `total` documents the first one of its cluster: itself where it has no pair, [total]."""
    parent = np.arange(total)
    left, right = pairs[:, 0], pairs[:, 1]
    while True:
        a, b = parent[left], parent[right]
        apart = a != b
        if not apart.any():
            return parent
        left, right, a, b = left[apart], right[apart], a[apart], b[apart]
        np.minimum.at(parent, np.maximum(a, b), np.minimum(a, b))
        while True:  # each points to its root
            root = parent[parent]
            if np.array_equal(root, parent):
                break
            parent = root
