"""What the head serves: its progress, and the run folder's metrics and events for rank 0, which is in another pod."""

import asyncio
import hmac
import logging
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from aiohttp import web

from windlass.engine.pods.progress import RunView
from windlass.engine.run_folder import Record, RunFolder, write_json

logger = logging.getLogger(__name__)

ANSWER_SECONDS = 1.0
"""How long a heartbeat is held when there is nothing new to answer."""
STANDSTILL_SECONDS = 1.0
"""From one call of `keep_time` to the next; when more, the process stood still."""
HOLD_SECONDS = 300.0
"""The longest time for which a question for progress is held."""
POLL_SECONDS = 0.1
SILENT_SECONDS = 5.0
"""A worker that has not been heard of for this long does not count as joined."""
LOST_SECONDS = 8.0
"""One that has not been heard of for this long, and did not say that it leaves, is told to the operator."""
OPEN = {"/healthz", "/readyz", "/metrics"}
"""Paths that need no token; the job's NetworkPolicy says who reaches them."""
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Head:
    """What the head's supervisor knows and its server tells."""

    run: RunFolder
    view: RunView
    attempt: int
    token: str
    ray: str | None = None
    """Ray's address, once it listens."""
    ray_started: int = 0
    """How often Ray has been started in this pod; workers join each one anew."""
    done: bool = False
    """The job is over, and workers may go."""
    workers: dict[int, Record] = field(default_factory=dict)
    heard: dict[int, float] = field(default_factory=dict)
    """When the last heartbeat of each came (monotonic)."""
    awake: float = field(default_factory=time.monotonic)
    """When `keep_time` was called last (monotonic)."""
    listed: list[Record] = field(default_factory=list)
    """The workers that the run folder's list has."""
    told: set[int] = field(default_factory=set)
    """Workers that know that the job is over."""
    offsets: dict[str, int] = field(default_factory=dict)
    replicas: int | None = None
    """Workers that the job should have, as the operator told last."""

    def answer(self) -> Record:
        """What a heartbeat is answered."""
        view = self.view.update()
        stop = self.run.stop.exists() or self.run.pause.exists()
        return {
            "attempt": self.attempt,
            "ray": self.ray,
            "rayStarted": self.ray_started,
            "done": self.done,
            "fit": view.fit,
            "stop": stop,
        }

    def joined(self) -> list[Record]:
        """Workers that stay."""
        alive = time.monotonic() - SILENT_SECONDS
        return [
            worker
            for index, worker in sorted(self.workers.items())
            if self.heard[index] > alive and not worker["leaving"]
        ]

    def keep_time(self) -> None:
        """Called all the time. Time in which this process stood still makes no worker silent."""
        now = time.monotonic()
        if (pause := now - self.awake) > STANDSTILL_SECONDS:
            self.heard = {index: at + pause for index, at in self.heard.items()}
        self.awake = now

    def lost(self) -> list[int]:
        """Workers that have fallen silent without a word."""
        self.keep_time()
        alive = time.monotonic() - LOST_SECONDS
        return sorted(
            index for index, worker in self.workers.items() if self.heard[index] < alive and not worker["leaving"]
        )

    def report(self) -> Record:
        """What a question for progress is answered."""
        return self.view.update().report(self.lost())

    def take(self, index: int, beat: Record) -> None:
        """Note a worker's heartbeat."""
        self.heard[index] = time.monotonic()
        for death in beat["deaths"]:
            self.view.note_death({**death, "pod": beat["pod"], "node": beat["node"]})
        noted = ("pod", "node", "ip", "machine", "leaving", "joined", "ranks")
        worker = {"index": index} | {key: beat[key] for key in noted if key in beat}
        if worker["leaving"] and worker != self.workers.get(index) and self._has_ranks(worker):
            self.run.pause.touch()
        self.workers[index] = worker
        if (joined := self.joined()) != self.listed:
            self.listed = joined
            write_json(self.run.workers, joined)

    def _has_ranks(self, worker: Record) -> bool:
        """Whether ranks run there, or are about to: Ray may choose other workers than those that the driver took."""
        ranks = worker.get("ranks")
        if ranks is None or (ranks == 0 and self.view.phase["phase"] != "Running"):
            return worker["index"] in self.view.training
        return bool(ranks)

    def want(self, replicas: int) -> None:
        """Note how many workers the job should have now: the head may have been born with another number."""
        if replicas != self.replicas:
            self.replicas = replicas
            write_json(self.run.wanted, {"replicas": replicas})

    def append(self, file: str, fit: str, offset: int, lines: bytes) -> int:
        """Append what is new of rank 0's lines, which begin at `offset` of its file; returns the bytes known of it."""
        path = self.run.metrics if file == "metrics.jsonl" else self.run.events
        known = self.offsets.get(f"{fit}/{file}", 0)
        if offset <= known < offset + len(lines):
            with open(path, "ab", buffering=0) as target:
                target.write(lines[known - offset :])
            known = self.offsets[f"{fit}/{file}"] = offset + len(lines)
        return known


def application(head: Head) -> web.Application:
    """The head's server."""

    @web.middleware
    async def authorised(request: web.Request, handler: Handler) -> web.StreamResponse:
        shown = request.headers.get("Authorization", "")
        if request.path in OPEN or hmac.compare_digest(shown.encode(), f"Bearer {head.token}".encode()):
            return await handler(request)
        return web.Response(status=401, text="This needs the job's token.\n", headers={"WWW-Authenticate": "Bearer"})

    async def health(request: web.Request) -> web.Response:
        return web.Response()  # the loop that answers is the one that supervises

    async def ready(request: web.Request) -> web.Response:
        return web.Response(status=200 if head.ray else 503)

    async def progress(request: web.Request) -> web.Response:
        """At once, or for one who knows the `version` already, when there is another or `wait` seconds are over."""
        if "replicas" in request.query:
            head.want(int(request.query["replicas"]))
        known, wait = request.query.get("version"), float(request.query.get("wait", 0))
        report = await _held(head.report, lambda report: report["version"] == known, min(wait, HOLD_SECONDS))
        return web.json_response(report)

    async def metrics(request: web.Request) -> web.Response:
        from windlass.engine.pods.metrics import text

        return web.Response(text=text(head.view.update(), len(head.joined())), content_type="text/plain")

    async def heartbeat(request: web.Request) -> web.Response:
        index, beat = int(request.match_info["index"]), await request.json()
        head.take(index, beat)
        answer = await _held(head.answer, lambda answer: answer == beat["knows"], ANSWER_SECONDS)
        if answer["done"]:
            head.told.add(index)
        return web.json_response(answer)

    async def put_metrics(request: web.Request) -> web.Response:
        body = await request.read()
        if request.query["fit"] != head.view.update().fit:
            return _of_another_fit()
        partial = head.run.metrics.with_suffix(".partial")
        partial.write_bytes(body)
        os.replace(partial, head.run.metrics)
        head.offsets[f"{head.view.fit}/metrics.jsonl"] = len(body)
        return web.Response()

    async def append(request: web.Request) -> web.Response:
        """Lines of metrics.jsonl or events.jsonl from `offset` on; what came before an answer was lost is there."""
        fit, offset = request.query["fit"], int(request.query["offset"])
        body = await request.read()
        if fit != head.view.update().fit:
            return _of_another_fit()
        known = head.append(request.match_info["file"], fit, offset, body)
        return web.json_response({"known": known}, status=200 if known >= offset + len(body) else 416)

    app = web.Application(middlewares=[authorised], client_max_size=1 << 30)
    app.add_routes(
        [
            web.get("/healthz", health),
            web.get("/readyz", ready),
            web.get("/metrics", metrics),
            web.get("/progress", progress),
            web.post("/workers/{index:\\d+}", heartbeat),
            web.put("/run/metrics.jsonl", put_metrics),
            web.post("/run/{file:metrics.jsonl|events}", append),
        ]
    )
    return app


async def _held(answer: Callable[[], Record], known: Callable[[Record], bool], seconds: float) -> Record:
    """The answer once it is not `known`, or when the seconds are over."""
    deadline = time.monotonic() + seconds
    while known(newest := answer()) and time.monotonic() < deadline:
        await asyncio.sleep(POLL_SECONDS)
    return newest


def _of_another_fit() -> web.Response:
    return web.Response(status=409, text="The ranks that wrote this have been replaced.\n")
