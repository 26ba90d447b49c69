"""What the head tells of its run, from the run folder: /progress for the operator, /metrics for Prometheus."""

import hashlib
import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from windlass.engine.pods.follow import Followed
from windlass.engine.run_folder import Record, RunFolder, now, read_json
from windlass.spec.job import LLMTrainingJob
from windlass.spec.reasons import REASONS
from windlass.spec.status import CheckpointStatus, Failure, Progress

DEATH_SECONDS = 5.0
"""How long after a failure the word of the rank that died may come."""


class RunView:
    """The newest of everything in a run folder; reads what is new each time it is asked."""

    def __init__(self, run: RunFolder, job: LLMTrainingJob, attempt: int) -> None:
        self.run = run
        self._job = job
        self._attempt = attempt
        self._events = Followed(run.events)
        self._metrics = Followed(run.metrics)
        self.phase: Record = {"phase": "Preparing", "message": "", "time": now()}
        self.fit: str | None = None
        """The start of the ranks that is under way."""
        self.training: list[int] = []
        """Workers that take part in it."""
        self._failures: list[Record] = []
        self._records: dict[str, Record] = {}
        self._productive = 0.0
        self._deaths: list[Record] = []

    def update(self) -> "RunView":
        for event in _records(self._events.read().lines):
            match event["kind"]:
                case "fit":
                    self.fit, self.training = event["fit"], event["workers"]
                case "phase":
                    self.phase = event
                    if event["phase"] in ("Recovering", "Succeeded", "Stopped", "Failed"):
                        self.fit, self.training = None, []
                    if "reason" in event:
                        self._failures.append(event)
        news = self._metrics.read()
        if news.replaced:
            self._records, self._productive = {}, 0.0
        for record in _records(news.lines):
            self._records[record["kind"]] = record
            if record["kind"] == "train":
                self._productive += record["step_seconds"]["total"] * self._job.spec.logging.every_steps
        return self

    def note_death(self, death: Record) -> None:
        """Take what a worker tells of a rank that died; it may tell it twice."""
        if not any(known | death == known for known in self._deaths):
            self._deaths.append(death | {"time": now()})

    @property
    def restarts(self) -> int:
        """Restarts within this attempt."""
        return sum(event["phase"] == "Recovering" for event in self._failures)

    def failures(self) -> list[Failure]:
        """What failed in this attempt, oldest first, with the word of the rank that died first."""
        found, since = [], ""
        for event in self._failures:
            until = _later(event["time"], DEATH_SECONDS)
            deaths = [death for death in self._deaths if since <= death["time"] <= until]
            deaths.sort(key=lambda death: death["exitCode"] >= 0)  # others fail as they miss one that was killed
            found.append(self._failure(event, deaths[0] if deaths else {}))
            since = until
        return found

    def _failure(self, event: Record, death: Record) -> Failure:
        reason = "Hang" if death.get("hang") else event["reason"]
        return Failure(
            time=event["time"],
            attempt=self._attempt,
            kind="Infrastructure" if REASONS[reason].kind == "Infrastructure" else "User",
            reason=reason,
            message=event["message"].removeprefix(f"{event['reason']}: "),
            pod=death.get("pod"),
            node=death.get("node"),
            rank=death.get("rank"),
            exit_code=death.get("exitCode"),
            last_log_lines=death.get("lastLogLines", []),
        )

    def progress(self) -> Progress | None:
        train = self._records.get("train")
        if train is None:
            return None
        total = (read_json(self.run.plan) or {}).get("steps")
        seconds = train["step_seconds"]["total"]
        return Progress(
            step=train["step"],
            max_steps=total,
            tokens=train["tokens"],
            epoch=float(train["epoch"]),
            loss=train["loss"],
            validation_loss=self._records.get("validation", {}).get("loss"),
            tokens_per_second=train["tokens_per_second"],
            mfu=train["mfu"],
            step_seconds=seconds,
            remaining_seconds=round(seconds * (total - train["step"]), 1) if total else None,
            updated_at=train["time"],
        )

    def checkpoint(self) -> CheckpointStatus | None:
        """The newest one: of this attempt, or what it continued from."""
        saved = self._records.get("checkpoint")
        earlier = read_json(self.run.checkpoint)
        if saved is None or (earlier and earlier["step"] >= saved["step"]):
            return CheckpointStatus.model_validate(earlier) if earlier else None
        uri = self.run.checkpoints_uri(self._job).rstrip("/")
        return CheckpointStatus(step=saved["step"], uri=f"{uri}/{saved['folder']}", committed_at=saved["time"])

    def report(self, lost: Sequence[int] = ()) -> dict[str, Any]:
        """The answer of /progress; its version is another when there is more news than progress."""
        training = len(self.training) if self.phase["phase"] == "Running" else 0
        progress, checkpoint = plain(self.progress()), plain(self.checkpoint())
        news = {
            "attempt": self._attempt,
            "phase": self.phase["phase"],
            "message": self.phase["message"],
            "since": self.phase["time"],
            "workers": {"training": training, "lost": list(lost)},
            "restarts": self.restarts,
            "failures": [plain(failure) for failure in self.failures()[-10:]],
        }
        text = json.dumps([news, progress is None, checkpoint is None])
        return news | {
            "version": hashlib.sha256(text.encode()).hexdigest()[:16],
            "progress": progress,
            "checkpoint": checkpoint,
            "productiveSeconds": round(self._productive, 3),
        }


def plain(value: Progress | CheckpointStatus | Failure | None) -> dict[str, Any] | None:
    """A part of the status as JSON, without what is not known."""
    return None if value is None else value.model_dump(mode="json", exclude_none=True)


def _records(lines: bytes) -> list[Record]:
    return [json.loads(line) for line in lines.splitlines()]


def _later(time: str, seconds: float) -> str:
    moment = datetime.fromisoformat(time)
    return moment.fromtimestamp(moment.timestamp() + seconds, moment.tzinfo).isoformat(timespec="milliseconds")
