"""Which checkpoints count: attempts, commits, and the one predicate that says whether a checkpoint is valid.

Layout under the checkpoints' URI:

    attempts/000002.json                    attempt 2 began; it resumed from step `resumed_from`
    step-00000500-attempt-000002/commit.json   written last; lists every file with its size and hash
    step-00000500-attempt-000002/...        what torch.distributed.checkpoint wrote, and metrics.jsonl

An attempt is one start of the ranks. Its record is created exclusively and says from which step it resumed, which
fences older attempts: whatever they commit beyond that step, however late, is not part of the run's history.
"""

import json
import re
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from windlass.errors import WindlassError
from windlass.storage import Storage, shown

COMMIT = "commit.json"
_FOLDER = re.compile(r"^step-(\d{8,})-attempt-(\d{6,})/")
_ATTEMPT = re.compile(r"^attempts/(\d{6,})\.json$")


@dataclass(frozen=True)
class Attempt:
    """One start of the ranks."""

    number: int
    """Counts from 1 over the whole life of the run."""
    resumed_from: int
    """Step of the checkpoint it continued; 0 for a start from the beginning."""
    writer: dict[str, Any] = field(default_factory=dict)
    """Who: host, pid, time."""


@dataclass(frozen=True)
class FileRecord:
    """A file of a checkpoint."""

    bytes: int
    xxh3: str
    """xxh3_64 of its content, hexadecimal."""


@dataclass(frozen=True)
class Commit:
    """A checkpoint's manifest."""

    step: int
    """Optimizer steps done."""
    attempt: int
    files: dict[str, FileRecord]
    """By name within the checkpoint's folder."""
    state: dict[str, Any]
    """What the loop needs besides tensors; see `windlass.training.loop`."""
    time: str = ""
    """When it was committed, ISO 8601, UTC."""

    @property
    def folder(self) -> str:
        return checkpoint_folder(self.step, self.attempt)


def checkpoint_folder(step: int, attempt: int) -> str:
    """Name of the folder, under the checkpoints' URI, that attempt `attempt` writes step `step` to."""
    return f"step-{step:08d}-attempt-{attempt:06d}"


def is_valid(commit: Commit, attempts: list[Attempt], sizes: dict[str, int]) -> bool:
    """Whether a checkpoint may be resumed from: complete, and in the history that every newer attempt continued.

    `sizes` maps every file under the checkpoints' URI to its bytes. Contents are checked against their hashes by
    `windlass.training.checkpoint` while they are read.
    """
    complete = all(sizes.get(f"{commit.folder}/{name}") == file.bytes for name, file in commit.files.items())
    fenced = any(newer.number > commit.attempt and commit.step > newer.resumed_from for newer in attempts)
    return complete and not fenced


class CommitLog:
    """The attempts and commits under one URI."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    def attempts(self) -> list[Attempt]:
        """All attempts so far, oldest first."""
        records = [name for name in self.storage.list("attempts") if _ATTEMPT.match(name)]
        return [Attempt(**json.loads(self.storage.read(name))) for name in sorted(records)]

    def valid_commits(self) -> list[Commit]:
        """Checkpoints that may be resumed from, newest first."""
        sizes = self.storage.list()
        attempts = self.attempts()
        commits = [self._read(name) for name in sizes if name.endswith(f"/{COMMIT}") and _FOLDER.match(name)]
        valid = [commit for commit in commits if commit is not None and is_valid(commit, attempts, sizes)]
        return sorted(valid, key=lambda commit: (commit.step, commit.attempt), reverse=True)

    def _read(self, name: str) -> Commit | None:
        """A commit, or None where its manifest is damaged: then the checkpoint does not count."""
        try:
            fields = json.loads(self.storage.read(name))
            fields["files"] = {file: FileRecord(**record) for file, record in fields["files"].items()}
            return Commit(**fields)
        except (ValueError, TypeError, KeyError, FileNotFoundError):
            return None

    def begin_attempt(self, resumed_from: int, writer: dict[str, Any]) -> Attempt:
        """Claim the next attempt number. Raises StorageInUse when another writer claims it at the same time."""
        number = max((attempt.number for attempt in self.attempts()), default=0) + 1
        attempt = Attempt(number, resumed_from, writer)
        record = json.dumps(asdict(attempt)).encode()
        if not self.storage.create(f"attempts/{number:06d}.json", record):
            raise WindlassError(
                "StorageInUse",
                f"Another run began attempt {number} in {shown(self.storage.uri)} at the same moment. "
                "Stop it, or give this run its own checkpoints.uri.",
            )
        return attempt

    def commit(self, commit: Commit) -> None:
        """Make a checkpoint count. Raises StorageInUse when a newer attempt has begun."""
        newest = max((attempt.number for attempt in self.attempts()), default=0)
        if newest > commit.attempt:
            raise WindlassError(
                "StorageInUse",
                f"Attempt {newest} has taken over {shown(self.storage.uri)}; "
                f"attempt {commit.attempt} may not commit any more.",
            )
        commit = Commit(commit.step, commit.attempt, commit.files, commit.state, datetime.now(UTC).isoformat())
        self.storage.write(f"{commit.folder}/{COMMIT}", json.dumps(asdict(commit)).encode())

    def clean_up(self, keep: int, attempt: int) -> None:
        """Delete all but the newest `keep` valid checkpoints, and what older attempts left half-written."""
        kept = {commit.folder for commit in self.valid_commits()[:keep]}
        folders = {
            match[0].rstrip("/"): int(match[2]) for name in self.storage.list() if (match := _FOLDER.match(name))
        }
        newest_step = max((int(folder.split("-")[1]) for folder in kept), default=0)
        for folder, writer in folders.items():
            # A newer attempt may have begun since this one committed.
            being_written = writer > attempt or (writer == attempt and int(folder.split("-")[1]) > newest_step)
            if folder not in kept and not being_written:
                self.storage.delete(f"{folder}/{COMMIT}")  # first, so that a half-deleted checkpoint never counts
                self.storage.delete(folder)
