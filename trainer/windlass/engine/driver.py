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
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING

from windlass.engine.failures import Stopped, as_windlass_error
from windlass.engine.places import OneMachine, Places
from windlass.engine.result import write_result
from windlass.engine.run_folder import RunFolder, read_json, read_lines
from windlass.errors import DONE, INTERRUPTED, WindlassError
from windlass.lock import Claim, claim_storage, require_held
from windlass.spec.checks import ranks
from windlass.spec.job import LLMTrainingJob, Restarts
from windlass.spec.loading import load_job

if TYPE_CHECKING:
    from windlass.engine.preparation import Prepared

# What imports torch is imported in functions: its seconds pass while Ray's processes start.

logger = logging.getLogger(__name__)


def main(folder: Path) -> int:
    """Run the job of a run folder on this machine to its end; returns the exit code."""
    run = RunFolder(folder)
    job = load_job(run.job)
    threading.Thread(target=_watch_starter, args=(run,), daemon=True).start()
    return drive(job, run, lambda: OneMachine(ranks(job.spec)))


def drive(job: LLMTrainingJob, run: RunFolder, places: Callable[[], Places], restarts: int = 0) -> int:
    """Run a job to its end in the places that it is given; returns the exit code.

    `restarts`: how many of the job's budget were used before.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    start = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: run.stop.touch())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C belongs to the process that started this one
    with closing(places()) as found, ExitStack() as claims:
        claim = None
        try:
            claim = claim_storage(run.checkpoints_uri(job), run=run.name, folder=str(run.path))
            claims.callback(claim.release)
            try:
                _run(job, run, found, claim, restarts)
            except Stopped:
                logger.info("Stopped while nothing trained")
            code = _end(job, run, start)
            if code == DONE:
                found.keep(run, claim)
                return DONE
        except Exception as error:
            logger.exception("The run failed")
            code = _fail(job, run, start, as_windlass_error(error))
        try:
            if claim is not None:  # else what is there is another run's
                found.keep(run, claim)
        except WindlassError as error:  # the checkpoints are what counts
            logger.warning("What the run leaves is not kept: %s", error)
        return code


def _fail(job: LLMTrainingJob, run: RunFolder, start: float, failure: WindlassError) -> int:
    """Write why a run failed; returns the exit code."""
    try:
        run.enter("Failed", f"{failure.reason}: {failure}", reason=failure.reason)
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


def _run(job: LLMTrainingJob, run: RunFolder, places: Places, claim: Claim, restarts: int) -> None:
    def progress(message: str) -> None:
        run.tell("info", message)
        if run.stop.exists():
            raise Stopped

    run.enter("Preparing")
    from windlass.engine.preparation import prepare_data

    places.check()
    prepared = prepare_data(job, run, progress)
    progress(f"Logs: {run.path / 'logs'}")
    _train(prepared, run, places, claim, restarts)


def _train(prepared: "Prepared", run: RunFolder, places: Places, claim: Claim, restarts: int) -> None:
    """Train, starting the ranks again from the last checkpoint when one dies, within the job's budget.

    Raises StorageInUse once the claim on the checkpoints is another's: ranks that start fence those of before.
    """
    from windlass.engine.preparation import settings_for, tell_plan

    budget, uri = prepared.job.spec.lifecycle.restarts, run.checkpoints_uri(prepared.job)
    fruitless = 0
    plan = None
    while True:
        before, _ = _progress(run)
        try:
            require_held(claim, uri)
            world_size = places.gather()
            require_held(claim, uri)  # places may have been waited for for hours
            machine = places.machine()
            settings = settings_for(prepared, run, machine, world_size)
            if settings.plan != plan:
                tell_plan(settings, run, machine)
                plan = settings.plan
            run.enter("Starting", f"Starting {world_size} rank{'s' * (world_size > 1)}")
            if places.fit(settings):
                return
        except Stopped:
            raise
        except Exception as error:
            failure = as_windlass_error(error)
            # An earlier head that did not know of us has started ranks, which fence ours; new ones fence those.
            fenced = failure.reason == "StorageInUse" and claim.held()
            if not (failure.retryable or fenced):
                raise
            if restarts >= budget.infrastructure:
                raise WindlassError(
                    "RestartsExhausted", f"Restarted {restarts} times; the last failure: {failure.reason}: {failure}"
                ) from error
            restarts += 1
            fruitless = 0 if _progress(run)[0] > before else fruitless + 1
            wait = backoff(budget, fruitless)
            run.enter(
                "Recovering",
                f"{failure.reason}: {failure} Restart {restarts} of {budget.infrastructure}",
                reason=failure.reason,
            )
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
