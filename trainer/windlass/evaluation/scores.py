"""Scores of benchmark suites, with their uncertainty."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from windlass.intervals import Difference, Interval, normal, stderr_of_mean

Item = tuple[str, int]
"""Task, and number among its items."""


@dataclass(frozen=True)
class Score:
    """One metric of one task, or of a group of tasks."""

    suite: str
    """As it was asked for."""
    task: str
    metric: str
    """As lm_eval names it: acc, acc_norm, exact_match; with the filter of the answers, where a task has several."""
    value: float
    """0 to 1."""
    stderr: float | None
    """None where there are too few items."""
    items: int
    few_shot: int
    """Solved examples before each item."""
    is_part: bool = False
    """True for a task of a group whose own score is there, such as a subject of MMLU."""
    is_clean: bool = False
    """True where the items that are in training data are left out."""
    values: Mapping[Item, float] = field(default_factory=dict, repr=False)
    """Of each item."""

    @property
    def interval(self) -> Interval | None:
        """95 %, by the normal approximation."""
        return normal(self.value, self.stderr, 0.0, 1.0)

    def above(self, other: "Score") -> Difference:
        """How much this is above another model's score, with an interval from the items that both were asked."""
        difference = self.value - other.value
        pairs = [value - other.values[item] for item, value in self.values.items() if item in other.values]
        return Difference(difference, normal(difference, stderr_of_mean(pairs)))
