"""How sure a number is that was measured on a sample: 95 % intervals."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Z95 = 1.96
"""A normal distribution has 95 % within so many standard errors."""
Interval = tuple[float, float]


class Difference(NamedTuple):
    """How much one score is above another."""

    value: float
    interval: Interval | None
    """None where both were not measured on the same items, or on one item alone."""


def normal(value: float, stderr: float | None, low: float = -math.inf, high: float = math.inf) -> Interval | None:
    """The normal approximation, within the range of scores; None without a standard error."""
    if stderr is None:
        return None
    return max(low, value - Z95 * stderr), min(high, value + Z95 * stderr)


def wilson(hits: float, trials: int) -> Interval:
    """Of a share that is near 0 or 1, or of few trials (Wilson 1927)."""
    share, square = hits / trials, Z95 * Z95 / trials
    middle = (share + square / 2) / (1 + square)
    half = Z95 * math.sqrt(share * (1 - share) / trials + square / (4 * trials)) / (1 + square)
    return middle - half, middle + half


def stderr_of_mean(values: Sequence[float] | NDArray[np.float64]) -> float | None:
    """Standard error of the mean of independent values; None of fewer than two."""
    return float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else None


def stderr_of_ratio(residuals: NDArray[np.float64], total: float) -> float | None:
    """Standard error of r = sum(y) / sum(x), from y - r x and sum(x) (Cochran 1977, Sampling Techniques, 6.4)."""
    count = len(residuals)
    return math.sqrt(float(residuals @ residuals) * count / (count - 1)) / total if count > 1 else None
