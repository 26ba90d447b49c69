"""A job's run for a benchmark: one rank, without Ray, in a process of its own, and not again where it was done."""

import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from windlass.engine.machine import this_machine
from windlass.engine.preparation import prepare_run
from windlass.engine.rank_settings import RankSettings
from windlass.engine.run_folder import RunFolder, read_json, write_json
from windlass.engine.train_function import train_alone
from windlass.spec.job import LLMTrainingJob
from windlass.spec.loading import dump_job

Measure = Callable[[RunFolder], dict[str, Any]]

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["windlass.engine.train_function"])


def run(job: LLMTrainingJob, measure: Measure) -> dict[str, Any]:
    """Train in runs/NAME unless it is done; returns what `measure` found, with `trained` (parameters) and `seconds`.

    Seconds are of one core: what training and measuring take on a machine that does nothing else.
    """
    folder = RunFolder(Path("runs").absolute() / job.metadata.name)
    if not folder.result.exists():
        folder.path.mkdir(parents=True, exist_ok=True)
        folder.job.write_text(dump_job(job))
        settings = prepare_run(job, folder, this_machine(), 1, lambda message: None)
        rank = PROCESSES.Process(target=_train, args=(settings, measure))
        rank.start()
        rank.join()
        if rank.exitcode:
            raise SystemExit(f"{folder.name} failed: see {folder.log('rank-0')}")
    return dict(read_json(folder.result) or {})


def _train(settings: RankSettings, measure: Measure) -> None:
    begin = time.process_time()
    train_alone(settings)
    folder = RunFolder(settings.folder)
    measured = measure(folder)
    seconds = time.process_time() - begin
    write_json(folder.result, measured | {"seconds": seconds, "trained": settings.plan.trained})
