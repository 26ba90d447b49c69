"""What is known of a run from its events and metrics, and how that looks on a terminal."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from windlass.cli.show import count, duration, loss, printable

if TYPE_CHECKING:
    from rich.console import RenderableType

Record = dict[str, Any]
SPEED_STEPS = 50
"""Logged steps that the estimate of the remaining time looks back at."""


@dataclass
class Progress:
    """The newest of everything; `take` brings it up to date."""

    name: str
    total_steps: int | None = None
    baseline: float | None = None
    phase: str = ""
    step: int = 0
    loss: float | None = None
    validation_loss: float | None = None
    scores: dict[str, float] = field(default_factory=dict)
    """Of benchmark suites: task and metric -> 0 to 1."""
    tokens_per_second: float | None = None
    mfu: float | None = None
    checkpoint: int | None = None
    workers: str = ""
    failure: str = ""
    _moments: deque[tuple[datetime, int]] = field(default_factory=lambda: deque(maxlen=SPEED_STEPS))

    def take(self, record: Record) -> None:
        """Bring it up to date with one record of events.jsonl or metrics.jsonl."""
        match record["kind"]:
            case "phase":
                self.phase = record["phase"]
                self._moments.clear()
                if self.phase == "Failed":
                    self.failure = record["message"]
            case "train":
                self.step, self.loss = record["step"], record["loss"]
                self.tokens_per_second, self.mfu = record["tokens_per_second"], record["mfu"]
                self._moments.append((datetime.fromisoformat(record["time"]), self.step))
            case "validation":
                self.validation_loss = record["loss"]
            case "suites":
                self.scores |= {_name_of(score): score["value"] for score in _main(record)}
            case "checkpoint":
                self.checkpoint = record["step"]
            case "workers":
                self.workers = f"{record['ready']}/{record['desired']}"

    @property
    def remaining(self) -> float | None:
        """Seconds until the end at the speed of the last steps, validations and checkpoints included."""
        if self.total_steps is None or len(self._moments) < 2:
            return None
        (start, first), (end, last) = self._moments[0], self._moments[-1]
        if last <= first:
            return None
        return (end - start).total_seconds() / (last - first) * (self.total_steps - last)

    def facts(self) -> list[str]:
        """The numbers worth watching, those that are known."""
        known: list[tuple[float | None, Callable[[float], str]]] = [
            (self.loss, "loss {:.4f}".format),
            (self.validation_loss, "validation {:.4f}".format),
            (self.baseline, "bigram {:.4f}".format),
            (self.tokens_per_second, lambda speed: f"{count(speed)} tokens/s"),
            (self.mfu, "MFU {:.0%}".format),
            (self.remaining or None, lambda seconds: f"{duration(seconds)} left"),
            (self.checkpoint, "checkpoint {}".format),
        ]
        workers = [f"workers {self.workers}"] if self.workers else []
        scores = [f"{name} {value:.3f}" for name, value in self.scores.items()]
        return [text(value) for value, text in known if value is not None] + scores + workers

    def line(self) -> str:
        """All of it on one line, for logs."""
        return "  ".join([f"step {self.step}/{self.total_steps or '?'}", *self.facts()])

    def __rich__(self) -> "RenderableType":
        """All of it as a live panel: a bar, and the numbers on as few lines as the width allows."""
        from rich.columns import Columns
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        bar = ProgressBar(total=self.total_steps or 1, completed=self.step, width=40)
        share = f"{self.step}/{self.total_steps}" if self.total_steps else ""
        top = Table.grid(padding=(0, 1))
        top.add_row(Text(self.name, style="bold"), Text(self.phase, style="cyan"), bar, Text(share))
        return Group(top, Columns([Text(fact, style="dim") for fact in self.facts()], padding=(0, 2)))


def _name_of(score: Record) -> str:
    """A score of a suite: task and metric."""
    return f"{score['task']} {score['metric']}"


def _main(record: Record) -> list[Record]:
    """Scores without those of a group's parts."""
    return [score for score in record["scores"] if not score["is_part"]]


def lines(record: Record) -> list[str]:
    """What one record is worth saying in a log that is read from top to bottom; often nothing."""
    match record["kind"]:
        case "phase" if record["phase"] == "Stopping":
            return ["Stopping: saving a checkpoint; Ctrl-C again to stop at once"]
        case "phase" if record["phase"] == "Recovering":
            return [f"Recovering: {record['message']}"]
        case "phase" if record["phase"] in ("Preparing", "Starting", "Running") and record["message"]:
            return [record["message"]]
        case "plan":
            return [f"  {record['message']}"]
        case "info":
            return [record["message"]]
        case "warning" | "error" as kind:
            return [f"{kind.capitalize()}: {record['message']}"]
        case "validation":
            return [f"step {record['step']}  validation loss {loss(record['loss'])}"]
        case "suites":
            scores = ", ".join(f"{_name_of(score)} {score['value']:.4f}" for score in _main(record))
            return [f"step {record['step']}  {scores}"]
        case "sample":
            text = printable(record["prompt"] + record["text"]).rstrip().replace("\n", "\n    ")
            return [f"step {record['step']}  the model continues {record['prompt']!r}:", f"    {text}"]
    return []
