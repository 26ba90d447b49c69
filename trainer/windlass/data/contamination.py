"""Overlap with test sets by word n-grams, as for GPT-3 (Brown et al. 2020, appendix C).

An item is looked for by its n-grams, one of 8 to n words as a whole, a shorter one not at all. N-grams in many texts
are common phrases and do not count. Where GPT-3 cut out the surroundings of an overlap, the document goes.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from windlass.data.deduplication.ngrams import Hashes, ngram_hashes, word_hashes
from windlass.data.sources.documents import documents
from windlass.data.sources.listing import list_files
from windlass.errors import WindlassError
from windlass.spec.job import RawData

LEAST_WORDS = 8
"""An item of fewer words is no evidence: anyone may have written it."""


@dataclass(frozen=True)
class TestSets:
    """The n-grams of test items."""

    grams: dict[int, Hashes]
    """Words in a row -> their sorted hashes."""
    items: dict[int, NDArray[np.int64]]
    """Words in a row -> the item of each hash."""
    names: list[str]
    """Where each item is."""
    skipped: int
    """Items of too few words."""

    def hits(self, words: Hashes) -> list[tuple[int, int]]:
        """Return (words in a row, position in `grams`) of each n-gram that a document of these words shares."""
        found = []
        for n, known in self.grams.items():
            if len(words) >= n:
                ngrams = ngram_hashes(words, n)
                at = np.minimum(np.searchsorted(known, ngrams), len(known) - 1)
                found += [(n, int(position)) for position in np.unique(at[known[at] == ngrams])]
        return found


def read_test_sets(sources: Iterable[RawData], n: int) -> TestSets:
    """Return the n-grams of all items. DataNotFound where no item is long enough, and as of `documents`."""
    found = index_items(
        (
            (document.name, document.text or "")
            for source in sources
            for file in list_files(source)
            for document in documents(source, file)
        ),
        n,
    )
    if not found.names:
        uris = ", ".join(source.uri for source in sources)
        message = f"{uris}: no test item has {min(LEAST_WORDS, n)} words or more"
        raise WindlassError("DataNotFound", f"{message}; check textField, or lower ngram")
    return found


def index_items(items: Iterable[tuple[str, str]], n: int) -> TestSets:
    """Return the n-grams of items, each a name and a text."""
    grams: dict[int, list[Hashes]] = {}
    owners: dict[int, list[NDArray[np.int64]]] = {}
    names: list[str] = []
    skipped = 0
    for name, text in items:
        words = word_hashes(text)
        if len(words) < min(LEAST_WORDS, n):
            skipped += 1
            continue
        found = ngram_hashes(words, n)
        grams.setdefault(min(n, len(words)), []).append(found)
        owners.setdefault(min(n, len(words)), []).append(np.full(len(found), len(names)))
        names.append(name)
    joined = {size: (np.concatenate(grams[size]), np.concatenate(owners[size])) for size in sorted(grams)}
    orders = {size: np.argsort(hashes, kind="stable") for size, (hashes, _) in joined.items()}
    return TestSets(
        grams={size: hashes[orders[size]] for size, (hashes, _) in joined.items()},
        items={size: items[orders[size]] for size, (_, items) in joined.items()},
        names=names,
        skipped=skipped,
    )
