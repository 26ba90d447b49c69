"""Scores of benchmark suites, with their uncertainty."""

from dataclasses import dataclass

Z95 = 1.96
"""A normal distribution has 95 % within so many standard errors."""
Interval = tuple[float, float]


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

    @property
    def interval(self) -> Interval | None:
        """95 %, by the normal approximation."""
        if self.stderr is None:
            return None
        return max(0.0, self.value - Z95 * self.stderr), min(1.0, self.value + Z95 * self.stderr)
