"""What may change between two starts of a run: only what does not change what is trained."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from windlass.errors import WindlassError
from windlass.spec.job import LLMTrainingJob

MAY_CHANGE = (
    "metadata.labels",
    "metadata.annotations",
    "metadata.namespace",
    "spec.checkpoints.everySteps",
    "spec.checkpoints.everyMinutes",
    "spec.checkpoints.keep",
    "spec.checkpoints.export",
    "spec.checkpoints.onDelete",
    "spec.evaluation.prompts",
    "spec.evaluation.sampleTokens",
    "spec.evaluation.suites",
    "spec.head",
    "spec.lifecycle",
    "spec.logging",
    "spec.training.microBatchSize",
    "spec.training.parallelism",
    "spec.workers",
)


def refuse_changes(before: LLMTrainingJob, now: LLMTrainingJob, folder: Path) -> None:
    """Raise ConfigInvalid where `now` would train something else than the run in `folder` was started with."""
    changes = [
        change
        for change in _differences("", before.model_dump(), now.model_dump())
        if not change[0].startswith(MAY_CHANGE)
    ]
    if changes:
        lines = [f"  {path}: was {old!r}, now {new!r}" for path, old, new in changes]
        raise WindlassError(
            "ConfigInvalid",
            f"The run in {folder} was started with another job:\n"
            + "\n".join(lines)
            + "\nUndo the change, give this run another --name, or start over with --restart.",
        )


def _differences(path: str, before: Any, now: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in before.keys() | now.keys():
            yield from _differences(f"{path}.{key}".lstrip("."), before.get(key), now.get(key))
    elif before != now:
        yield path, before, now
