"""Which documents are held out, by a hash of their text: copies of one are never on both sides."""

import numpy as np
from numpy.typing import NDArray

from windlass.data.deduplication.ngrams import Hashes


def held_out(hashes: Hashes, fraction: float) -> Hashes:
    """Return the hashes of the documents of a source that are held out: those of the smallest values.

    Of distinct documents `fraction` are, as nearly as their number allows, and at least one on each side.
    """
    distinct = np.unique(hashes)
    if len(distinct) < 2:
        return distinct[:0]
    return distinct[: min(max(1, round(len(distinct) * fraction)), len(distinct) - 1)]


def in_pass(documents: int, number: int, repeats: float) -> NDArray[np.bool_]:
    """Return which of a source's training documents are in pass `number` over it, [documents].

    Over all passes each is there `repeats` times on average, those with one more spread evenly.
    """
    order = np.arange(documents)
    times = np.floor((order + 1) * repeats) - np.floor(order * repeats)
    found: NDArray[np.bool_] = times > number
    return found
