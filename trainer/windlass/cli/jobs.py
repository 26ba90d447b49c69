"""Job files as commands take them: loaded with the command line's changes, and validated."""

import json
from collections.abc import Sequence
from pathlib import Path

from windlass.cli.show import warn, write
from windlass.spec.checks import warnings
from windlass.spec.job import LLMTrainingJob
from windlass.spec.loading import InvalidJob, load_job, load_stages


def load(
    file: Path, overrides: Sequence[str] | None, *, workers: int | None = None, name: str | None = None
) -> LLMTrainingJob:
    """The job of a file, with --set, --workers and --name in place of what it says. Raises as `load_job`."""
    return load_job(file, _changes(overrides, workers, name))


def load_several(
    file: Path, overrides: Sequence[str] | None, *, workers: int | None = None, name: str | None = None
) -> list[LLMTrainingJob]:
    """The jobs of a file that run one after the other, as `load` has one. Raises as `load_stages`."""
    return load_stages(file, _changes(overrides, workers, name))


def _changes(overrides: Sequence[str] | None, workers: int | None, name: str | None) -> list[str]:
    """All of them as --set has them."""
    changes = list(overrides or [])
    if workers is not None:
        # One rank per worker: --workers counts ranks. Elastic bounds are a cluster's.
        changes += [f"workers.replicas={workers}"]
        changes += [f"workers.{field}=null" for field in ("gpusPerWorker", "minReplicas", "maxReplicas")]
    if name is not None:
        changes.append(f"metadata.name={json.dumps(name)}")
    return changes


def say_warnings(job: LLMTrainingJob) -> None:
    """Print what is allowed, but probably not what was meant."""
    for warning in warnings(job):
        warn(f"Warning: {warning}")


def validate_files(files: Sequence[Path], overrides: Sequence[str] | None, *, cluster: bool) -> None:
    """Print which files are valid jobs. Raises InvalidJob with the problems of all the others."""
    problems = []
    for file in files:
        try:
            jobs = load_stages(file, overrides or [], cluster=cluster)
        except InvalidJob as error:
            problems += error.problems
            continue
        write(f"{file}: valid")
        for job in jobs:
            say_warnings(job)
    if problems:
        raise InvalidJob(problems)
