"""What may change between two starts of a run: only what does not change what is trained."""

from collections.abc import Iterator
from typing import Any

from windlass.engine.run_folder import RunFolder
from windlass.errors import WindlassError
from windlass.spec.job import LLMTrainingJob
from windlass.storage import Storage
from windlass.training.commits import CommitLog

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


def refuse_changes(before: LLMTrainingJob, now: LLMTrainingJob, run: RunFolder) -> None:
    """Raise ConfigInvalid where `now` would train something else than the run was started with, and it has trained."""
    changes = [
        change for change in _differences("", _meant(before), _meant(now)) if not change[0].startswith(MAY_CHANGE)
    ]
    if changes and (run.metrics.exists() or CommitLog(Storage(run.checkpoints_uri(before))).attempts()):
        lines = [f"  {path}: was {old!r}, now {new!r}" for path, old, new in changes]
        raise WindlassError(
            "ConfigInvalid",
            f"The run in {run.path} was started with another job:\n"
            + "\n".join(lines)
            + "\nUndo the change, give this run another --name, or start over with --restart.",
        )


def _meant(job: LLMTrainingJob) -> dict[str, Any]:
    """The job's document, with the default of what it leaves out and would train all the same."""
    document = job.model_dump()
    if job.spec.task == "Preference":
        document["spec"]["training"]["preference"] = {"beta": job.spec.training.beta}
    return document


def _differences(path: str, before: Any, now: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in before | now:
            yield from _differences(f"{path}.{key}".lstrip("."), before.get(key), now.get(key))
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for number, (old, new) in enumerate(zip(before, now, strict=True)):
            yield from _differences(f"{path}[{number}]", old, new)
    elif before != now:
        yield path, before, now
