"""How long the steps that a head tells of speak for its workers, and when it is silent."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from windlass.spec.status import Progress
from windlass_operator.job import Key
from windlass_operator.lifecycle.observed import HeadPhase, HeadReport
from windlass_operator.progress import Asked, ProgressPoller

START = datetime(2026, 1, 31, 12, tzinfo=UTC)
PAUSE = 5.0
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
    for second, step in answers:
        asked.take(report(second, step), PAUSE)
    assert asked.report is not None
    assert asked.report.vouched_until == (None if until is None else START + timedelta(seconds=until))


@pytest.mark.parametrize(
    ("missed", "silent"),
    [
        ([8, 12], False),  # too few
        ([5, 6, 7], False),  # too soon, as when a head ends and its pod says so a moment later
        ([8, 12, 16], True),
        ([5, 6, 7, 8, 9, 10], True),
    ],
)
def test_a_head_is_silent_after_three_questions_in_a_row_and_ten_seconds(missed: list[int], silent: bool) -> None:
    asked = Asked("uid")
    asked.take(report(0, 10), PAUSE)
    for second in missed:
        asked.miss(START + timedelta(seconds=second))
    assert asked.silent == silent
    asked.take(report(30, 20), PAUSE)
    assert not asked.silent


def test_a_head_in_doubt_is_asked_each_second_and_its_silence_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    gone, pauses, news, steps = ConnectionRefusedError(), list[float](), list[Key](), list[Key]()
    answers: list[HeadReport | Exception | None]
    answers = [report(0, 10), gone, gone, gone, gone, report(40, 10), None, report(45, 12)]

    async def fetch(url: str, token: str) -> HeadReport | None:
        answer = answers[len(pauses)]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == len(answers):
            raise asyncio.CancelledError

    async def story() -> None:
        poller = ProgressPoller(news.append, steps.append)
        monkeypatch.setattr(poller, "_fetch", fetch)
        monkeypatch.setattr(asyncio, "sleep", sleep)
        poller.ask(KEY, "uid", "10.0.0.1", "token")
        await asyncio.gather(*poller._tasks.values(), return_exceptions=True)

    asyncio.run(story())
    assert pauses == [5, 1, 1, 1, 1, 5, 5, 5]
    assert news == [KEY] * 3, "it trains; it is silent; it is back"
    assert steps == [KEY]


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
