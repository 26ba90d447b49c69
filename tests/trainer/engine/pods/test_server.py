"""Workers and their head, over real HTTP."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from tests.trainer.engine.pods.test_progress import step

from windlass.engine.pods import client as client_module
from windlass.engine.pods.client import HeadClient, Unreachable
from windlass.engine.pods.mirror import Mirror
from windlass.engine.pods.progress import RunView
from windlass.engine.pods.server import LOST_SECONDS, SILENT_SECONDS, Head, application
from windlass.engine.run_folder import RunFolder, read_json, read_lines
from windlass.spec.job import LLMTrainingJob

BEAT = {"pod": "tiny-worker-0", "node": "node1", "ip": "10.0.0.1", "machine": {}, "joined": True, "leaving": False}


@pytest.fixture
def head(tmp_path: Path, tiny_job: Callable[..., LLMTrainingJob]) -> Head:
    run = RunFolder(tmp_path / "head")
    run.path.mkdir()
    return Head(run=run, view=RunView(run, tiny_job(), attempt=1), attempt=1, token="right")


@asynccontextmanager
async def served(head: Head, token: str = "right") -> AsyncIterator[HeadClient]:
    async with TestServer(application(head)) as server, HeadClient(str(server.make_url("")), token) as client:
        yield client


def beat(knows: Any = None, **changes: Any) -> dict[str, Any]:
    return {**BEAT, "deaths": [], "knows": knows, **changes}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/healthz", 200),
        ("GET", "/readyz", 503),
        ("GET", "/metrics", 200),
        ("GET", "/progress", 401),
        ("POST", "/workers/0", 401),
        ("PUT", "/run/metrics.jsonl?fit=1-1", 401),
        ("POST", "/run/events?fit=1-1&offset=0", 401),
        ("GET", "/nothing", 401),
    ],
)
def test_without_the_token_only_health_and_metrics_answer(head: Head, method: str, path: str, status: int) -> None:
    async def story() -> None:
        async with TestServer(application(head)) as server, aiohttp.ClientSession() as session:
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "right"}):
                async with session.request(method, server.make_url(path), headers=headers) as response:
                    assert response.status == status

    asyncio.run(story())


def test_a_heartbeat_is_answered_when_there_is_something_new(head: Head) -> None:
    async def story() -> None:
        async with served(head) as client:
            known = await client.beat(0, beat())
            assert (known["attempt"], known["ray"], known["done"], known["stop"]) == (1, None, False, False)
            waiting = asyncio.create_task(client.beat(0, beat(known)))
            head.ray = "10.0.0.9:6379"
            assert (await waiting)["ray"] == "10.0.0.9:6379"
            head.run.stop.touch()
            assert (await client.beat(0, beat(known)))["stop"]
        assert read_json(head.run.workers)[0].items() >= {"index": 0, "ip": "10.0.0.1"}.items()

    asyncio.run(story())


def test_a_question_for_progress_is_answered_when_there_is_news_or_the_wait_is_over(head: Head) -> None:
    async def story() -> None:
        async with TestServer(application(head)) as server, aiohttp.ClientSession() as session:

            async def ask(**query: str) -> dict[str, Any]:
                headers = {"Authorization": "Bearer right"}
                async with session.get(server.make_url("/progress"), params=query, headers=headers) as response:
                    report: dict[str, Any] = await response.json()
                    return report

            head.run.metrics.write_text(json.dumps(step(1)) + "\n")
            version = (await ask())["version"]
            assert (await ask(wait="60"))["version"] == (await ask(wait="60", version="another"))["version"] == version
            held = asyncio.create_task(ask(wait="60", version=version))
            with open(head.run.metrics, "a") as file:
                file.write(json.dumps(step(2)) + "\n")  # progress, which can wait
            await asyncio.sleep(0.5)
            assert not held.done()
            head.run.enter("Starting", "Ranks import")
            report = await held
            assert (report["phase"], report["message"], report["progress"]["step"]) == ("Starting", "Ranks import", 2)
            assert report["version"] != version
            assert await ask(wait="0.2", version=report["version"]) == report

    asyncio.run(story())


def test_a_head_that_stood_still_has_lost_no_worker(head: Head) -> None:
    head.take(0, beat())
    head.heard[0] -= LOST_SECONDS
    head.awake -= LOST_SECONDS
    assert head.report()["workers"]["lost"] == []


def test_a_worker_that_falls_silent_without_a_word_is_lost(head: Head) -> None:
    for index, leaving in enumerate([False, True, False]):
        head.take(index, beat(leaving=leaving))
    assert head.report()["workers"]["lost"] == []
    before = head.report()["version"]
    for index in (0, 1):
        head.heard[index] -= LOST_SECONDS
    assert head.report()["workers"]["lost"] == [0]
    assert head.report()["version"] != before
    head.take(0, beat())
    assert head.report()["workers"]["lost"] == []


def test_a_wrong_token_and_a_head_that_is_gone_are_unreachable(head: Head) -> None:
    async def story() -> None:
        async with served(head, token="wrong") as client:
            with pytest.raises(Unreachable, match="401"):
                await client.beat(0, beat())
        async with HeadClient("http://127.0.0.1:9", "right") as client:
            with pytest.raises(Unreachable, match=r"127\.0\.0\.1"):
                await client.beat(0, beat())

    asyncio.run(story())


def test_a_worker_that_leaves_is_no_place_any_more_and_its_ranks_are_asked_to_save(head: Head) -> None:
    async def story() -> None:
        async with served(head) as client:
            await client.beat(1, beat())
            await client.beat(1, beat(leaving=True))
            assert not head.run.pause.exists(), "nothing trains"
            head.run.tell("fit", "", fit="1-1", workers=[1])
            await client.beat(1, beat())
            assert (await client.beat(1, beat(leaving=True)))["stop"]
        assert read_json(head.run.workers) == []

    asyncio.run(story())


def test_with_fewer_ranks_than_workers_those_are_asked_to_save_whose_worker_leaves_wherever_they_are(
    head: Head,
) -> None:
    def leave(index: int, ranks: int) -> bool:
        head.run.pause.unlink(missing_ok=True)
        head.take(index, beat(ranks=ranks))
        head.take(index, beat(ranks=ranks, leaving=True))
        return head.run.pause.exists()

    head.run.tell("fit", "", fit="1-1", workers=[0, 1])  # and Ray has placed them on 1 and 2
    head.run.enter("Running")
    head.view.update()
    assert not leave(0, ranks=0)
    assert leave(1, ranks=1)
    assert leave(2, ranks=1)
    assert not leave(3, ranks=0)


def test_ranks_that_start_in_a_worker_that_leaves_are_asked_to_save(head: Head) -> None:
    head.run.enter("Starting")
    head.run.tell("fit", "", fit="1-1", workers=[0, 1])
    head.view.update()
    head.take(2, beat(ranks=0, leaving=True))
    assert not head.run.pause.exists(), "none were to start there"
    head.take(2, beat(ranks=1, leaving=True))
    assert head.run.pause.exists(), "Ray started one there all the same"
    head.run.pause.unlink()
    head.take(0, beat(ranks=0, leaving=True))
    assert head.run.pause.exists(), "one is about to start there"


def test_a_worker_that_was_silent_for_a_while_is_a_place_again(head: Head) -> None:
    def places() -> list[int]:
        return [worker["index"] for worker in read_json(head.run.workers)]

    head.take(0, beat())
    head.heard[0] -= SILENT_SECONDS
    head.take(1, beat())
    assert places() == [1]
    head.take(0, beat())
    assert places() == [0, 1]


def test_a_file_that_takes_long_for_its_size_arrives_and_a_head_that_does_not_answer_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client_module, "TIMEOUT_SECONDS", 0.3)
    monkeypatch.setattr(client_module, "SLOWEST", 1 << 20)
    taken: list[int] = []

    async def take(request: web.Request) -> web.Response:
        await asyncio.sleep(1)
        taken.append(len(await request.read()))
        return web.Response()

    async def story() -> None:
        slow = web.Application(client_max_size=1 << 30)
        slow.add_routes([web.put("/run/metrics.jsonl", take)])
        async with TestServer(slow) as server, HeadClient(str(server.make_url("")), "right") as client:
            await client.send("PUT", "/run/metrics.jsonl", b"x" * (8 << 20))
            with pytest.raises(Unreachable, match="Timeout"):
                await client.send("PUT", "/run/metrics.jsonl", b"x")

    asyncio.run(story())
    assert taken == [8 << 20]


def test_metrics_and_events_come_whole_and_once_whatever_is_lost_between(head: Head, tmp_path: Path) -> None:
    worker = RunFolder(tmp_path / "worker" / "fits" / "1-1")
    worker.path.mkdir(parents=True)
    worker.metrics.write_bytes(b'{"kind": "train", "step": 1, "step_seconds": {"total": 1}}\n')
    worker.enter("Running")
    head.run.tell("fit", "", fit="1-1", workers=[0])

    async def story() -> None:
        async with served(head) as client:
            mirror = Mirror(worker.path, client)
            assert await mirror.send()
            with open(worker.metrics, "ab") as file:
                file.write(b'{"kind": "train", "step": 2, "step_seconds": {"total": 1}}\n')
            assert await mirror.send()
            assert await mirror.send()
            again = Mirror(worker.path, client)  # as when answers were lost
            assert await again.send()
            assert head.run.metrics.read_bytes() == worker.metrics.read_bytes()
            assert [event["kind"] for event in read_lines(head.run.events)] == ["fit", "phase"]

            head.run.enter("Recovering")
            worker.tell("info", "an old rank that does not know that it has been replaced")
            assert not await mirror.send()
        assert [event["kind"] for event in read_lines(head.run.events)] == ["fit", "phase", "phase"]

    asyncio.run(story())
