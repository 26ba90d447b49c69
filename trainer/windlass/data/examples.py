"""Examples of tasks that have some: read, freed of copies, balanced and split, and stored for the ranks.

What is chosen depends on the texts and the seed, not on the order in which they are read.
"""

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

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


class Identified(Protocol):
    """What is told apart, shuffled and split."""

    @property
    def text(self) -> str:
        """All that it says: examples of the same text are copies."""

    @property
    def label(self) -> str:
        """Each label is split by itself; "" for tasks without labels."""

    @property
    def place(self) -> str:
        """Where it was read."""


T = TypeVar("T", bound=Identified)


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
    sequences: dict[str, int] = field(default_factory=dict)
    """That the examples of a split share, where they do."""

    def sentence(self) -> str:
        parts = [f"{self.read:,} examples read", f"{self.copies:,} copies removed"]
        parts += [f"{self.left_out:,} left out to balance the labels"] if self.left_out else []
        shared = {name: f" in {number:,} sequences" for name, number in self.sequences.items()}
        parts += [", ".join(f"{number:,} {name}{shared.get(name, '')}" for name, number in self.splits.items())]
        parts += [f"{self.cut:,} cut to the context"] if self.cut else []
        return "; ".join(parts)


def labelled(spec: Examples, labels: Sequence[str]) -> Iterator[Labelled]:
    """The texts of all sources. Raises DataNotFound, DataCorrupt, ConfigInvalid for a label not among `labels`."""
    for source in spec.sources:
        for place, record in all_records(source):
            if type(label := record.get(source.label_field)) is int:  # as many datasets have them
                record[source.label_field] = str(label)
            label = text_in(record, source.label_field, place, "labelField").strip()
            if label not in labels:
                raise WindlassError(
                    "ConfigInvalid",
                    f"{place}: label {label!r} is none of spec.model.head.labels, {', '.join(labels)}"
                    f"{did_you_mean(label, labels)}",
                )
            yield Labelled(text_in(record, source.text_field, place, "textField"), label, place)


def all_records(source: ExampleSource) -> Iterator[tuple[str, dict[str, Any]]]:
    """Place and record of everything in a source."""
    for file in list_files(source):
        yield from records(source, file)


def text_in(record: dict[str, Any], field: str, place: str, setting: str) -> str:
    """The text of a record's field, which the source's `setting` names. Raises DataCorrupt where it has none."""
    text = text_of(record, field, place, setting)
    if text is None:
        raise WindlassError("DataCorrupt", f"{place} is no Unicode")
    return text


def split(spec: Examples, examples: Iterable[T], labels: Sequence[str], seed: int) -> tuple[dict[str, list[T]], Counts]:
    """The examples of each split: without copies first, then balanced, then split, each label by itself.

    Raises WindlassError: ConfigInvalid where a split has no example of a label.
    """
    counts = Counts()
    by_text: dict[str, T] = {}
    for example in examples:
        counts.read += 1
        by_text.setdefault(" ".join(example.text.split()) if spec.deduplicate else example.place, example)
    counts.copies = counts.read - len(by_text)
    groups = {label: [example for example in by_text.values() if example.label == label] for label in labels}
    fewest = min(len(group) for group in groups.values())
    splits: dict[str, list[T]] = {name: [] for name in SPLITS}
    for label, group in groups.items():
        shuffled = sorted(group, key=lambda example: _rank(seed, example))
        chosen = shuffled[:fewest] if spec.balance else shuffled
        counts.left_out += len(group) - len(chosen)
        test, validation = (round(len(chosen) * part) for part in (spec.test_fraction, spec.validation_fraction))
        parts = (chosen[test + validation :], chosen[test : test + validation], chosen[:test])
        for name, part, wanted in zip(SPLITS, parts, (1.0, spec.validation_fraction, spec.test_fraction), strict=True):
            if wanted and not part:
                of_label = f"label {label!r} has" if label else "there are"
                raise WindlassError(
                    "ConfigInvalid",
                    f"spec.data.examples: {of_label} {len(chosen)} examples, and none of them is left for {name}; add "
                    f"some{', or take it out of spec.model.head.labels' if label else ''}",
                )
            splits[name] += part
    counts.splits = {name: len(part) for name, part in splits.items() if part}
    return splits, counts


def _rank(seed: int, example: Identified) -> bytes:
    return hashlib.sha256(f"{seed}/{example.label}/{example.text}".encode()).digest()


def store(storage: Storage, splits: dict[str, list[Example]]) -> str:
    """Write encoded examples for the ranks, unless they are there already; returns the hash of what they are."""
    arrays: dict[str, NDArray[np.int64]] = {}
    for name, examples in splits.items():
        empty = [np.empty(0, np.int64)]
        arrays[f"{name}/inputs"] = np.concatenate([*empty, *(example.inputs for example in examples)])
        arrays[f"{name}/labels"] = np.concatenate([*empty, *(example.labels for example in examples)])
        documents = [example.documents for example in examples if example.documents is not None]
        if documents:
            arrays[f"{name}/documents"] = np.concatenate(documents)
        arrays[f"{name}/lengths"] = np.array([len(example.inputs) for example in examples], np.int64)
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
    lengths = arrays[f"{name}/lengths"]
    if not len(lengths):
        return []
    parts = [f"{name}/{part}" for part in Example._fields]
    ends = np.cumsum(lengths)[:-1]
    columns = [np.split(arrays[part], ends) if part in arrays else [None] * len(lengths) for part in parts]
    return [Example(*values) for values in zip(*columns, strict=True)]


def encoded(
    splits: dict[str, list[T]], encode: Callable[[T], tuple[Example, bool]], counts: Counts
) -> dict[str, list[Example]]:
    """All splits as examples; those that were cut are counted."""
    found: dict[str, list[Example]] = {}
    for name, examples in splits.items():
        pairs = [encode(example) for example in examples]
        counts.cut += sum(cut for _, cut in pairs)
        found[name] = [example for example, _ in pairs]
    return found
