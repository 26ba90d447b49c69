"""Where a step's time goes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

PARTS = ("data", "forward_backward", "optimizer", "checkpoint")


class StepTimer:
    """Seconds of each part of a step, averaged over the steps since the last reading.

    On a GPU, kernels run after the calls that launch them return. The loop waits for each step's loss and gradient
    norm before the optimizer, so forward_backward is true to within that step; the optimizer's kernels count in the
    next step.
    """

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self._steps = 0
        self._start = time.perf_counter()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the time inside as one of `PARTS`."""
        start = time.perf_counter()
        yield
        self._seconds[name] += time.perf_counter() - start

    @contextmanager
    def outside(self) -> Iterator[None]:
        """Leave the time inside out of everything: it is not training."""
        start = time.perf_counter()
        yield
        self._start += time.perf_counter() - start

    def step_done(self) -> None:
        self._steps += 1

    def read(self) -> dict[str, float]:
        """Mean seconds per step of each part, and `total`; then starts again."""
        steps = max(1, self._steps)
        seconds = {"total": (time.perf_counter() - self._start) / steps}
        seconds |= {name: spent / steps for name, spent in self._seconds.items()}
        self._reset()
        return {name: round(value, 6) for name, value in seconds.items()}
