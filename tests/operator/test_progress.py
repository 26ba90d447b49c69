"""How long the steps that a head tells of speak for its workers, and when it is silent."""

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestServer
from tests.operator.desired.cases import job_of
from tests.trainer.engine.pods.test_progress import step

from windlass.engine.pods.progress import RunView
from windlass.engine.pods.server import Head, application
from windlass.engine.run_folder import RunFolder
from windlass.spec.status import Progress
from windlass_operator import progress
from windlass_operator.job import Key
from windlass_operator.lifecycle.observed import HeadPhase, HeadReport
from windlass_operator.progress import Asked, ProgressMessage, ProgressPoller

START = datetime(2026, 1, 31, 12, tzinfo=UTC)
PAUSE = 7.0
KEY = ("default", "plays")


def report(second: float, step: int, phase: HeadPhase = "Running") -> HeadReport:
    moment = START + timedelta(seconds=second)
    return HeadReport(1, phase, "", START, moment, workers=2, progress=Progress(step=step))


@pytest.mark.parametrize(
    ("answers", "until"),
    [
        ([(0, 10)], None),  # its first answer: these steps may be old
        ([(0, 10), (5, 10)], None),
        ([(0, 10), (5, 12)], 5 + 7),  # until the next answer
        ([(0, 10), (5, 12), (10, 14), (15, 14), (20, 14)], 10 + 7),
        ([(0, 1), (5, 2), (35, 3)], 35 + 30),  # for as long as that step took
        ([(0, 1), (5, 2), (905, 3)], 905 + 60),  # that was no step, but an evaluation
        ([(0, 100), (5, 120), (30, 100), (35, 101)], 35 + 30),  # back at its checkpoint, and on
    ],
)
def test_a_new_step_speaks_for_the_workers_until_the_next_is_due(
    answers: list[tuple[float, int]], until: float | None
) -> None:
    asked = Asked("uid")
    for second, number in answers:
        asked.take(report(second, number), PAUSE)
    assert asked.report is not None
    assert asked.report.vouched_until == (None if until is None else START + timedelta(seconds=until))


@pytest.mark.parametrize(
    ("missed", "silent"),
    [
        ([6, 16], False),  # too few
        ([5, 6, 7], False),  # too soon, as when a head ends and its pod says so a moment later
        ([6, 9, 12], True),
        ([5, 6, 7, 8, 9, 10, 11], True),
    ],
)
def test_a_head_is_silent_after_three_questions_in_a_row_and_six_seconds(missed: list[int], silent: bool) -> None:
    asked = Asked("uid")
    asked.take(report(0, 10), PAUSE)
    for second in missed:
        asked.miss(START + timedelta(seconds=second))
    assert asked.silent == silent
    asked.hear()
    assert not asked.silent


def test_a_head_that_has_ended_is_not_silent() -> None:
    asked = Asked("uid")
    asked.take(report(0, 10, "Succeeded"), PAUSE)
    for second in range(20):
        asked.miss(START + timedelta(seconds=second))
    assert not asked.silent


def test_heads_that_are_older_or_newer_than_the_operator_are_understood() -> None:
    old = {"attempt": 1, "phase": "Running", "since": START.isoformat(), "workers": {"training": 2, "joined": 2}}
    new = old | {"version": "7", "workers": {"training": 2, "lost": [1], "other": 0}, "other": 1}
    messages = [ProgressMessage.model_validate_json(json.dumps(one), extra="ignore") for one in (old, new)]
    assert [message.workers.lost for message in messages] == [(), (1,)]
    assert messages[1].news == "7"
    steps = [messages[0].model_copy(update={"progress": Progress(step=step)}) for step in (1, 2)]
    assert steps[0].news == steps[1].news == messages[0].news
    assert messages[0].model_copy(update={"phase": "Recovering"}).news != messages[0].news


def answer(version: str, step: int, phase: HeadPhase = "Running") -> ProgressMessage:
    made = Progress(step=step)
    return ProgressMessage(attempt=1, phase=phase, version=version, since=START, progress=made, failures=[])


def test_a_head_holds_questions_and_one_in_doubt_is_asked_each_second(monkeypatch: pytest.MonkeyPatch) -> None:
    gone, news, steps = ConnectionRefusedError(), list[Key](), list[Key]()
    asked, pauses = list[str | None](), list[float]()
    clock = [100.0]
    story: list[tuple[float, ProgressMessage | Exception | None]] = [
        (0, answer("a", 10)),  # it trains
        (10, answer("a", 20)),  # it held the question
        (2, answer("b", 22, "Recovering")),  # until there was news
        (0, answer("b", 22, "Recovering")),  # it does not hold
        (0, None),  # something else answers
        (10, answer("b", 22, "Recovering")),
        (0, gone),
        (0, answer("b", 22, "Recovering")),  # it is there, and its next question is held
        *[(0, gone)] * 8,
        (0, answer("c", 30)),
    ]

    async def fetch(url: str, token: str, question: dict[str, str]) -> ProgressMessage | None:
        assert question.get("wait", "10.000") == "10.000"
        took, told = story[len(asked)]
        asked.append(question.get("version"))
        clock[0] += took
        if isinstance(told, Exception):
            raise told
        return told

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        clock[0] += seconds
        if len(asked) == len(story):
            raise asyncio.CancelledError

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> "Clock":
            return cls.fromtimestamp(clock[0], tz)

    async def ask() -> None:
        poller = ProgressPoller(news.append, steps.append)
        monkeypatch.setattr(poller, "_fetch", fetch)
        monkeypatch.setattr(asyncio, "sleep", sleep)
        monkeypatch.setattr(progress, "datetime", Clock)
        monkeypatch.setattr(time, "monotonic", lambda: clock[0])
        poller.ask(KEY, "uid", "10.0.0.1", "token", 2)
        await asyncio.gather(*poller._tasks.values(), return_exceptions=True)

    asyncio.run(ask())
    assert asked == [None, "a", "a", "b", "b", "b", "b", None, "b", *[None] * 8]
    assert pauses == pytest.approx([0, 0.5, 0, 0, 10, 10, 0, 1, 0.5, *[1] * 8, 0.5])
    assert news == [KEY] * 4, "it trains; it recovers; it is silent; it is back"
    assert steps == [KEY]


def test_heads_that_are_all_new_are_asked_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    async def fetch(*_: object) -> None:
        asked.append(time.monotonic())

    async def story() -> None:
        poller = ProgressPoller(lambda _: None, lambda _: None)
        monkeypatch.setattr(poller, "_fetch", fetch)
        start = time.monotonic()
        for number in range(50):
            poller.ask(("default", f"job-{number}"), "uid", "10.0.0.1", "token", 2)
        while len(asked) < 50:
            await asyncio.sleep(0.01)
        await poller.close()
        assert asked[-1] - start >= 49 / progress.NEWS_A_SECOND

    asyncio.run(story())


def test_where_most_heads_are_silent_the_operator_is_cut_off() -> None:
    poller = ProgressPoller(lambda _: None, lambda _: None)
    for number in range(10):
        poller._asked["default", f"job-{number}"] = Asked("uid", silent=number < 5)
    assert poller.silent(("default", "job-0"))
    poller._asked["default", "job-5"].silent = True
    assert not poller.silent(("default", "job-0"))


def test_steps_of_a_head_that_does_not_train_speak_for_nobody() -> None:
    asked = Asked("uid")
    asked.take(report(0, 10), PAUSE)
    asked.take(report(5, 12, "Stopping"), PAUSE)
    assert asked.report is not None
    assert asked.report.vouched_until is None


def test_news_of_a_head_arrives_at_once_and_its_progress_when_the_hold_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The head's own server at one end, the operator's poller at the other."""
    monkeypatch.setattr(progress, "HOLD_SECONDS", 6.0)
    run = RunFolder(tmp_path)
    head = Head(run, RunView(run, job_of().document, attempt=1), attempt=1, token="token")
    news = asyncio.Event()

    async def heard(poller: ProgressPoller) -> HeadReport:
        await asyncio.wait_for(news.wait(), 60)
        news.clear()
        report = poller.report(KEY)
        assert report is not None
        return report

    async def story() -> None:
        async with TestServer(application(head)) as server:
            monkeypatch.setattr(progress, "PORT", server.port)
            told = asyncio.Event()
            poller = ProgressPoller(lambda _: news.set(), lambda _: told.set())
            poller.ask(KEY, "uid", "127.0.0.1", "token", 2)
            assert (await heard(poller)).phase == "Preparing"
            assert head.replicas == 2
            await asyncio.sleep(0.7)  # the next question is held
            run.enter("Starting", "Ranks import")
            at = time.monotonic()
            assert (await heard(poller)).message == "Ranks import"
            assert time.monotonic() - at < 5, "before the hold is over"
            run.metrics.write_text(json.dumps(step(1)) + "\n")
            assert (await heard(poller)).progress is not None
            with open(run.metrics, "a") as file:
                file.write(json.dumps(step(2)) + "\n")
            await asyncio.wait_for(told.wait(), 60)
            await poller.close()

    asyncio.run(story())
