"""The report is one safe, self-contained page, whatever state the run is in."""

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from windlass.evaluation.report import write_report

VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """Tags, attributes and text of a page; fails where a tag is not closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style":
            self.text += data


def train(step: int, loss: float = 2.5) -> dict[str, Any]:
    return {
        "kind": "train",
        "step": step,
        "loss": loss,
        "learning_rate": 1e-3,
        "gradient_norm": 1.5,
        "tokens": step * 512,
        "tokens_per_second": 1700.0,
        "mfu": None,
        "step_seconds": {"total": 0.3, "data": 0.01, "forward_backward": 0.2, "optimizer": 0.05, "checkpoint": 0.0},
    }


RESULT: dict[str, Any] = {
    "name": "demo",
    "status": "Succeeded",
    "steps": 40,
    "total_steps": 40,
    "tokens": 20480,
    "seconds": 75.0,
    "final": {"loss": 1.5, "validation_loss": 1.625},
    "baseline": {"name": "bigram", "validation_loss": 2.375},
    "parameters": 124_439_808,
    "world_size": 2,
    "strategy": "DDP",
    "precision": "FP32",
    "checkpoint": {"step": 40, "uri": "s3://runs/demo/step-40"},
    "environment": {"python": "3.11.7", "cores": 2, "memory_bytes": 2**34, "packages": {"torch": "2.13.0"}},
}


def report(folder: Path, records: list[dict[str, Any]], result: dict[str, Any] | None = RESULT) -> Page:
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "metrics.jsonl").write_text(lines)
    (folder / "job.yaml").write_text("kind: LLMTrainingJob\nmetadata: {name: demo}\n")
    if result is not None:
        (folder / "result.json").write_text(json.dumps(result))
    return Page(write_report(folder).read_text(encoding="utf-8"))


RUN = [train(step, 4 - step / 20) for step in range(1, 41)] + [{"kind": "validation", "step": 40, "loss": 1.625}]


def test_result_is_at_the_top_and_the_rest_follows(tmp_path: Path) -> None:
    text = report(tmp_path, RUN).text
    order = [
        "Succeeded",
        "Beats the bigram baseline on held-out text: 1.625 against 2.375 nats per token.",
        "124 M",
        "1m15s",
        "Loss, nats per token",
        "Gradient norm",
        "forward and backward 200.0 ms (67%)",
        "2.13.0",
        "s3://runs/demo/step-40",
        "kind: LLMTrainingJob",
    ]
    places = [text.find(part) for part in order]
    assert -1 not in places
    assert places == sorted(places)


def test_page_asks_for_nothing_from_elsewhere_and_runs_nothing(tmp_path: Path) -> None:
    page = report(tmp_path, RUN)
    assert page.tags.isdisjoint({"script", "link", "img", "iframe", "object", "image"})
    references = [value for name, value in page.attributes if name in {"src", "href", "xlink:href", "action"}]
    assert all(value.startswith("#") for value in references)
    source = (tmp_path / "report.html").read_text()
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", source))
    assert "@import" not in source


def test_colours_come_from_the_page_so_that_light_and_dark_are_both_readable(tmp_path: Path) -> None:
    report(tmp_path, RUN)
    page = (tmp_path / "report.html").read_text()
    drawings = "".join(re.findall(r"<svg.*?</svg>", page, re.DOTALL))
    assert "stroke: var(--train)" in drawings
    assert re.findall(r"#[0-9a-f]{6}\b", drawings) == []
    assert "prefers-color-scheme: dark" in page


def test_what_a_model_writes_is_text_and_never_markup(tmp_path: Path) -> None:
    hostile = "</pre><script>alert(1)</script><img src=x onerror=alert(1)>&amp;"
    records = [
        {"kind": "sample", "step": step, "prompt": f"<b>{hostile}", "text": hostile + "\x00\x1b\ud800"}
        for step in (0, 40)
    ]
    page = report(tmp_path, records)
    assert page.tags.isdisjoint({"script", "img"})
    assert page.text.count(hostile) == 4
    assert "\x00" not in page.text


def test_samples_stand_side_by_side_by_prompt(tmp_path: Path) -> None:
    records = [
        {"kind": "sample", "step": step, "prompt": prompt, "text": f"{step}!"}
        for step in (0, 20, 40)
        for prompt in "ab"
    ]
    text = re.sub(r"\s+", "", report(tmp_path, records).text)
    row = "Randommodel,beforestep1{0}0!Step20{0}20!Theend,step40{0}40!"
    assert row.format("a") + row.format("b") in text


def test_a_model_worse_than_the_baseline_is_said_to_be(tmp_path: Path) -> None:
    text = report(tmp_path, RUN, RESULT | {"final": {"loss": 3.0, "validation_loss": 3.0}}).text
    assert "Does not beat the bigram baseline" in text


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ("Stopped", "Stopped after 20 of 40 steps. Run it again to continue."),
        ("Failed", "Failed after 20 of 40 steps."),
    ],
)
def test_an_unfinished_run_says_how_far_it_came(tmp_path: Path, status: str, words: str) -> None:
    assert words in report(tmp_path, RUN[:20], RESULT | {"status": status, "steps": 20}).text


def test_a_failure_says_what_happened_and_what_to_do(tmp_path: Path) -> None:
    failed = RESULT | {"status": "Failed", "reason": "StorageFull", "message": "No space for <checkpoint>"}
    text = report(tmp_path, RUN, failed).text
    for words in ("StorageFull", "No space for <checkpoint>", "Free space and run again."):
        assert words in text


def test_a_job_that_failed_before_it_began_has_a_page(tmp_path: Path) -> None:
    nothing = dict.fromkeys(("final", "baseline", "parameters", "checkpoint", "environment", "total_steps"))
    failed = {
        "name": "demo",
        "status": "Failed",
        "reason": "DataNotFound",
        "message": "s3://x is not there",
        "steps": 0,
    }
    assert "s3://x is not there" in report(tmp_path, [], nothing | failed).text


def test_a_run_that_is_under_way_has_a_page(tmp_path: Path) -> None:
    assert "Not finished yet" in report(tmp_path, RUN, result=None).text


def test_an_empty_folder_has_a_page(tmp_path: Path) -> None:
    assert tmp_path.name in Page(write_report(tmp_path).read_text()).text


@pytest.mark.parametrize(
    "records",
    [
        [train(1)],
        [train(1), train(2)],
        [train(step, math.nan) for step in range(1, 10)],
        [train(1), train(2, math.inf), train(3, math.nan)],
        [train(1, 1e30), train(2, 1e-30)],
        [{"kind": "validation", "step": 1, "loss": 2.0}],
        [train(1) | {"mfu": 0.45}],
    ],
    ids=["one step", "two steps", "all NaN", "some NaN", "wild", "no training line", "with MFU"],
)
def test_odd_histories_have_a_page(tmp_path: Path, records: list[dict[str, Any]]) -> None:
    report(tmp_path, records)


def test_a_run_of_many_steps_has_a_small_page(tmp_path: Path) -> None:
    report(tmp_path, [train(step, 2 + math.sin(step)) for step in range(1, 30_001)])
    assert (tmp_path / "report.html").stat().st_size < 1_000_000


def test_phases_warnings_and_the_last_plan_are_told(tmp_path: Path) -> None:
    time = "2026-01-02T03:04:05.678+00:00"
    events = [
        {"time": time, "kind": "phase", "phase": "Recovering", "message": "From the checkpoint of step 20"},
        {"time": time, "kind": "info", "message": "not shown"},
        {"time": time, "kind": "plan", "message": "Ranks        1 on cpu"},
        {"time": time, "kind": "plan", "message": "Ranks        2 on cpu, DDP: a replica fits"},
        {"time": time, "kind": "warning", "message": "Rank 1 died of signal 9"},
    ]
    torn = '{"time": "2026'
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events) + torn)
    text = report(tmp_path, RUN).text
    for words in ("2026-01-02 03:04:05", "Recovering", "Rank 1 died of signal 9", "2 on cpu, DDP: a replica fits"):
        assert words in text
    assert "not shown" not in text
    assert "1 on cpu" not in text


def test_the_same_run_gives_the_same_page(tmp_path: Path) -> None:
    report(tmp_path, RUN)
    first = (tmp_path / "report.html").read_bytes()
    report(tmp_path, RUN)
    assert (tmp_path / "report.html").read_bytes() == first
