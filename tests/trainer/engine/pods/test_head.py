"""What the head's supervisor starts again, and when."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import urllib.request
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from tests.trainer.engine.pods.test_progress import step
from tests.trainer.engine.pods.test_supervise import alone

from windlass.engine.pods import head
from windlass.engine.pods.pod import Pod
from windlass.engine.pods.supervise import Child, Children
from windlass.engine.run_folder import RunFolder, read_lines
from windlass.spec.job import LLMTrainingJob

DIES = "import sys, time; open(sys.argv[1], 'a').write(f'{time.time()}\\n'); sys.exit(1)"
"""Notes when it was started, and dies."""
LIVES = "import time; time.sleep(1000)"


@pytest.fixture
def job(
    tiny_job: Callable[..., LLMTrainingJob], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[[float], None]:
    """Sets the environment of a head whose job may restart three times, and waits for so many seconds at first."""
    (tmp_path / "token").write_text("right")
    with socket.create_server(("127.0.0.1", 0)) as http, socket.create_server(("127.0.0.1", 0)) as ray:
        ports = {"WINDLASS_HTTP_PORT": http.getsockname()[1], "WINDLASS_RAY_PORT": ray.getsockname()[1]}
    environment = {name: str(port) for name, port in ports.items()}
    environment |= {"WINDLASS_ATTEMPT": "1", "WINDLASS_RESTARTS": "0", "POD_IP": "127.0.0.1", "TMPDIR": str(tmp_path)}
    environment |= dict.fromkeys(("WINDLASS_JOB_NAME", "WINDLASS_NAMESPACE", "WINDLASS_JOB_UID"), "tiny")
    environment["WINDLASS_TOKEN_FILE"] = str(tmp_path / "token")
    environment["WINDLASS_TERMINATION_LOG"] = str(tmp_path / "termination")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    def make(backoff: float) -> None:
        restarts = ("lifecycle.restarts.infrastructure=3", f"lifecycle.restarts.backoffSeconds={backoff}")
        monkeypatch.setenv("WINDLASS_JOB", tiny_job("checkpoints.uri=s3://runs/tiny", *restarts).model_dump_json())

    return make


def starts(folder: Path) -> list[float]:
    """When what dies was started."""
    with contextlib.suppress(FileNotFoundError):
        return [float(line) for line in (folder / "starts").read_text().splitlines()]
    return []


async def supervised(
    folder: Path, before_start: Callable[[RunFolder], None] = lambda run: None, *, ray: str = LIVES, driver: str = DIES
) -> int:
    """Supervise programs in the place of Ray and the driver."""

    def start_ray(pod: Pod, children: Children) -> Child:
        return children.start("ray", sys.executable, "-c", ray, str(folder / "starts"), environment={})

    def start_driver(children: Children) -> Child:
        before_start(Pod.here().run)
        return children.start("driver", sys.executable, "-c", driver, str(folder / "starts"), environment={})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(head, "_start_ray", start_ray)
        patch.setattr(head, "_start_driver", start_driver)
        return await head.supervise(Pod.here())


async def _driver_dies(folder: Path) -> None:
    assert await supervised(folder) == 3


async def _ray_dies(folder: Path) -> None:
    assert await supervised(folder, ray=DIES, driver=LIVES) == 3


@pytest.mark.parametrize("story", [_driver_dies, _ray_dies])
def test_what_dies_again_and_again_is_started_later_each_time(
    story: Callable[[Path], Coroutine[Any, Any, None]], job: Callable[[float], None], tmp_path: Path
) -> None:
    job(1.0)
    alone(story, tmp_path)
    _, second, third, fourth = starts(tmp_path)
    assert third - second >= 1.0
    assert fourth - third >= 2.0
    assert json.loads((tmp_path / "termination").read_bytes())["reason"] == "RestartsExhausted"


def test_a_driver_that_trained_further_is_started_again_at_once(job: Callable[[float], None], tmp_path: Path) -> None:
    job(200.0)
    alone(_dies_after_a_step, tmp_path)
    assert len(starts(tmp_path)) == 4


async def _dies_after_a_step(folder: Path) -> None:
    def train(run: RunFolder) -> None:
        with open(run.metrics, "a") as file:
            file.write(json.dumps(step(1 + len(starts(folder)))) + "\n")

    assert await supervised(folder, train) == 3


def test_a_head_that_waits_to_start_its_driver_answers_and_ends_at_once_when_asked(
    job: Callable[[float], None], tmp_path: Path
) -> None:
    job(200.0)
    alone(_stopped_while_it_waits, tmp_path)
    assert len(starts(tmp_path)) == 2
    assert json.loads((tmp_path / "termination").read_bytes())["status"] == "Stopped"


async def _stopped_while_it_waits(folder: Path) -> None:
    pod = Pod.here()
    supervisor = asyncio.create_task(supervised(folder))
    while sum(event.get("phase") == "Recovering" for event in read_lines(pod.run.events)) < 2:
        await asyncio.sleep(0.05)

    def ask() -> dict[str, Any]:
        url, headers = f"http://{pod.ip}:{pod.http_port}/progress", {"Authorization": "Bearer right"}
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as response:
            report: dict[str, Any] = json.load(response)
            return report

    assert (await asyncio.to_thread(ask))["phase"] == "Recovering"
    assert not supervisor.done()
    os.kill(os.getpid(), signal.SIGTERM)
    assert await asyncio.wait_for(supervisor, 10) == 130
