"""Job files as commands take them: loaded with the command line's changes, and validated."""

import json
from collections.abc import Sequence
from pathlib import Path

from windlass.cli.show import warn, write
from windlass.spec.checks import unsupported, warnings
from windlass.spec.job import LLMTrainingJob
from windlass.spec.loading import InvalidJob, load_document, load_job


def load(
    file: Path, overrides: Sequence[str] | None, *, workers: int | None = None, name: str | None = None
) -> LLMTrainingJob:
    """The job of a file, with --set, --workers and --name in place of what it says. Raises as `load_job`."""
    changes = list(overrides or [])
    if workers is not None:
        # One rank per worker: --workers counts ranks. Elastic bounds are a cluster's.
        changes += [f"workers.replicas={workers}"]
        changes += [f"workers.{field}=null" for field in ("gpusPerWorker", "minReplicas", "maxReplicas")]
    if name is not None:
        changes.append(f"metadata.name={json.dumps(name)}")
    return load_job(file, changes)


def say_warnings(job: LLMTrainingJob) -> None:
    """Print what is allowed, but probably not what was meant."""
    for warning in warnings(job):
        warn(f"Warning: {warning}")


def validate_files(files: Sequence[Path], overrides: Sequence[str] | None, *, cluster: bool) -> None:
    """Print which files are valid jobs. Raises InvalidJob with the problems of all the others."""
    problems = []
    for file in files:
        try:
            job = load_document(file, overrides or [], cluster=cluster)[1]
        except InvalidJob as error:
            problems += error.problems
            continue
        write(f"{file}: valid")
        say_warnings(job)
        for problem in unsupported(job):
            warn(f"Note: {problem}")
    if problems:
        raise InvalidJob(problems)
