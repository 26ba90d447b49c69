"""How far a preparation is, said about once a second: what is done, how fast, how long it will take."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from windlass.data.preparation.counts import Counts

_SECONDS = 1.0  # between two lines


@dataclass
class Report:
    """Counts what is done and tells it."""

    tell: Callable[[str], None]
    total: int
    """Bytes of all units."""
    counts: Counts = field(default_factory=Counts)
    _done: int = 0
    _fresh: int = 0  # bytes done now, not in an earlier try
    _began: float = field(default_factory=time.monotonic)
    _told: float = field(default_factory=time.monotonic)

    def add(self, counts: Counts, size: int, *, fresh: bool) -> None:
        """Count a unit."""
        self.counts.add(counts)
        self._done += size
        self._fresh += size if fresh else 0
        self.tick()

    def tick(self, what: str = "") -> None:
        """Say how far it is, if that was not said in the last second."""
        if time.monotonic() - self._told >= _SECONDS:
            self._told = time.monotonic()
            self.tell(what or self.line())

    def line(self) -> str:
        """Return what is done, with the rate and the time left once they can be known."""
        if not self._done:
            return f"reading {self.total / 1e6:,.1f} MB"
        line = f"{self.counts.documents:,} documents, {self.counts.tokens:,} tokens"
        seconds = time.monotonic() - self._began
        if self._fresh and self._done < self.total:
            left = (self.total - self._done) * seconds / self._fresh
            share = self._done / self.total
            line += f", {share:.0%} at {self._fresh / seconds / 1e6:,.1f} MB/s, about {left:,.0f} s left"
        return line
