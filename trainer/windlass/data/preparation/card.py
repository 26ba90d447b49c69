"""The corpus's card: what went in, what each step took away, what came out; stats.json for programs, card.md.

Nothing in them depends on time, place or the number of processes.
"""

from dataclasses import asdict
from itertools import islice
from typing import Any

import numpy as np

from windlass.data.corpus import SPLITS, Manifest
from windlass.data.preparation.counts import NAMES, Counts, Step
from windlass.data.preparation.selection import CONTAMINATED, EXACT, KEPT, NEAR, Selection
from windlass.data.preparation.unit import LAST_PART, Recipe, read_names, read_rows, read_tokens, test_sets
from windlass.data.preparation.units import Unit
from windlass.data.preparation.workspace import Workspace
from windlass.data.tokenizers import Tokenizer
from windlass.storage import shown

STATS, CARD = "stats.json", "card.md"
_STEPS = {CONTAMINATED: "contaminated", EXACT: "exact duplicates", NEAR: "near duplicates"}
_CLUSTERS = 10  # of duplicates that are listed, the largest
_SAMPLES = 3
_SAMPLE_TOKENS = 160


class Names:
    """Names of documents by row; a unit's are read when one is asked for."""

    def __init__(self, units: list[Unit], selection: Selection, workspace: Workspace) -> None:
        """Read nothing yet."""
        self._units, self._selection, self._workspace = units, selection, workspace
        self._read: dict[int, list[str]] = {}

    def __getitem__(self, row: int) -> str:
        number = int(np.searchsorted(self._selection.offsets, row, side="right")) - 1
        if number not in self._read:
            self._read = {number: read_names(self._workspace, self._units[number])}
        return self._read[number][row - int(self._selection.offsets[number])]


def global_steps(selection: Selection, units: list[Unit], workspace: Workspace) -> dict[str, Step]:
    """Return what the steps over all documents left out."""
    names = Names(units, selection, workspace)
    parts = np.concatenate([read_rows(workspace, unit).parts for unit in units])
    steps = {}
    for reason, name in _STEPS.items():
        rows = np.flatnonzero(selection.reasons == reason)
        documents = rows[parts[rows] != LAST_PART]
        if len(rows):
            first = [names[row] for row in documents[:NAMES].tolist()]
            steps[name] = Step(len(documents), 0, int(selection.bytes[rows].sum()), first)
    return steps


def statistics(
    recipe: Recipe,
    manifest: Manifest,
    counts: Counts,
    selection: Selection,
    units: list[Unit],
    workspace: Workspace,
    tokenizer: Tokenizer,
) -> dict[str, Any]:
    """Return what stats.json holds."""
    kept = selection.reasons == KEPT
    names = Names(units, selection, workspace)
    sources = [
        {"uri": shown(source.uri), "weight": source.weight, "license": source.license} for source in recipe.spec.sources
    ]
    return {
        "corpus": manifest.id,
        "tokenizer": manifest.tokenizer.name,
        "settings": recipe.spec.model_dump(mode="json", exclude={"sources"}, exclude_none=True),
        "sources": sources,
        "read": {"documents": counts.documents, "bytes": counts.bytes},
        "steps": {name: asdict(step) for name, step in counts.steps.items()},
        "kept": {"documents": int(kept.sum()), "bytes": int(selection.bytes[kept].sum())},
        "splits": {
            name: {key: getattr(manifest.splits[name], key) for key in ("documents", "tokens", "bytes")}
            for name in SPLITS
        },
        "lengths": _histogram(selection.lengths[kept]),
        "duplicates": _clusters(selection, names),
        "contamination": _contamination(recipe, selection, names),
        "languages": dict(counts.languages.most_common()),
        "samples": _samples(recipe, selection, units, workspace, tokenizer),
    }


def card(stats: dict[str, Any]) -> str:
    """Return card.md."""
    lines = [
        f"# Corpus {stats['corpus']}",
        "",
        f"Tokenizer: {stats['tokenizer']}. Settings, names of documents and more are in {STATS} beside this file.",
        "",
        *_table(
            ["source", "weight", "license"],
            [[source["uri"], f"{source['weight']:g}", source["license"] or "not given"] for source in stats["sources"]],
        ),
        "## From raw text to the corpus",
        "",
        *_table(["step", "documents left out", "documents changed", "bytes left out"], _step_rows(stats)),
        "## What is in it",
        "",
        *_table(
            ["split", "documents", "tokens", "bytes"],
            [[name, *(f"{value:,}" for value in split.values())] for name, split in stats["splits"].items()],
        ),
        "## Lengths of documents",
        "",
        *_table(["tokens, fewer than", "documents"], [[key, f"{count:,}"] for key, count in stats["lengths"].items()]),
    ]
    if stats["languages"]:
        rows = [[language, f"{count:,}"] for language, count in stats["languages"].items()]
        lines += ["## Languages", "", *_table(["language", "documents"], rows)]
    if found := stats["duplicates"]["largest"]:
        rows = [[str(cluster["documents"]), ", ".join(cluster["names"])] for cluster in found]
        lines += ["## Largest clusters of duplicates", "", *_table(["documents", "among them"], rows)]
    if contamination := stats["contamination"]:
        rows = [[item["item"], ", ".join(item["documents"])] for item in contamination["items"]]
        title = f"## Test items found: {contamination['items_found']:,} of {contamination['items_known']:,}"
        lines += [title, "", *_table(["item", "in"], rows)]
    lines += ["## Samples"]
    for sample in stats["samples"]:
        lines += ["", *(f"    {line}" for line in sample.splitlines())]
    return "\n".join(lines) + "\n"


def _step_rows(stats: dict[str, Any]) -> list[list[str]]:
    read, kept = stats["read"], stats["kept"]
    rows = [["read", f"{read['documents']:,}", "", f"{read['bytes']:,}"]]
    for name, step in stats["steps"].items():
        rows.append([name, *(f"{step[key]:,}" for key in ("removed", "changed", "removed_bytes"))])
    return [*rows, ["kept", f"{kept['documents']:,}", "", f"{kept['bytes']:,}"]]


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    cells = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells] + [""]


def _histogram(lengths: Any) -> dict[str, int]:
    """Return how many documents have fewer tokens than each power of two, and no fewer than half of it."""
    if not len(lengths):
        return {}
    counts = np.bincount(np.ceil(np.log2(lengths + 1)).astype(int))
    first = int(np.flatnonzero(counts)[0])
    return {str(1 << power): int(counts[power]) for power in range(first, len(counts))}


def _clusters(selection: Selection, names: Names) -> dict[str, Any]:
    duplicates = np.flatnonzero((selection.reasons == EXACT) | (selection.reasons == NEAR))
    first, sizes = np.unique(selection.originals[duplicates], return_counts=True)
    largest = sorted(zip((-sizes).tolist(), first.tolist(), strict=True))[:_CLUSTERS]
    members = {row: duplicates[selection.originals[duplicates] == row][:3].tolist() for _, row in largest}
    return {
        "documents": len(duplicates),
        "clusters": len(first),
        "sizes": {str(size + 1): int(count) for size, count in zip(*np.unique(sizes, return_counts=True), strict=True)},
        "largest": [
            {"documents": 1 - size, "names": [names[row], *(names[other] for other in members[row])]}
            for size, row in largest
        ],
    }


def _contamination(recipe: Recipe, selection: Selection, names: Names) -> dict[str, Any] | None:
    if not recipe.spec.decontaminate:
        return None
    known = test_sets(recipe.spec)
    by_item: dict[int, list[int]] = {}
    for row, item in selection.hits:
        by_item.setdefault(item, []).append(row)
    return {
        "documents": len({row for row, _ in selection.hits}),
        "items_known": len(known.names),
        "items_too_short": known.skipped,
        "items_found": len(by_item),
        "items": [
            {"item": known.names[item], "documents": [names[row] for row in rows[:3]]}
            for item, rows in islice(sorted(by_item.items()), NAMES)
        ],
    }


def _samples(
    recipe: Recipe, selection: Selection, units: list[Unit], workspace: Workspace, tokenizer: Tokenizer
) -> list[str]:
    """Return the beginnings of some training documents, evenly spaced, as the tokenizer gives them back."""
    rows = np.flatnonzero((selection.reasons == KEPT) & ~selection.held_out)
    chosen = rows[np.linspace(0, len(rows) - 1, min(_SAMPLES, len(rows))).astype(int)] if len(rows) else rows
    dtype = np.dtype(recipe.token_type).newbyteorder("<")
    texts = []
    for row in chosen.tolist():
        unit = units[int(np.searchsorted(selection.offsets, row, side="right")) - 1]
        start = int(selection.lengths[selection.of(unit).start : row].sum())
        length = min(int(selection.lengths[row]) - 1, _SAMPLE_TOKENS)
        texts.append(tokenizer.decode(read_tokens(workspace, unit, dtype)[start : start + length].tolist()))
        workspace.forget(f"{unit.number:06}.tokens")
    return texts
