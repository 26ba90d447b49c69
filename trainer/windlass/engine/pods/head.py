"""The first process of a head pod: starts Ray and the driver, serves their progress, starts again what dies.

    python -m windlass.engine.pods head

SIGTERM lets the ranks save and stop. It ends with the driver's exit code; how the run ended is in the termination
message.
"""

import asyncio
import logging
import os
import signal
import sys
import time
from typing import TYPE_CHECKING

from windlass.engine.pods import ray_node
from windlass.engine.pods.pod import Pod
from windlass.engine.pods.supervise import Child, Children
from windlass.errors import BAD_INPUT, DONE, FAILED, INTERRUPTED

if TYPE_CHECKING:
    from windlass.engine.pods.server import Head

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.1
GRACE_SECONDS = 110.0
"""How long the driver may take to stop after SIGTERM; the pod has 120."""
FAREWELL_SECONDS = 5.0
"""How long the end of the job waits for workers to hear of it."""


async def supervise(pod: Pod) -> int:
    """Run the job to the end of this pod; returns the exit code."""
    pod.run.path.mkdir(parents=True, exist_ok=True)
    children = Children()
    ray, driver = _start_ray(pod, children), _start_driver(children)
    # Imports come after, while those two import as well.
    from windlass.engine.pods.progress import RunView
    from windlass.engine.pods.server import Head
    from windlass.engine.pods.termination import write_termination
    from windlass.spec.job import LLMTrainingJob

    job = LLMTrainingJob.model_validate_json(os.environ["WINDLASS_JOB"])
    attempt = int(os.environ["WINDLASS_ATTEMPT"])
    head = Head(run=pod.run, view=RunView(pod.run, job, attempt), attempt=attempt, token=pod.token)
    restarts = job.spec.lifecycle.restarts
    budget = restarts.infrastructure - int(os.environ["WINDLASS_RESTARTS"])
    reached, fruitless = -1, 0  # the first restart is at once
    stopping = _stop_on_sigterm(pod)
    server = asyncio.create_task(_serve(pod, head))
    while True:
        code = await _watch(pod, head, ray, driver, stopping)
        if code in (DONE, BAD_INPUT, FAILED, INTERRUPTED) or stopping.is_set():
            break
        without_ray = ray.ended.done()
        what = "Ray" if without_ray else "The driver"
        if head.view.update().restarts >= budget:
            pod.run.enter(
                "Failed", f"RestartsExhausted: {what} in the head died {_death(code)}", reason="RestartsExhausted"
            )
            code = FAILED
            break
        pod.run.enter("Recovering", f"HeadLost: {what} in the head died {_death(code)}", reason="HeadLost")
        if without_ray:
            head.ray, head.ray_started = None, head.ray_started + 1
            await children.kill_all()
        from windlass.engine.driver import backoff  # 16 MB that a head without trouble saves

        before, reached = reached, _step(head)
        fruitless = 0 if reached > before else fruitless + 1
        await _rest(head, backoff(restarts, fruitless), stopping)
        if stopping.is_set():
            code = INTERRUPTED
            break
        if without_ray:
            ray = _start_ray(pod, children)
        driver = _start_driver(children)
    status = write_termination(pod, head.view.update(), job, code, stopped=stopping.is_set())
    head.done = status.over
    deadline = time.monotonic() + FAREWELL_SECONDS
    while head.done and time.monotonic() < deadline and {w["index"] for w in head.joined()} - head.told:
        await asyncio.sleep(POLL_SECONDS)
    server.cancel()
    await children.kill_all()
    return status.exit_code


def _start_ray(pod: Pod, children: Children) -> Child:
    log = pod.run.path / "ray.log"
    return children.start("ray", *ray_node.command("head"), environment=ray_node.environment(), log=log)


def _start_driver(children: Children) -> Child:
    return children.start("driver", sys.executable, "-m", "windlass.engine.pods.driver", environment={})


def _stop_on_sigterm(pod: Pod) -> asyncio.Event:
    stopping = asyncio.Event()

    def stop() -> None:
        stopping.set()
        pod.run.stop.touch()
        pod.run.enter("Stopping", "Saving a checkpoint")

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop)
    return stopping


async def _watch(pod: Pod, head: "Head", ray: Child, driver: Child, stopping: asyncio.Event) -> int:
    """Wait until Ray or the driver ends, and tell workers when Ray listens; returns the exit code."""
    deadline = None
    while not (ray.ended.done() or driver.ended.done()):
        head.keep_time()
        if head.ray is None and await _listens(pod.ip, pod.ray_port):
            head.ray = f"{pod.ip}:{pod.ray_port}"
        if stopping.is_set():
            deadline = deadline or time.monotonic() + GRACE_SECONDS
            if time.monotonic() > deadline:
                driver.signal(signal.SIGKILL)
        await asyncio.wait([ray.ended, driver.ended], timeout=POLL_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    return driver.ended.result() if driver.ended.done() else ray.ended.result() or -signal.SIGKILL


async def _rest(head: "Head", seconds: float, stopping: asyncio.Event) -> None:
    """Wait before the next start, unless this pod has to end; the server goes on answering."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not stopping.is_set():
        head.keep_time()
        await asyncio.sleep(POLL_SECONDS)


def _step(head: "Head") -> int:
    """The newest step that was logged."""
    progress = head.view.update().progress()
    return progress.step if progress else 0


async def _listens(host: str, port: int) -> bool:
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(host, port), timeout=1)
    except OSError:
        return False
    writer.close()
    return True


async def _serve(pod: Pod, head: "Head") -> None:
    from aiohttp import web

    from windlass.engine.pods.server import application

    runner = web.AppRunner(application(head), access_log=None, shutdown_timeout=POLL_SECONDS)  # of held questions
    await runner.setup()
    try:
        await web.TCPSite(runner, pod.ip, pod.http_port).start()
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


def _death(code: int) -> str:
    return f"by signal {-code}" if code < 0 else f"with exit code {code}"


def main() -> int:
    """Supervise this pod; returns the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    return asyncio.run(supervise(Pod.here()))
