"""The first process of a worker pod: keeps its Ray joined to the head's, and tells the head of its ranks.

    python -m windlass.engine.pods worker

It ends with exit code 0 when the job is over, or after SIGTERM, once the ranks here have saved and stopped.
"""

import asyncio
import contextlib
import dataclasses
import logging
import os
import signal
import time
from typing import Any

from windlass.engine.pods import ray_node
from windlass.engine.pods.client import HeadClient, Unreachable
from windlass.engine.pods.follow import Followed
from windlass.engine.pods.mirror import Mirror
from windlass.engine.pods.pod import Pod, fit_folder
from windlass.engine.pods.ranks import RanksHere
from windlass.engine.pods.supervise import Child, Children
from windlass.engine.pods.worker_machine import worker_machine
from windlass.engine.run_folder import Record

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.1
RETRY_SECONDS = 0.2
"""Between two tries to reach a head that is not there."""
GRACE_SECONDS = 110.0
"""How long the ranks may take to save after SIGTERM; the pod has 120."""
FAREWELL_SECONDS = 5.0
"""How long Ray may take to end by itself after that."""


class Worker:
    """What is going on in this pod."""

    def __init__(self, pod: Pod, head: HeadClient) -> None:
        self.pod = pod
        self.index = int(os.environ["WINDLASS_WORKER_INDEX"])
        self.cpus, self.gpus = int(os.environ["WINDLASS_CPUS"]), int(os.environ["WINDLASS_GPUS"])
        self.environment = ray_node.ranks_environment(pod, ranks=self.gpus or self.cpus)
        self.machine = worker_machine(self.gpus, int(self.environment["OMP_NUM_THREADS"]))
        self.head = head
        self.children = Children()
        self.ranks = RanksHere(pod.run)
        self.answer: Record | None = None
        """The head's last one."""
        self.ray: Child | None = None
        self.joined = False
        """Whether Ray here has joined the head's."""
        self.leaving: float | None = None
        """Since when this pod is on its way out."""
        self.deaths: list[Record] = []
        """Those that the head has not heard of."""
        self._news = asyncio.Event()

    async def run(self) -> None:
        """Work until the job is over or this pod has to go."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._leave)
        tasks = [
            asyncio.create_task(task) for task in (self._keep_ray(), self._watch_ranks(), self._mirror(), self._talk())
        ]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        if self.leaving and self.ray:
            self.ray.signal(signal.SIGTERM)  # it tells the others, who would otherwise miss it only after seconds
            await asyncio.wait([self.ray.ended], timeout=FAREWELL_SECONDS)
        await self.children.kill_all()
        self.ranks.print_logs()
        for task in done:
            task.result()

    def _leave(self) -> None:
        logger.info("This pod is asked to end; the ranks save first")
        self.leaving = self.leaving or time.monotonic()
        self._news.set()

    async def _talk(self) -> None:
        """Exchange heartbeats with the head until the job is over."""
        known = None
        while not (self.answer or {}).get("done"):
            deaths, self.deaths = self.deaths, []
            beat = asyncio.create_task(self.head.beat(self.index, self._heartbeat(deaths)))
            news = asyncio.create_task(self._news.wait())
            await asyncio.wait({beat, news}, return_when=asyncio.FIRST_COMPLETED)
            news.cancel()
            if not beat.done():
                self._news.clear()
                beat.cancel()
                self.deaths = deaths + self.deaths
                continue
            try:
                self.answer = beat.result()
                known = None
            except Unreachable as error:
                self.deaths = deaths + self.deaths
                if known != str(error):
                    logger.warning("The head does not answer: %s", error)
                known = str(error)
                await asyncio.sleep(RETRY_SECONDS)
        logger.info("The job is over")

    def _heartbeat(self, deaths: list[Record]) -> Record:
        return {
            "pod": self.pod.name,
            "node": self.pod.node,
            "ip": self.pod.ip,
            "machine": dataclasses.asdict(self.machine),
            "joined": self.joined,
            "leaving": self.leaving is not None,
            "ranks": self.ranks.alive,
            "deaths": deaths,
            "knows": self.answer,
        }

    def _cluster(self) -> tuple[Any, ...] | None:
        """The Ray to join; None while there is none."""
        if not self.answer or not self.answer["ray"]:
            return None
        return self.answer["ray"], self.answer["rayStarted"], self.answer["attempt"]

    async def _keep_ray(self) -> None:
        """Join the head's Ray; again, with nothing left of the old one, when either has been started anew."""
        while True:
            log = self.pod.run.path / "ray.log"
            log.parent.mkdir(parents=True, exist_ok=True)
            log.unlink(missing_ok=True)
            command = ray_node.command("worker", str(self.cpus), str(self.gpus))
            settings = ray_node.environment() | self.environment
            ray = self.ray = self.children.start("ray", *command, environment=settings, log=log)
            while (cluster := self._cluster()) is None:
                await asyncio.sleep(POLL_SECONDS)
            ray.tell(cluster[0])
            await self._while_ray_runs(ray, Followed(log), cluster)
            self.joined = False
            logger.info("Ray is started again: %s", "it ended" if ray.ended.done() else "the head has a new one")
            await self.children.kill_all()

    async def _while_ray_runs(self, ray: Child, log: Followed, cluster: tuple[Any, ...]) -> None:
        while not ray.ended.done() and self._cluster() in (cluster, None):
            lines = log.read().lines
            self.joined = self.joined or ray_node.STARTED.encode() in lines
            await asyncio.wait([ray.ended], timeout=POLL_SECONDS)

    async def _watch_ranks(self) -> None:
        """Print their logs, note who dies, pass on the wish to stop; ends when this pod may go."""
        while True:
            if deaths := self.ranks.deaths():
                self.deaths += deaths
                self._news.set()
            answer = self.answer or {}
            if answer.get("stop") and answer.get("fit"):
                stop = fit_folder(self.pod.run, answer["fit"]).stop
                stop.parent.mkdir(parents=True, exist_ok=True)
                stop.touch()
            if self.leaving and self._may_go():
                return
            await asyncio.sleep(POLL_SECONDS)

    async def _mirror(self) -> None:
        """Bring what rank 0 writes here to the head."""
        mirrors: dict[str, Mirror | None] = {}
        while True:
            for folder in self.pod.run.path.glob("fits/*"):
                mirrors.setdefault(folder.name, Mirror(folder, self.head))
            for fit, mirror in mirrors.items():
                if mirror is not None and not await mirror.send():
                    mirrors[fit] = None
            await asyncio.sleep(POLL_SECONDS)

    def _may_go(self) -> bool:
        assert self.leaving is not None
        return self.ranks.alive == 0 or time.monotonic() - self.leaving > GRACE_SECONDS


async def serve_and_work(pod: Pod) -> None:
    """The worker, and its server beside it."""
    from windlass.engine.pods.worker_server import serve

    async with HeadClient(os.environ["WINDLASS_HEAD"], pod.token) as head:
        worker = Worker(pod, head)
        server = asyncio.create_task(serve(worker))
        with contextlib.ExitStack() as ends:
            ends.callback(server.cancel)
            await worker.run()


def main() -> int:
    """Work in this pod; returns the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    asyncio.run(serve_and_work(Pod.here()))
    return 0
