"""Which documents go where: the decisions that need all units, from their rows alone."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from windlass.data.contamination import TestSets
from windlass.data.deduplication.join import clusters, first_of_equals, pairs_of_equals
from windlass.data.preparation.processes import processors
from windlass.data.preparation.splits import held_out
from windlass.data.preparation.unit import FIRST_PART, LAST_PART, WHOLE, Recipe, read_columns, read_rows, test_sets
from windlass.data.preparation.units import Unit
from windlass.data.preparation.workspace import Workspace

KEPT, CONTAMINATED, EXACT, NEAR = 0, 1, 2, 3
Mask = NDArray[np.bool_]


@dataclass
class Selection:
    """A decision for each row of all units, in their order."""

    offsets: NDArray[np.int64]
    """First row of each unit, and the number of all rows, [units + 1]."""
    reasons: NDArray[np.uint8]
    """KEPT, or why a row is left out, [rows]."""
    held_out: Mask
    """Whether a row is validation's, [rows]."""
    lengths: NDArray[np.int64]
    """Tokens, [rows]."""
    bytes: NDArray[np.int64]
    """Of text, [rows]."""
    originals: NDArray[np.int64]
    """The first row of a row's cluster of duplicates: itself if it is alone, [rows]."""
    hits: list[tuple[int, int]] = field(default_factory=list)
    """(row, test item) of contaminated documents."""

    def of(self, unit: Unit) -> slice:
        """The rows of a unit."""
        return slice(int(self.offsets[unit.number]), int(self.offsets[unit.number + 1]))


def select(
    recipe: Recipe, units: list[Unit], workspace: Workspace, workers: int, tick: Callable[[], None]
) -> Selection:
    """Decide: contaminated documents go first, then exact duplicates, then near ones, then the rest is split."""
    rows = [read_rows(workspace, unit) for unit in units]
    hashes = np.concatenate([each.hashes for each in rows])
    parts = np.concatenate([each.parts for each in rows])
    total = len(hashes)
    selection = Selection(
        offsets=np.cumsum([0, *(len(each.hashes) for each in rows)]),
        reasons=np.zeros(total, np.uint8),
        held_out=np.zeros(total, bool),
        lengths=np.concatenate([each.lengths for each in rows]),
        bytes=np.concatenate([each.bytes for each in rows]),
        originals=np.arange(total),
    )
    if recipe.spec.decontaminate:
        _contaminated(selection, recipe, units, workspace)
    deduplicate = recipe.spec.deduplicate
    if deduplicate and deduplicate.exact:
        _exact(selection, hashes, parts)
    if deduplicate and deduplicate.near:
        _near(selection, parts, units, workspace, workers, tick)
    _leave_out_copies_of_cut_documents(selection, hashes, parts)
    _last_parts_follow_first(selection, parts)
    _split(selection, hashes, parts, recipe, units)
    return selection


def _contaminated(selection: Selection, recipe: Recipe, units: list[Unit], workspace: Workspace) -> None:
    """Find rows with n-grams of test sets; those in more than `common` documents don't count."""
    assert recipe.spec.decontaminate
    known: TestSets = test_sets(recipe.spec)
    found = []
    for unit in units:
        with read_columns(workspace, unit) as columns:
            hits = columns["hits"]
        found.append(hits + np.array([selection.offsets[unit.number], 0, 0]))
    every = np.concatenate(found)
    _, gram, documents = np.unique(every[:, 1:], axis=0, return_inverse=True, return_counts=True)
    rare = every[documents[gram.reshape(-1)] <= recipe.spec.decontaminate.common]
    items = [int(known.items[size][position]) for size, position in rare[:, 1:].tolist()]
    selection.hits = sorted(set(zip(rare[:, 0].tolist(), items, strict=True)))
    if recipe.spec.decontaminate.action == "Remove":
        selection.reasons[rare[:, 0]] = CONTAMINATED


def _exact(selection: Selection, hashes: NDArray[np.uint64], parts: NDArray[np.uint8]) -> None:
    rows = np.flatnonzero((selection.reasons == KEPT) & (parts != LAST_PART))
    first = rows[first_of_equals(hashes[rows])]
    selection.originals[rows] = first
    selection.reasons[rows[first != rows]] = EXACT


def _near(
    selection: Selection,
    parts: NDArray[np.uint8],
    units: list[Unit],
    workspace: Workspace,
    workers: int,
    tick: Callable[[], None],
) -> None:
    """Join documents that share a band; each band by a thread, since sorting needs no lock."""
    wanted = (selection.reasons == KEPT) & (parts != LAST_PART)
    with read_columns(workspace, units[0]) as columns:
        bands = [name for name in columns.files if name.startswith("band-")]
    found = []
    with ThreadPoolExecutor(max(1, min(workers, processors()))) as threads:
        for pairs in threads.map(lambda band: _pairs(band, units, workspace, wanted), bands):
            tick()
            found.append(pairs)
    first = clusters(len(wanted), np.concatenate(found))
    selection.originals = first[selection.originals]  # copies of a near duplicate belong to its cluster
    selection.reasons[wanted & (first != np.arange(len(first)))] = NEAR


def _pairs(band: str, units: list[Unit], workspace: Workspace, wanted: Mask) -> NDArray[np.int64]:
    return pairs_of_equals(lambda: _band(band, units, workspace, wanted), len(wanted))


def _band(name: str, units: list[Unit], workspace: Workspace, wanted: Mask) -> NDArray[np.uint64]:
    """Return the band's hash of each row, 0 for those that are out already."""

    def columns() -> Iterator[NDArray[np.uint64]]:
        for unit in units:
            with read_columns(workspace, unit) as columns:
                yield columns[name]

    hashes = np.concatenate(list(columns()))
    hashes[~wanted] = 0
    return hashes


def _leave_out_copies_of_cut_documents(
    selection: Selection, hashes: NDArray[np.uint64], parts: NDArray[np.uint8]
) -> None:
    """A document that is cut in two is on both sides: no whole copy of it may be on either."""
    cut = hashes[(parts == FIRST_PART) & (selection.reasons == KEPT)]
    copies = (parts == WHOLE) & (selection.reasons == KEPT) & np.isin(hashes, cut)
    selection.reasons[copies] = EXACT


def _last_parts_follow_first(selection: Selection, parts: NDArray[np.uint8]) -> None:
    last = np.flatnonzero(parts == LAST_PART)
    selection.reasons[last] = selection.reasons[last - 1]


def _split(
    selection: Selection,
    hashes: NDArray[np.uint64],
    parts: NDArray[np.uint8],
    recipe: Recipe,
    units: list[Unit],
) -> None:
    kept = (selection.reasons == KEPT) & (parts == WHOLE)
    out = []
    for source in range(len(recipe.spec.sources)):
        its = [selection.of(unit) for unit in units if unit.source == source]
        if its:
            rows = slice(its[0].start, its[-1].stop)
            out.append(held_out(hashes[rows][kept[rows]], recipe.spec.validation_fraction))
    selection.held_out = (kept & np.isin(hashes, np.concatenate(out))) | (parts == LAST_PART)
