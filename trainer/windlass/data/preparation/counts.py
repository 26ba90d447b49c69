"""What a preparation did with documents: counted in each unit, added up in the order of the units."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

NAMES = 100
"""Of documents left out by a step that are kept."""


@dataclass
class Step:
    """What one step did."""

    removed: int = 0
    """Documents left out."""
    changed: int = 0
    """Documents whose text it changed."""
    removed_bytes: int = 0
    """UTF-8 bytes that went, of both; negative where texts grew."""
    names: list[str] = field(default_factory=list)
    """The first documents left out."""

    def remove(self, name: str, size: int) -> None:
        """Count a document left out."""
        self.removed += 1
        self.removed_bytes += size
        if len(self.names) < NAMES:
            self.names.append(name)

    def change(self, size: int) -> None:
        """Count a document that lost `size` bytes."""
        self.changed += 1
        self.removed_bytes += size

    def add(self, other: "Step") -> None:
        """Add what it did elsewhere."""
        self.removed += other.removed
        self.changed += other.changed
        self.removed_bytes += other.removed_bytes
        self.names += other.names[: NAMES - len(self.names)]


@dataclass
class Counts:
    """Documents, bytes and tokens of one unit or of all."""

    documents: int = 0
    """Read."""
    bytes: int = 0
    """UTF-8 bytes of their text."""
    kept: int = 0
    """Documents that every step of a unit let through."""
    kept_bytes: int = 0
    tokens: int = 0
    """Of those."""
    steps: dict[str, Step] = field(default_factory=dict)
    languages: Counter[str] = field(default_factory=Counter)

    def add(self, other: "Counts") -> None:
        """Add another unit's."""
        self.documents += other.documents
        self.bytes += other.bytes
        self.kept += other.kept
        self.kept_bytes += other.kept_bytes
        self.tokens += other.tokens
        for name, step in other.steps.items():
            self.steps.setdefault(name, Step()).add(step)
        self.languages += other.languages


def left_out(steps: Iterable[tuple[str, Step]]) -> str:
    """Return "; left out: 2 not UTF-8 (a.txt, b.txt), 1 empty (c.txt)", or nothing."""
    parts = [
        f"{step.removed:,} {name} ({', '.join(step.names[:3])}{', ...' if step.removed > 3 else ''})"
        for name, step in steps
        if step.removed
    ]
    return f"; left out: {', '.join(parts)}" if parts else ""
