"""The corpus put together: selected documents of all units in their order, as shards."""

from collections.abc import Callable
from math import ceil
from typing import Any

import numpy as np

from windlass.data.blocks import Layout
from windlass.data.corpus import SPLITS, SplitManifest, SplitName
from windlass.data.preparation.selection import KEPT, Mask, Selection
from windlass.data.preparation.shards import SplitWriter
from windlass.data.preparation.splits import in_pass
from windlass.data.preparation.unit import Recipe, read_tokens
from windlass.data.preparation.units import Unit
from windlass.data.preparation.workspace import Workspace
from windlass.storage import Storage


def assemble(
    recipe: Recipe,
    units: list[Unit],
    selection: Selection,
    workspace: Workspace,
    target: Storage,
    layout: Layout,
    tick: Callable[[], None],
) -> dict[SplitName, SplitManifest]:
    """Write both splits; a source's training documents as often as its weight says, in as many passes."""
    dtype = np.dtype(recipe.token_type).newbyteorder("<")
    writers = {name: SplitWriter(target, name, dtype, layout) for name in SPLITS}
    kept = selection.reasons == KEPT
    smallest = min(source.weight for source in recipe.spec.sources)
    for index, source in enumerate(recipe.spec.sources):
        its = [unit for unit in units if unit.source == index]
        repeats = source.weight / smallest
        for number in range(ceil(repeats)):
            training = _training(its, selection, kept, number, repeats)
            for unit in its:
                tick()
                rows = selection.of(unit)
                tokens = read_tokens(workspace, unit, dtype)
                _copy(writers["train"], tokens, selection, rows, training[rows])
                if number == 0:
                    _copy(writers["validation"], tokens, selection, rows, kept[rows] & selection.held_out[rows])
                del tokens
                workspace.forget(f"{unit.number:06}.tokens")
    return {name: writer.finish() for name, writer in writers.items()}


def _training(units: list[Unit], selection: Selection, kept: Mask, number: int, repeats: float) -> Mask:
    """Return which rows are in the source's pass `number`."""
    mask = np.zeros_like(kept)
    if units:
        rows = slice(selection.of(units[0]).start, selection.of(units[-1]).stop)
        training = np.flatnonzero(kept[rows] & ~selection.held_out[rows]) + rows.start
        mask[training[in_pass(len(training), number, repeats)]] = True
    return mask


def _copy(writer: SplitWriter, tokens: Any, selection: Selection, rows: slice, chosen: Mask) -> None:
    """Append the chosen documents of a unit, some MiB at a time."""
    lengths = selection.lengths[rows]
    ends = np.cumsum(lengths)
    step = 4 << 20  # tokens
    first = 0
    while first < len(lengths):
        start = int(ends[first] - lengths[first])
        last = max(first + 1, int(np.searchsorted(ends, start + step, side="right")))
        part, mine = slice(first, last), chosen[first:last]
        if mine.any():
            piece = tokens[start : int(ends[last - 1])]
            taken = piece if mine.all() else piece[np.repeat(mine, lengths[part])]
            text_bytes = int(selection.bytes[rows][part][mine].sum())
            writer.add(np.array(taken), lengths[part][mine], text_bytes)
        first = last
