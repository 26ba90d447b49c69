"""The history of a run, read from metrics.jsonl into arrays, and thinned to what a chart can show."""

import json
import math
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]

PARTS = ("data", "forward_backward", "optimizer", "checkpoint")
"""Parts of a step that are timed apart."""
TRAIN = ("step", "loss", "learning_rate", "gradient_norm", "tokens", "tokens_per_second", "mfu")
VALIDATION = ("step", "loss")
SCORES = ("step", "value", "low", "high")
SECONDS = ("total", *PARTS)


@dataclass(frozen=True)
class History:
    """What was logged: a column per field, NaN where a line has no number."""

    train: dict[str, Numbers]
    """step, loss, learning_rate, gradient_norm, tokens, tokens_per_second, mfu, and seconds by part: [lines]."""
    validation: dict[str, Numbers]
    """step and loss: [validations]."""
    samples: list[dict[str, Any]]
    """step, prompt and text of each sample."""
    suites: dict[str, dict[str, Numbers]]
    """Task and metric -> step, value, low, high (of the interval): [times it was run]."""


def read_history(metrics: Path) -> History:
    """Read metrics.jsonl, of any length; empty where there is none yet."""
    train = {name: array("d") for name in (*TRAIN, *SECONDS)}
    validation = {name: array("d") for name in VALIDATION}
    samples = []
    suites: dict[str, dict[str, array[float]]] = {}
    for record in read_records(metrics):
        match record.get("kind"):
            case "train":
                _append(train, record | record.get("step_seconds", {}))
            case "validation":
                _append(validation, record)
            case "sample":
                samples.append(record)
            case "suites":
                for score in record.get("scores", []):
                    if not score["is_part"]:
                        columns = suites.setdefault(
                            f"{score['task']}, {score['metric']}", {name: array("d") for name in SCORES}
                        )
                        low, high = score["interval"] or (None, None)
                        _append(columns, score | {"step": record["step"], "low": low, "high": high})
    return History(
        _arrays(train), _arrays(validation), samples, {name: _arrays(columns) for name, columns in suites.items()}
    )


def read_records(lines: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a .jsonl file, of which there may be none yet."""
    if not lines.exists():
        return
    with open(lines, encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                record = json.loads(line)
            except json.JSONDecodeError:  # torn: it is being written, or its writer died
                continue
            if isinstance(record, dict):
                yield record


def _append(columns: dict[str, "array[float]"], record: dict[str, Any]) -> None:
    for name, column in columns.items():
        value = record.get(name)
        column.append(value if isinstance(value, int | float) else math.nan)


def _arrays(columns: dict[str, "array[float]"]) -> dict[str, Numbers]:
    return {name: np.array(column, dtype=np.float64) for name, column in columns.items()}


@dataclass(frozen=True)
class Curve:
    """A column for a chart: the mean, least and greatest value of neighbouring steps, NaN where none is finite."""

    steps: Numbers
    mean: Numbers
    low: Numbers
    high: Numbers
    smooth: Numbers = field(repr=False)
    """Moving mean over a fortieth of the curve."""


def thin(steps: Numbers, values: Numbers, points: int = 500) -> Curve:
    """At most `points` points: neighbouring steps are taken together."""
    size = max(1, math.ceil(len(values) / points))
    mean, low, high = (_finite(values, size, name) for name in ("mean", "min", "max"))
    return Curve(_finite(steps, size, "mean"), mean, low, high, _smooth(mean, max(1, len(mean) // 40)))


def _finite(values: Numbers, size: int, reduction: str) -> Numbers:
    padded = np.pad(values, (0, -len(values) % size), constant_values=math.nan).reshape(-1, size)
    reduced: Numbers = getattr(np.ma.masked_invalid(padded), reduction)(axis=1).filled(math.nan)
    return reduced


def _smooth(values: Numbers, window: int) -> Numbers:
    if window == 1:
        return values
    kernel, finite = np.ones(window), np.isfinite(values)
    total = np.convolve(np.where(finite, values, 0), kernel, mode="same")
    count = np.convolve(finite, kernel, mode="same")
    return np.where(finite, total / np.maximum(count, 1), math.nan)
