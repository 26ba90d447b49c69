"""The process that runs a job on this machine: data, baseline, plan, ranks, result. `windlass.engine.local` starts it.

    python -m windlass.engine.driver runs/NAME

It reads job.yaml in the run folder and writes everything else there. It stops, after a checkpoint, when the file .stop
appears, on SIGTERM, and when the process that started it is gone (its standard input ends).
"""

import logging
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from windlass.engine.failures import as_windlass_error
from windlass.engine.lock import claim_storage
from windlass.engine.machine import this_machine, threads_of_rank
from windlass.engine.ray_local import RayLocal
from windlass.engine.result import write_result
from windlass.engine.run_folder import RunFolder, read_json, read_lines
from windlass.errors import DONE, INTERRUPTED, WindlassError
from windlass.spec.checks import ranks
from windlass.spec.job import LLMTrainingJob, Restarts
from windlass.spec.loading import load_job

if TYPE_CHECKING:
    from windlass.engine.train_function import RankSettings

# What imports torch is imported in functions: its seconds pass while Ray's processes start.

logger = logging.getLogger(__name__)


class Stopped(Exception):
    """The run was asked to stop before training began."""


def main(folder: Path) -> int:
    """Run the job of a run folder to its end; returns the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    start = time.monotonic()
    run = RunFolder(folder)
    job = load_job(run.job)
    signal.signal(signal.SIGTERM, lambda *_: run.stop.touch())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C belongs to the process that started this one
    threading.Thread(target=_watch_starter, args=(run,), daemon=True).start()
    try:
        _run(job, run)
        return _end(job, run, start)
    except Exception as error:
        logger.exception("The run failed")
        failure = as_windlass_error(error)
        try:
            run.enter("Failed", f"{failure.reason}: {failure}")
            write_result(run, job, "Failed", time.monotonic() - start, failure)
        except OSError:  # a full disk is why it failed, and holds no result either
            logger.exception("The result could not be written")
        return failure.exit_code


def _end(job: LLMTrainingJob, run: RunFolder, start: float) -> int:
    """Write what a run that did not fail leaves; returns the exit code."""
    steps, total = _progress(run)
    # The last steps may be left out for losses that are not finite; only a stop ends a run before its end.
    status = "Succeeded" if steps == total or not run.stop.exists() else "Stopped"
    if status == "Succeeded" and job.spec.checkpoints.export == "HuggingFace":
        from windlass.engine.runs import export_run

        shutil.rmtree(run.export, ignore_errors=True)
        export_run(run.path, run.export)
    write_result(run, job, status, time.monotonic() - start)
    run.enter(status, f"{steps} of {total} steps")
    return DONE if status == "Succeeded" else INTERRUPTED


def _run(job: LLMTrainingJob, run: RunFolder) -> None:
    def progress(message: str) -> None:
        run.tell("info", message)
        if run.stop.exists():
            raise Stopped

    world_size = ranks(job.spec)
    claim = claim_storage(run.checkpoints_uri(job), run=run.name, folder=str(run.path))
    ray = RayLocal(world_size, threads_of_rank(world_size)) if world_size > 1 else None
    try:
        run.enter("Preparing")
        from windlass.engine.preparation import prepare_run

        machine = this_machine()
        machine.check_ranks(world_size)
        settings = prepare_run(job, run, machine, world_size, progress)
        run.enter("Starting", f"Starting {world_size} rank{'s' * (world_size > 1)}")
        progress(f"Logs: {run.path / 'logs'}")
        _train(settings, run, ray)
    except Stopped:
        logger.info("Stopped before training began")
    finally:
        if ray is not None:
            ray.close()
        claim.release()


def _train(settings: "RankSettings", run: RunFolder, ray: RayLocal | None) -> None:
    """Train, starting the ranks again from the last checkpoint when one dies, within the job's budget."""
    from windlass.engine.train_function import train_alone

    budget = settings.job.spec.lifecycle.restarts
    restarts = fruitless = 0
    while True:
        before, _ = _progress(run)
        try:
            if ray is None:
                return train_alone(settings)
            return ray.fit(settings)
        except Exception as error:
            failure = as_windlass_error(error)
            if not failure.retryable:
                raise
            if restarts >= budget.infrastructure:
                raise WindlassError(
                    "RestartsExhausted", f"Restarted {restarts} times; the last failure: {failure.reason}: {failure}"
                ) from error
            restarts += 1
            fruitless = 0 if _progress(run)[0] > before else fruitless + 1
            wait = backoff(budget, fruitless)
            run.enter("Recovering", f"{failure.reason}: {failure} Restart {restarts} of {budget.infrastructure}")
            _sleep(wait, run)


def backoff(budget: Restarts, fruitless: int) -> float:
    """Seconds to wait before a restart, after `fruitless` restarts in a row that trained no further."""
    if fruitless == 0:
        return 0.0
    return float(min(budget.max_backoff_seconds, budget.backoff_seconds * 2 ** (fruitless - 1)))


def _sleep(seconds: float, run: RunFolder) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if run.stop.exists():
            raise Stopped
        time.sleep(0.2)


def _progress(run: RunFolder) -> tuple[int, int | None]:
    """Steps logged, and steps of the whole run."""
    steps = [record["step"] for record in read_lines(run.metrics) if record["kind"] == "train"]
    return steps[-1] if steps else 0, (read_json(run.plan) or {}).get("steps")


def _watch_starter(run: RunFolder) -> None:
    """Ask the ranks to stop when the process that started this one is gone."""
    while os.read(sys.stdin.fileno(), 1024):
        pass
    run.stop.touch()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
