"""What the driver tells every rank; it imports no torch, so that drivers need not."""

from dataclasses import dataclass
from pathlib import Path

from windlass.engine.bases import Base
from windlass.planning.plan import Plan
from windlass.spec.job import LLMTrainingJob
from windlass.spec.presets import ModelConfig


@dataclass(frozen=True)
class RankSettings:
    """What the driver has worked out for all ranks."""

    job: LLMTrainingJob
    folder: Path
    config: ModelConfig
    base: Base | None
    """What the weights start from; None: random ones."""
    plan: Plan
    total_steps: int
    tokenizer: str
    train: list[tuple[str, float]]
    """URIs of prepared corpora and their weights."""
    validation: list[tuple[str, float]]
    examples: str | None
    """Hash of the examples, beside the checkpoints; None where corpora are trained on."""
    threads: int
    """Of each rank, for PyTorch's own operators; the last bits of a sum depend on it."""
