"""The run folder, a contract: where each file of a run is, and how the small ones are read and written."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from windlass.spec.job import LLMTrainingJob

Record = dict[str, Any]


@dataclass(frozen=True)
class RunFolder:
    """runs/NAME/ and what is in it; docs/run-folder.md says what each file holds."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def job(self) -> Path:
        return self.path / "job.yaml"

    @property
    def plan(self) -> Path:
        return self.path / "plan.json"

    @property
    def environment(self) -> Path:
        return self.path / "environment.json"

    @property
    def baseline(self) -> Path:
        return self.path / "baseline.json"

    @property
    def base(self) -> Path:
        """What the model started from, with spec.model.from."""
        return self.path / "base.json"

    @property
    def events(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def result(self) -> Path:
        return self.path / "result.json"

    @property
    def prometheus(self) -> Path:
        return self.path / "prometheus.json"

    def rank(self, rank: int) -> Path:
        """A rank's process: its pid, and where it serves its metrics."""
        return self.path / "ranks" / f"{rank}.json"

    @property
    def tokenizer(self) -> Path:
        return self.path / "tokenizer"

    @property
    def export(self) -> Path:
        return self.path / "export"

    @property
    def lock(self) -> Path:
        return self.path / ".lock"

    @property
    def stop(self) -> Path:
        """While this file exists, the ranks are asked to save and stop."""
        return self.path / ".stop"

    @property
    def pause(self) -> Path:
        """While this file exists, the ranks are asked to save and stop, to be started again: on a cluster."""
        return self.path / ".pause"

    @property
    def workers(self) -> Path:
        """The worker pods that the head hears of."""
        return self.path / ".workers.json"

    @property
    def wanted(self) -> Path:
        """How many workers there should be by now, where the operator has told the head."""
        return self.path / ".wanted.json"

    @property
    def checkpoint(self) -> Path:
        """The newest checkpoint of earlier attempts, on a cluster."""
        return self.path / ".checkpoint.json"

    def log(self, process: str) -> Path:
        """Output of a process: driver, rank-0, ..."""
        return self.path / "logs" / f"{process}.log"

    def checkpoints_uri(self, job: LLMTrainingJob) -> str:
        """Where the job's checkpoints are: checkpoints.uri, else checkpoints/ here."""
        return job.spec.checkpoints.uri or str(self.path / "checkpoints")

    def tell(self, kind: str, message: str, **fields: Any) -> None:
        """Append an event: kind is phase, info, warning or error."""
        event = {"time": now(), "kind": kind, **fields, "message": message}
        with open(self.events, "ab", buffering=0) as file:
            file.write(json.dumps(event).encode() + b"\n")  # one write: several processes append

    def enter(self, phase: str, message: str = "", **fields: Any) -> None:
        """Tell of a new phase: Preparing, Starting, Running, Recovering, Stopping, Succeeded, Stopped or Failed."""
        self.tell("phase", message, phase=phase, **fields)


def last(records: Sequence[Record], kind: str) -> Record:
    """The last record of a kind, or an empty one."""
    return next((record for record in reversed(records) if record["kind"] == kind), {})


def now() -> str:
    """The time, ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def write_json(path: Path, value: Any) -> None:
    """Write a small file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, path)


def read_json(path: Path) -> Any:
    """The file's value, or None where there is no such file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def read_lines(path: Path) -> Iterator[Record]:
    """Records of a .jsonl file; a last line that is being written, or was when its writer died, is left out."""
    if not path.exists():
        return
    with open(path, encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                yield json.loads(line)
