"""How long the steps that a head tells of speak for its workers."""

from datetime import UTC, datetime, timedelta

import pytest

from windlass.spec.status import Progress
from windlass_operator.lifecycle.observed import HeadPhase, HeadReport
from windlass_operator.progress import Asked

START = datetime(2026, 1, 31, 12, tzinfo=UTC)
PAUSE = 5.0


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


def test_a_head_is_silent_when_it_has_left_three_questions_in_a_row_unanswered() -> None:
    asked = Asked("uid")
    for _ in range(2):
        asked.unanswered += 2
        assert not asked.silent
        asked.take(report(0, 10), PAUSE)
    asked.unanswered += 3
    assert asked.silent
    asked.take(report(30, 20), PAUSE)
    assert not asked.silent


def test_steps_of_a_head_that_does_not_train_speak_for_nobody() -> None:
    asked = Asked("uid")
    asked.take(report(0, 10), PAUSE)
    asked.take(report(5, 12, "Stopping"), PAUSE)
    assert asked.report is not None
    assert asked.report.vouched_until is None
