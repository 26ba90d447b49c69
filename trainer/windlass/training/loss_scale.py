"""Dynamic loss scaling for FP16 (Micikevicius et al. 2018, section 3.2).

Ours and not torch.amp.GradScaler, which looks for infinities in each rank's own shard: under FSDP ranks would
disagree on whether to take a step. The loop's gradient norm is global.
"""

from dataclasses import dataclass

GROWTH_INTERVAL = 2000
"""Finite steps in a row after which the scale doubles."""


@dataclass
class LossScale:
    """A factor on the loss that keeps small gradients above FP16's smallest number."""

    factor: float = 1.0
    finite_steps: int = 0

    @classmethod
    def for_precision(cls, precision: str) -> "LossScale":
        return cls(factor=2.0**16 if precision == "FP16" else 1.0)

    def update(self, finite: bool) -> None:
        """Adapt to whether the last step's gradients were finite."""
        if self.factor == 1.0:
            return
        self.finite_steps = self.finite_steps + 1 if finite else 0
        if not finite:
            self.factor /= 2
        elif self.finite_steps % GROWTH_INTERVAL == 0:
            self.factor *= 2
