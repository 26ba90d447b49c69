"""report.html: a run on one page that needs no other file, no script and no network."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from windlass.evaluation import record
from windlass.evaluation.charts import line_chart, loss_chart, score_chart, step_parts, step_time_chart
from windlass.evaluation.history import History, Numbers, read_history, read_records
from windlass.spec.reasons import REASONS

MAX_EVENTS = 100
"""Events shown: the last ones."""
MOST_ITEMS = 50
"""Test items in training data that are shown; evaluation.json has all."""
FILE = "report.html"


@dataclass(frozen=True)
class Chart:
    """A chart with what explains it."""

    title: str
    drawing: Markup
    keys: list[tuple[str, str]]
    """Colour (a variable of the page) and text of each line; the text names the last or mean value."""
    wide: bool = False


def write_report(folder: Path) -> Path:
    """Write report.html from a run folder's job.yaml, metrics.jsonl, events.jsonl, result.json and evaluation.json.

    Files that are missing, or cut off by a kill, leave their part of the page empty. Returns the page's path.
    """
    result = read_object(folder / "result.json")
    history = read_history(folder / "metrics.jsonl")
    events = list(read_records(folder / "events.jsonl"))
    evaluated = read_object(folder / record.FILE)
    of_model = evaluated and not (folder / "job.yaml").exists()
    baseline = (result.get("baseline") or {}).get("validation_loss")
    sections = (
        *_classification(result),
        ("Pairs of answers, validation split", _preference(result)),
        ("Test items in training data", list(record.known_items(evaluated))[:MOST_ITEMS] if evaluated else []),
        ("Plan", list(facts_of_plan(events).items())),
        ("Environment", _facts(result or evaluated)),
    )
    return render(
        "report.html",
        folder / FILE,
        name=result.get("name", evaluated["model"]["name"] if of_model else folder.name),
        status=None if of_model else result.get("status", "Running"),
        headline=_about(evaluated["model"]) if of_model else headline(result, baseline),
        failure=_failure(result),
        tiles=_tiles(result, history),
        charts=list(_charts(history, baseline)),
        samples=samples(history, result),
        events=_told(events),
        evaluation=record.table(evaluated) if evaluated else ([], []),
        asked=list(record.samples(evaluated)) if evaluated else [],
        evaluated=bool(evaluated),
        notes=list(record.notes(evaluated)) if evaluated else [],
        tables=[(title, rows) for title, rows in sections if rows],
        job=_read_text(folder / "job.yaml"),
    )


def render(template: str, page: Path, **values: Any) -> Path:
    """Write a page, whole or not at all; returns its path."""
    environment = Environment(
        loader=PackageLoader("windlass.evaluation", ""), autoescape=True, undefined=StrictUndefined
    )
    environment.filters |= {"visible": record.visible}
    text = environment.get_template(template).render(**values)
    partial = page.with_suffix(".partial")
    partial.write_bytes(text.encode("utf-8", errors="replace"))
    os.replace(partial, page)
    return page


def headline(result: dict[str, Any], baseline: float | None) -> str:
    """The run in a sentence."""
    steps, total = result.get("steps", 0), result.get("total_steps")
    of_total = f"{steps:,} of {total:,} steps" if total else f"{steps:,} steps"
    loss = (result.get("final") or {}).get("validation_loss")
    match result.get("status"):
        case "Stopped":
            return f"Stopped after {of_total}. Run it again to continue."
        case "Failed":
            return f"Failed after {of_total}."
        case None:
            return "Not finished yet."
    if loss is None:
        return f"Trained for {steps:,} steps."
    if baseline is None:
        return f"Reached a validation loss of {loss:.3f} after {steps:,} steps."
    verdict = "Beats the bigram baseline" if loss < baseline else "Does not beat the bigram baseline"
    return f"{verdict} on held-out text: {loss:.3f} against {baseline:.3f} nats per token."


def _about(model: dict[str, Any]) -> str:
    """A model that is not a run's, in a sentence."""
    parameters, context = _short(model["parameters"]), model["context_length"]
    return (
        f"{model['place']}: {parameters} parameters, a context of {context:,} tokens, tokenizer {model['tokenizer']}."
    )


def _failure(result: dict[str, Any]) -> dict[str, str] | None:
    reason = result.get("reason")
    if not reason:
        return None
    known = REASONS.get(reason)
    return {"reason": reason, "message": result.get("message") or "", "remedy": known.remedy if known else ""}


def _tiles(result: dict[str, Any], history: History) -> list[tuple[str, str]]:
    final, speed = result.get("final") or {}, history.train["tokens_per_second"]
    tiles = {
        "Validation loss": _decimal(final.get("validation_loss")),
        "Bigram baseline": _decimal((result.get("baseline") or {}).get("validation_loss")),
        "Training loss": _decimal(final.get("loss")),
        "Parameters": _short(result.get("parameters")),
        "Tokens": _short(result.get("tokens")),
        "Tokens per second": _short(_middle(speed)),
        "Time": _duration(result.get("seconds")),
    }
    return [(name, value) for name, value in tiles.items() if value is not None]


def _charts(history: History, baseline: float | None) -> Iterator[Chart]:
    train = history.train
    if not len(train["step"]):
        return
    yield loss_figure(history, baseline)

    mfu = _middle(train["mfu"])
    speed = "Tokens per second" if mfu is None else f"Tokens per second; MFU {mfu:.1%}"
    yield Chart(speed, line_chart(history, "tokens_per_second"), [])
    yield Chart("Learning rate", line_chart(history, "learning_rate"), [])
    yield Chart("Gradient norm, before clipping", line_chart(history, "gradient_norm"), [])

    for name, scores in history.suites.items():
        yield Chart(f"{name}: {_decimal(_last(scores['value']))}", score_chart(scores), [])

    parts = {name: _mean(seconds) for name, seconds in step_parts(history).items()}
    whole = sum(parts.values()) or 1.0
    keys = [
        (name.replace("_", "-"), f"{name.replace('_', ' and ')} {_time(seconds)} ({seconds / whole:.0%})")
        for name, seconds in parts.items()
    ]
    yield Chart("Time of a step", step_time_chart(history), keys, wide=True)


def loss_figure(history: History, baseline: float | None) -> Chart:
    """The losses of a run that has begun to train."""
    validation = history.validation["loss"]
    keys = [("train", f"Training {_decimal(_last(history.train['loss']))}")]
    if len(validation):
        keys.append(("validation", f"Validation {_decimal(_last(validation))}"))
    if baseline is not None:
        keys.append(("baseline", f"Bigram baseline {baseline:.3f}"))
    return Chart("Loss, nats per token", loss_chart(history, baseline), keys, wide=True)


def _classification(result: dict[str, Any]) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Of each split, how well labels are told apart: a title, and names with sentences."""
    for split, found in (result.get("classification") or {}).items():
        low, high = found["interval"]
        names = list(found["labels"])
        rows = [
            (
                "Accuracy",
                f"{found['accuracy']:.1%} ({low:.1%} to {high:.1%}); the commonest label: {found['majority']:.1%}",
            ),
            ("F1", f"{found['f1']:.3f}, the mean over labels"),
            ("Calibration", f"confidence is off by {found['calibration_error']:.1%} in the mean"),
        ]
        for name, counts in zip(names, found["confusion"], strict=True):
            label = found["labels"][name]
            taken = ", ".join(f"{count} as {other}" for other, count in zip(names, counts, strict=True))
            rows.append((name, f"{taken}; precision {label['precision']:.3f}, recall {label['recall']:.3f}"))
        yield f"Labels of {found['texts']:,} texts, {split} split", rows


def _preference(result: dict[str, Any]) -> list[tuple[str, str]]:
    """How much better the chosen answers are to the model than before training: names with sentences."""
    found = result.get("preference")
    if not found:
        return []
    share = f"{found['rewards/accuracies']:.1%} of {found['pairs']:,} pairs"
    return [
        ("Accuracy", f"the chosen answer has the higher reward in {share}"),
        (
            "Margin",
            f"{found['rewards/margins']:.3f} nats: {found['rewards/chosen']:.3f} of chosen answers less "
            f"{found['rewards/rejected']:.3f} of rejected ones",
        ),
    ]


def samples(history: History, result: dict[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Of each prompt, what the model wrote when: a title and a text."""
    total_steps = result.get("total_steps")
    start = f"{result['base']['uri']}, before step 1" if result.get("base") else "Random model, before step 1"
    by_prompt: dict[str, list[tuple[str, str]]] = {}
    for sample in history.samples:
        step = sample["step"]
        title = {0: start, total_steps: f"The end, step {step:,}"}.get(step, f"Step {step:,}")
        by_prompt.setdefault(sample["prompt"], []).append((title, sample["text"]))
    return list(by_prompt.items())


def _facts(result: dict[str, Any]) -> list[tuple[str, str]]:
    """What to know when this run is compared with another."""
    environment = result.get("environment") or {}
    memory = environment.get("memory_bytes")
    facts = {
        "Device": environment.get("device"),
        "Cores": environment.get("cores"),
        "Memory": f"{memory / 2**30:.1f} GiB" if memory else None,
        "Platform": environment.get("platform"),
        "Python": environment.get("python"),
        **(environment.get("packages") or {}),
        "Newest checkpoint": (result.get("checkpoint") or {}).get("uri"),
    }
    return [(name, str(value)) for name, value in facts.items() if value is not None]


def _told(events: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Phases, warnings and errors."""
    told = [event for event in events if event["kind"] in {"phase", "warning", "error"}]
    return [
        {
            "time": event["time"][:19].replace("T", " "),
            "kind": event["kind"],
            "title": event.get("phase") or event["kind"].capitalize(),
            "message": event["message"],
        }
        for event in told[-MAX_EVENTS:]
    ]


def facts_of_plan(events: list[dict[str, Any]]) -> dict[str, str]:
    """The plan's lines, a name and a sentence; of a run that was started again, the last ones."""
    lines = [event["message"].partition(" ") for event in events if event["kind"] == "plan"]
    return {name: text.strip() for name, _, text in lines}


def _read_text(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""


def read_object(file: Path) -> dict[str, Any]:
    """The JSON object in a file; an empty one where there is no file."""
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else {}


def _last(values: Numbers) -> float:
    return float(values[-1])


def _mean(values: Numbers) -> float:
    return float(np.ma.masked_invalid(values).mean()) if np.isfinite(values).any() else 0.0


def _middle(values: Numbers) -> float | None:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) else None


def _decimal(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}"


def _short(value: float | None) -> str | None:
    """Three digits: 857, 1.24 K, 124 M."""
    if value is None:
        return None
    for unit, size in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g}"


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.1f} ms"


def _duration(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    minutes, hours = int(seconds) // 60, int(seconds) // 3600
    if hours:
        return f"{hours}h{minutes % 60:02d}m"
    return f"{minutes}m{int(seconds) % 60:02d}s" if minutes else f"{seconds:.1f}s"
