"""`windlass run` of a file with several jobs: one after the other, and a page of them all."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from windlass.cli.run import run_job
from windlass.cli.show import short, write
from windlass.engine.run_folder import write_json
from windlass.errors import DONE, WindlassError
from windlass.spec.job import LLMTrainingJob


def run_stages(jobs: Sequence[LLMTrainingJob], name: str, *, runs: Path, **how: Any) -> int:
    """Run jobs in their order until one does not finish, and return the exit code; `how` is as of `run_job`.

    RUNS/NAME.html shows the stages so far. Raises WindlassError with the reason why a stage failed, and what was not
    started for it.
    """
    names = [job.metadata.name for job in jobs]
    write_json(runs / f"{name}.json", {"stages": names})
    for number, job in enumerate(jobs, start=1):
        write(f"Stage {number} of {len(jobs)}: {job.metadata.name}")
        try:
            code = run_job(job, runs=runs, **how)
        except WindlassError as error:
            left = f"\nNot started: {', '.join(names[number:])}" if names[number:] else ""
            raise WindlassError(error.reason, f"stage {job.metadata.name}: {error}{left}") from error
        finally:
            page = _page(runs / f"{name}.json")
        write()
        if code != DONE:
            return code
    write(f"All {len(jobs)} stages: {short(page.absolute())}")
    return DONE


def _page(stages: Path) -> Path:
    from windlass.evaluation.stages import write_stages  # its charts take most of a second to import

    return write_stages(stages)
