"""How a global batch becomes the micro-batches of each rank, and how many steps a run has."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from windlass.errors import WindlassError
from windlass.spec.checks import divisors
from windlass.spec.job import Training


@dataclass(frozen=True)
class Batching:
    """An optimizer step: each of `world_size` ranks does `accumulation` passes of `micro_batch_size` sequences."""

    world_size: int
    micro_batch_size: int
    accumulation: int

    @property
    def global_batch_size(self) -> int:
        """Sequences a step, over all ranks."""
        return self.world_size * self.micro_batch_size * self.accumulation


def batching(
    global_batch_size: int,
    micro_batch_size: int | Literal["Auto"],
    world_size: int,
    *,
    fits: Callable[[int], bool] = lambda micro_batch_size: True,
) -> Batching:
    """Share a global batch evenly. Auto takes the largest micro-batch that divides a rank's part and `fits`, or 1.

    Raises:
        WindlassError: ConfigInvalid, with the numbers that fit, when the batch cannot be shared evenly.
    """
    unit = 1 if micro_batch_size == "Auto" else micro_batch_size
    part, rest = divmod(global_batch_size, world_size)
    if global_batch_size % unit:
        fitting = [size for size in divisors(global_batch_size) if global_batch_size // size % world_size == 0]
        raise WindlassError(
            "ConfigInvalid",
            f"spec.training.microBatchSize: {unit} does not divide globalBatchSize, {global_batch_size}; "
            f"{_that_fit('micro batch sizes', fitting or divisors(global_batch_size), unit)}, or Auto",
        )
    if rest:
        raise WindlassError(
            "ConfigInvalid",
            f"spec.training.globalBatchSize: {global_batch_size} sequences cannot be shared evenly by {world_size} "
            f"ranks; {_that_fit('numbers of ranks', divisors(global_batch_size // unit), world_size)}",
        )
    if part % unit:
        raise WindlassError(
            "ConfigInvalid",
            f"spec.training.microBatchSize: {unit} does not divide the {part} sequences of each of {world_size} ranks; "
            f"{_that_fit('micro batch sizes', divisors(part), unit)}, or Auto; with {unit}, "
            f"{_that_fit('numbers of ranks', divisors(global_batch_size // unit), world_size)}",
        )
    if micro_batch_size == "Auto":
        unit = max((size for size in divisors(part) if fits(size)), default=1)
    return Batching(world_size, unit, part // unit)


def total_steps(training: Training, sequence_length: int, samples_per_epoch: int | None) -> int:
    """Optimizer steps of the run: maxSteps, or what maxTokens or epochs come to, rounded up to a whole step.

    Raises:
        WindlassError: ConfigInvalid, when epochs are asked for and `samples_per_epoch` is not known, or no length is.
    """
    batch = training.global_batch_size
    if training.max_steps is not None:
        return training.max_steps
    if training.max_tokens is not None:
        return math.ceil(Fraction(training.max_tokens, batch * sequence_length))
    if training.epochs is None:
        raise WindlassError("ConfigInvalid", "spec.training: one of maxSteps, maxTokens and epochs says how long")
    if samples_per_epoch is None:
        raise WindlassError(
            "ConfigInvalid", "spec.training.epochs: how many steps that is, only the prepared corpus can tell"
        )
    return math.ceil(Fraction(str(training.epochs)) * samples_per_epoch / batch)  # 0.1 means a tenth, not its float


def _that_fit(what: str, numbers: list[int], near: int) -> str:
    nearest = sorted(sorted(numbers, key=lambda number: abs(number - near))[:8])
    return f"{what} that fit: {', '.join(map(str, nearest))}"
