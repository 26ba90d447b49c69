"""A run's history is read whatever its length and state, and thinned without hiding anything."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from windlass.evaluation.history import read_history, thin


def test_no_metrics_yet_is_an_empty_history(tmp_path: Path) -> None:
    history = read_history(tmp_path / "metrics.jsonl")
    assert len(history.train["loss"]) == len(history.validation["loss"]) == len(history.samples) == 0


def score(value: float) -> dict[str, Any]:
    interval = [value - 0.125, value + 0.125]
    return {"task": "arc_easy", "metric": "acc", "value": value, "interval": interval, "is_part": False}


def test_lines_are_read_by_kind_and_what_is_not_a_number_is_nan(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    records = [
        {"kind": "train", "step": 1, "loss": 2.5, "mfu": None, "step_seconds": {"total": 0.5, "data": 0.1}},
        {"kind": "train", "step": 2, "loss": math.nan, "step_seconds": {}},
        {"kind": "validation", "step": 2, "loss": 3.5},
        {"kind": "sample", "step": 2, "prompt": "a", "text": "b"},
        {"kind": "suites", "step": 0, "scores": [score(0.25)]},
        {"kind": "suites", "step": 2, "scores": [score(0.5), score(0.1) | {"is_part": True, "task": "mmlu_anatomy"}]},
        {"kind": "checkpoint", "step": 2},
    ]
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    history = read_history(file)
    np.testing.assert_equal(history.train["loss"], [2.5, math.nan])
    np.testing.assert_equal(history.train["mfu"], [math.nan, math.nan])
    np.testing.assert_equal(history.train["data"], [0.1, math.nan])
    np.testing.assert_equal(history.validation["loss"], [3.5])
    assert history.samples[0]["text"] == "b"
    assert list(history.suites) == ["arc_easy, acc"]
    np.testing.assert_equal(history.suites["arc_easy, acc"]["step"], [0, 2])
    np.testing.assert_equal(history.suites["arc_easy, acc"]["value"], [0.25, 0.5])
    np.testing.assert_equal(history.suites["arc_easy, acc"]["high"], [0.375, 0.625])


@pytest.mark.parametrize("torn", [b'{"kind": "train", "step', b"\x00\x00\x00", b'"text \xff', b"7"])
def test_a_torn_last_line_is_left_out(tmp_path: Path, torn: bytes) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(b'{"kind": "train", "step": 1, "loss": 2.5}\n' + torn)
    assert len(read_history(file).train["step"]) == 1


def test_a_short_curve_is_kept_as_it_is() -> None:
    steps = np.arange(1.0, 101)
    curve = thin(steps, steps**2, points=500)
    np.testing.assert_equal(curve.steps, steps)
    np.testing.assert_equal(curve.mean, steps**2)


def test_a_long_curve_keeps_its_extremes() -> None:
    steps = np.arange(1.0, 100_001)
    values = np.sin(steps)
    values[70_000] = 9
    curve = thin(steps, values, points=500)
    assert len(curve.mean) == 500
    assert np.nanmax(curve.high) == 9
    np.testing.assert_allclose(curve.mean.mean(), values.mean())


def test_neighbours_of_nan_are_averaged_without_it() -> None:
    curve = thin(np.arange(4.0), np.array([1.0, math.nan, math.inf, math.nan]), points=2)
    np.testing.assert_equal(curve.mean, [1.0, math.nan])


def test_smoothing_keeps_a_constant_and_leaves_gaps() -> None:
    values = np.full(400, 3.0)
    values[100:150] = math.nan
    smooth = thin(np.arange(400.0), values).smooth
    np.testing.assert_allclose(smooth[np.isfinite(values)], 3)
    assert np.isnan(smooth[100:150]).all()
