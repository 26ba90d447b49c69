"""How long to wait before trying again."""

import random


def backoff(failures: int, first: float, longest: float) -> float:
    """Seconds to wait after so many failures in a row: twice as long each time, less up to half at random."""
    return min(longest, first * 2.0 ** min(failures, 60)) * random.uniform(0.5, 1.0)
