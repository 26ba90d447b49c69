from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from windlass.cli import show
from windlass.cli.progress import Progress, lines

SCORE = {"task": "arc_easy", "metric": "acc", "value": 0.25, "is_part": False}


def train(step: int, second: float, **fields: Any) -> dict[str, Any]:
    moment = f"2026-01-31T12:{int(second) // 60:02}:{second % 60:06.3f}+00:00"
    return {
        "kind": "train",
        "step": step,
        "loss": 2.5,
        "tokens_per_second": 31234.0,
        "mfu": None,
        "time": moment,
    } | fields


def test_progress_knows_the_newest_of_everything() -> None:
    progress = Progress("plays", total_steps=100, baseline=2.4512)
    for record in (
        {"kind": "phase", "phase": "Running", "message": ""},
        train(1, 0),
        train(11, 5),
        {"kind": "validation", "step": 11, "loss": 2.25},
        {"kind": "suites", "step": 11, "scores": [SCORE, SCORE | {"task": "mmlu_anatomy", "is_part": True}]},
        {"kind": "checkpoint", "step": 10},
    ):
        progress.take(record)
    assert progress.line() == (
        "step 11/100  loss 2.5000  validation 2.2500  bigram 2.4512  31.2k tokens/s  44s left  checkpoint 10"
        "  arc_easy acc 0.250"
    )


def test_mfu_is_shown_where_it_is_known() -> None:
    progress = Progress("plays", total_steps=100)
    progress.take(train(1, 0, mfu=0.414))
    assert "MFU 41%" in progress.line()


def test_the_estimate_starts_anew_after_a_restart() -> None:
    progress = Progress("plays", total_steps=100)
    progress.take(train(1, 0))
    progress.take(train(2, 1))
    progress.take({"kind": "phase", "phase": "Recovering", "message": "RankFailed: gone"})
    progress.take(train(2, 60))
    assert progress.remaining is None
    progress.take(train(3, 61))
    assert progress.remaining == 97


def test_the_panel_fits_a_narrow_terminal() -> None:
    progress = Progress("plays", total_steps=100)
    progress.take(train(50, 0))
    screen = StringIO()
    Console(file=screen, width=40, force_terminal=True, color_system=None).print(progress)
    assert max(len(line) for line in screen.getvalue().splitlines()) <= 40
    assert "loss 2.5000" in screen.getvalue()


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"kind": "phase", "phase": "Running", "message": "Training on 2 ranks"}, ["Training on 2 ranks"]),
        ({"kind": "phase", "phase": "Succeeded", "message": "30 of 30 steps"}, []),
        (
            {"kind": "phase", "phase": "Recovering", "message": "RankFailed: gone"},
            ["Recovering: RankFailed: gone"],
        ),
        ({"kind": "plan", "message": "Model  tiny"}, ["  Model  tiny"]),
        ({"kind": "warning", "message": "careful"}, ["Warning: careful"]),
        ({"kind": "validation", "step": 5, "loss": 2.0}, ["step 5  validation loss 2.0000"]),
        (
            {"kind": "sample", "step": 5, "prompt": "def ", "text": "f():\n\x1b[2Jpass\n"},
            ["step 5  the model continues 'def ':", "    def f():\n    \N{REPLACEMENT CHARACTER}[2Jpass"],
        ),
        (train(5, 0), []),
    ],
)
def test_records_become_lines_worth_reading(record: dict[str, Any], expected: list[str]) -> None:
    assert lines(record) == expected


def test_counts_and_durations_are_short() -> None:
    assert [show.count(number) for number in (7, 950, 31234, 1_640_000, 2e9)] == ["7", "950", "31.2k", "1.64M", "2G"]
    assert [show.duration(seconds) for seconds in (0, 42.4, 185, 7800, 356400)] == [
        "0s",
        "42s",
        "3m05s",
        "2h10m",
        "4d03h",
    ]


def test_a_table_is_aligned() -> None:
    assert show.table(("A", "LONG"), [("wide", "1"), ("x", "")]) == ["A     LONG", "wide  1", "x"]
