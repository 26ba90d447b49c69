"""Examples of tasks that have some: labelled texts read, freed of copies, balanced and split, and stored for the ranks.

What is chosen depends on the texts and the seed, not on the order in which they are read.
"""

import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from windlass.data.buckets import Example
from windlass.data.sources.documents import records
from windlass.data.sources.listing import list_files
from windlass.data.sources.records import text_of
from windlass.errors import WindlassError
from windlass.spec.job import Examples, ExampleSource
from windlass.spec.problems import did_you_mean
from windlass.storage import Storage

SPLITS = ("train", "validation", "test")
FILE = "examples.npz"


@dataclass(frozen=True)
class Labelled:
    """A text with its label."""

    text: str
    label: str
    place: str
    """Where it was read, for messages."""


@dataclass
class Counts:
    """What became of the examples, for people."""

    read: int = 0
    copies: int = 0
    left_out: int = 0
    """To balance the labels."""
    cut: int = 0
    """Longer than the context."""
    splits: dict[str, int] = field(default_factory=dict)

    def sentence(self) -> str:
        parts = [f"{self.read:,} examples read", f"{self.copies:,} copies removed"]
        parts += [f"{self.left_out:,} left out to balance the labels"] if self.left_out else []
        parts += [", ".join(f"{number:,} {name}" for name, number in self.splits.items())]
        parts += [f"{self.cut:,} cut to the context"] if self.cut else []
        return "; ".join(parts)


def labelled_splits(spec: Examples, labels: Sequence[str], seed: int) -> tuple[dict[str, list[Labelled]], Counts]:
    """The examples of each split: without copies first, then balanced, then split, each label by itself.

    Raises WindlassError: DataNotFound, DataCorrupt, or ConfigInvalid for a label that is not among `labels`, or of
    which a split has none.
    """
    counts = Counts()
    by_text: dict[str, Labelled] = {}
    for source in spec.sources:
        for example in _read(source):
            counts.read += 1
            if example.label not in labels:
                hint = did_you_mean(example.label, labels)
                raise WindlassError(
                    "ConfigInvalid",
                    f"{example.place}: label {example.label!r} is none of spec.model.head.labels, "
                    f"{', '.join(labels)}{hint}",
                )
            by_text.setdefault(" ".join(example.text.split()) if spec.deduplicate else example.place, example)
    counts.copies = counts.read - len(by_text)
    groups = {label: [example for example in by_text.values() if example.label == label] for label in labels}
    fewest = min(len(group) for group in groups.values())
    splits: dict[str, list[Labelled]] = {name: [] for name in SPLITS}
    for label, group in groups.items():
        shuffled = sorted(group, key=lambda example: _rank(seed, example))
        chosen = shuffled[:fewest] if spec.balance else shuffled
        counts.left_out += len(group) - len(chosen)
        test, validation = (round(len(chosen) * part) for part in (spec.test_fraction, spec.validation_fraction))
        parts = (chosen[test + validation :], chosen[test : test + validation], chosen[:test])
        for name, part, wanted in zip(SPLITS, parts, (1.0, spec.validation_fraction, spec.test_fraction), strict=True):
            if wanted and not part:
                raise WindlassError(
                    "ConfigInvalid",
                    f"spec.data.examples: label {label!r} has {len(chosen)} examples, and none of them is left for "
                    f"{name}; add some, or take it out of spec.model.head.labels",
                )
            splits[name] += part
    counts.splits = {name: len(part) for name, part in splits.items() if part}
    return splits, counts


def _read(source: ExampleSource) -> Iterator[Labelled]:
    for file in list_files(source):
        for place, record in records(source, file):
            label = record.get(source.label_field)
            if type(label) is int:  # as many datasets have them
                record[source.label_field] = str(label)
            text = _text(record, source.text_field, place, "textField")
            yield Labelled(text, _text(record, source.label_field, place, "labelField").strip(), place)


def _text(record: dict[str, Any], field: str, place: str, setting: str) -> str:
    text = text_of(record, field, place, setting)
    if text is None:
        raise WindlassError("DataCorrupt", f"{place} is no Unicode")
    return text


def _rank(seed: int, example: Labelled) -> bytes:
    return hashlib.sha256(f"{seed}/{example.label}/{example.text}".encode()).digest()


def store(storage: Storage, splits: dict[str, list[Example]]) -> str:
    """Write encoded examples for the ranks, unless they are there already; returns the hash of what they are."""
    arrays: dict[str, NDArray[np.int64]] = {}
    for name, examples in splits.items():
        empty = [np.empty(0, np.int64)]
        arrays[f"{name}/inputs"] = np.concatenate([*empty, *(inputs for inputs, _ in examples)])
        arrays[f"{name}/labels"] = np.concatenate([*empty, *(labels for _, labels in examples)])
        arrays[f"{name}/lengths"] = np.array([len(inputs) for inputs, _ in examples], np.int64)
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **arrays)
    content = file.getvalue()
    if not storage.exists(FILE) or storage.read(FILE) != content:
        storage.write(FILE, content)
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(name.encode() + array.tobytes())
    return digest.hexdigest()[:32]


def load(storage: Storage) -> dict[str, list[Example]]:
    """The examples of each split that `store` has written."""
    with np.load(io.BytesIO(storage.read(FILE))) as arrays:
        return {name: _split(arrays, name) for name in SPLITS if f"{name}/lengths" in arrays}


def _split(arrays: "np.lib.npyio.NpzFile", name: str) -> list[Example]:
    ends = np.cumsum(arrays[f"{name}/lengths"])[:-1]
    inputs, labels = (np.split(arrays[f"{name}/{part}"], ends) for part in ("inputs", "labels"))
    return list(zip(inputs, labels, strict=True)) if len(arrays[f"{name}/lengths"]) else []


def encoded(
    splits: dict[str, list[Labelled]], encode: Callable[[Labelled], tuple[Example, bool]], counts: Counts
) -> dict[str, list[Example]]:
    """All splits as examples; those that were cut are counted."""
    found: dict[str, list[Example]] = {}
    for name, examples in splits.items():
        pairs = [encode(example) for example in examples]
        counts.cut += sum(cut for _, cut in pairs)
        found[name] = [example for example, _ in pairs]
    return found
