"""What a worker tells its head."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.trainer.engine.pods.test_server import served
from tests.trainer.engine.pods.test_supervise import alone

from windlass.engine.pods.pod import Pod, fit_folder
from windlass.engine.pods.progress import RunView
from windlass.engine.pods.server import Head
from windlass.engine.pods.worker import Worker
from windlass.engine.run_folder import RunFolder, write_json
from windlass.spec.job import LLMTrainingJob


def test_a_head_hears_how_many_ranks_run_in_a_worker(
    tiny_job: Callable[..., LLMTrainingJob], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("right")
    environment = {"WINDLASS_WORKER_INDEX": "3", "WINDLASS_CPUS": "1", "WINDLASS_GPUS": "0"}
    environment |= dict.fromkeys(("WINDLASS_JOB_NAME", "WINDLASS_NAMESPACE", "WINDLASS_JOB_UID"), "tiny")
    environment |= {"POD_IP": "127.0.0.1", "WINDLASS_TOKEN_FILE": str(tmp_path / "token"), "TMPDIR": str(tmp_path)}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("WINDLASS_JOB", tiny_job().model_dump_json())
    alone(_tells_of_its_ranks, tmp_path)


async def _tells_of_its_ranks(folder: Path) -> None:
    run = RunFolder(folder / "head")
    run.path.mkdir()
    job = LLMTrainingJob.model_validate_json(os.environ["WINDLASS_JOB"])
    head = Head(run=run, view=RunView(run, job, attempt=1), attempt=1, token="right")

    async def heard(ranks: int) -> None:
        while head.workers.get(3, {}).get("ranks") != ranks:
            await asyncio.sleep(0.02)

    async with served(head) as client:
        pod = Pod.here()
        worker = Worker(pod, client)
        tasks = [asyncio.create_task(task) for task in (worker._talk(), worker._watch_ranks())]
        await heard(0)
        write_json(fit_folder(pod.run, "1-1").rank(0), {"pid": os.getpid()})
        await heard(1)
        for task in tasks:
            task.cancel()
