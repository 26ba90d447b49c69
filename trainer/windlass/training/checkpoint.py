"""Saving and restoring the tensors of a run: asynchronous, distributed, verified, to any fsspec URI.

A save is, in this order: every rank copies its state to the host (the only part that blocks training); a background
thread writes it with torch.distributed.checkpoint, each rank its own file, hashed while it is written; the ranks
gather the hashes; rank 0 writes the commit (`windlass.training.commits`). A checkpoint without its commit does not
count, so a process can be killed at any moment.
"""

import io
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
import torch.distributed as dist
import xxhash
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemBase, FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from windlass.errors import WindlassError
from windlass.storage import Storage, shown
from windlass.training.commits import Attempt, Commit, CommitLog, FileRecord, checkpoint_folder
from windlass.training.ranks import Ranks

# A single process is what we mean there, and is not worth a warning.
warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")

METRICS = "metrics.jsonl"


@dataclass(frozen=True)
class Saved:
    """A committed checkpoint."""

    step: int
    seconds: float
    """From the snapshot to the commit."""
    blocked_seconds: float
    """Of those, the ones in which training waited."""
    folder: str
    """Where it is, under the checkpoints' URI."""


@dataclass(frozen=True)
class Restored:
    """A checkpoint that model and optimizer were loaded from."""

    commit: Commit
    metrics: bytes
    """On rank 0, metrics.jsonl as it was at the commit."""


class Checkpointer:
    """Saves and restores one model and its optimizer. All ranks call every method, in the same order."""

    def __init__(
        self, log: CommitLog, model: nn.Module, optimizer: torch.optim.Optimizer, ranks: Ranks, keep: int
    ) -> None:
        self._log = log
        self._model = model
        self._optimizer = optimizer
        # What is not trained comes from where it came from.
        self._options = StateDictOptions(ignore_frozen_params=True, strict=not _frozen(model))
        self._ranks = ranks
        self._keep = keep
        self._attempt = 0
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: Future[Saved] | None = None

    def restore(self, check: Callable[[Commit], None], warn: Callable[[str], None]) -> Restored | None:
        """Load the newest checkpoint that is whole, or return None where there is none.

        `check` raises where a checkpoint is another run's; it is asked before anything is loaded. One with a damaged
        file is passed over, which `warn` is told in a sentence for people. Raises DataCorrupt where all are damaged:
        starting over would delete them, which is for a person to decide.
        """
        commits = self._ranks.from_first(self._log.valid_commits() if self._ranks.first else None)
        for commit in commits:
            check(commit)
            try:
                self._load(commit)
                return Restored(commit, self._read_metrics(commit))
            except WindlassError as error:
                if error.reason != "CheckpointCorrupt":
                    raise
                warn(f"Checkpoint of step {commit.step} is damaged, taking the one before: {error}")
        if commits:
            raise WindlassError(
                "DataCorrupt",
                f"All {len(commits)} checkpoints in {shown(self._log.storage.uri)} are damaged. "
                "Bring back one of them, or start over with --restart.",
            )
        return None

    def _load(self, commit: Commit) -> None:
        """Load one checkpoint on all ranks. Raises CheckpointCorrupt, on all of them."""
        model_state, optimizer_state = get_state_dict(self._model, self._optimizer, options=self._options)
        state: dict[str, Any] = {"model": model_state, "optimizer": optimizer_state}
        files = CheckpointFiles(self._log.storage.child(commit.folder), expected=commit.files)
        try:
            load(state, storage_reader=_reader(files), process_group=self._ranks.saving, no_dist=self._alone)
        except CheckpointException as error:
            raise _cause(error) from error
        set_state_dict(
            self._model,
            self._optimizer,
            model_state_dict=state["model"],
            optim_state_dict=state["optimizer"],
            options=self._options,
        )

    def _read_metrics(self, commit: Commit) -> bytes:
        """metrics.jsonl as it was at the commit, on rank 0. Raises CheckpointCorrupt, on all ranks."""
        content, problem = b"", None
        if self._ranks.first:
            files = CheckpointFiles(self._log.storage.child(commit.folder), expected=commit.files)
            try:
                with files.create_stream(METRICS, "rb") as stream:
                    content = stream.read()
            except WindlassError as error:
                problem = error
        if problem := self._ranks.from_first(problem):
            raise problem
        return content

    def begin_attempt(self, resumed_from: int, writer: dict[str, Any]) -> Attempt:
        """Claim the right to commit from now on; fences every older attempt."""
        attempt = self._ranks.from_first(self._log.begin_attempt(resumed_from, writer) if self._ranks.first else None)
        self._attempt = attempt.number
        return cast(Attempt, attempt)

    @property
    def busy(self) -> bool:
        """Whether a save is under way on this rank."""
        return self._pending is not None and not self._pending.done()

    def save(self, step: int, state: dict[str, Any], metrics: bytes) -> None:
        """Take a snapshot now and write it in the background. No other save may be under way.

        `state` is JSON for the commit; `metrics` (rank 0's) is the run's metrics.jsonl up to this step.
        """
        assert not self.busy, "one save at a time"
        start = time.perf_counter()
        model_state, optimizer_state = get_state_dict(self._model, self._optimizer, options=self._options)
        stager = DefaultStager(StagingOptions(False, False, False, False))
        snapshot = stager.stage({"model": model_state, "optimizer": optimizer_state})
        blocked = time.perf_counter() - start
        self._pending = self._thread.submit(self._write, snapshot, step, state, metrics, start, blocked)

    def finished(self) -> Saved | None:
        """The save that has ended since the last call, if one has. Raises what made it fail."""
        if self._pending is None or not self._pending.done():
            return None
        pending, self._pending = self._pending, None
        return _result(pending)

    def wait(self) -> Saved | None:
        """Wait for the save under way, if one is. Raises what made it fail."""
        if self._pending is None:
            return None
        pending, self._pending = self._pending, None
        return _result(pending)

    def close(self) -> None:
        self._thread.shutdown(wait=True)

    def _write(
        self, snapshot: Any, step: int, state: dict[str, Any], metrics: bytes, start: float, blocked: float
    ) -> Saved:
        folder = checkpoint_folder(step, self._attempt)
        files = CheckpointFiles(self._log.storage.child(folder))
        save(snapshot, storage_writer=_writer(files), process_group=self._ranks.saving, no_dist=self._alone)
        if self._ranks.first:
            files.write(METRICS, metrics)
        written = self._gather(files.written)
        if self._ranks.first:
            self._log.commit(Commit(step, self._attempt, written, state))
            self._log.clean_up(self._keep, self._attempt)
        return Saved(step, time.perf_counter() - start, blocked, folder)

    def _gather(self, written: dict[str, FileRecord]) -> dict[str, FileRecord]:
        if self._alone:
            return written
        everyone: list[Any] = [None] * self._ranks.world_size
        dist.all_gather_object(everyone, written, group=self._ranks.saving)
        return {name: record for files in everyone for name, record in files.items()}

    @property
    def _alone(self) -> bool:
        return self._ranks.saving is None


def _result(pending: "Future[Saved]") -> Saved:
    try:
        return pending.result()
    except CheckpointException as error:
        raise _cause(error) from error


def _cause(error: CheckpointException) -> BaseException:
    """What failed on a rank, first of all what is for a person to read; a CheckpointException is no Exception."""
    causes = [cause for cause, _ in error.failures.values()]
    return next((cause for cause in causes if isinstance(cause, WindlassError)), causes[0])


def load_model_state(log: CommitLog, commit: Commit, model: nn.Module) -> None:
    """Load a checkpoint's trained weights into a model in one process. Raises CheckpointCorrupt."""
    named = model.named_parameters(remove_duplicate=False)  # tied ones are saved by both of their names
    frozen = {name for name, parameter in named if not parameter.requires_grad}
    state = {"model": {name: value for name, value in model.state_dict().items() if name not in frozen}}
    files = CheckpointFiles(log.storage.child(commit.folder), expected=commit.files)
    try:
        load(state, storage_reader=_reader(files), no_dist=True)
    except CheckpointException as error:
        raise _cause(error) from error
    model.load_state_dict(state["model"], strict=not _frozen(model))


def _frozen(model: nn.Module) -> bool:
    """Whether there are parameters that are not trained."""
    return not all(parameter.requires_grad for parameter in model.parameters())


class CheckpointFiles(FileSystemBase):
    """The file operations that torch.distributed.checkpoint needs, on a `Storage`, hashed on the way.

    A file is written to a local temporary file and goes to its place whole, with the storage's retries; what is read
    is compared with the commit's hashes before anyone sees it.
    """

    def __init__(self, storage: Storage, expected: Mapping[str, FileRecord] | None = None) -> None:
        self._storage = storage
        self._expected = expected
        self.written: dict[str, FileRecord] = {}

    @contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Iterator[io.IOBase]:
        name = os.fspath(path)
        with self._reading(name) if "r" in mode else self._writing(name) as stream:
            yield cast(io.IOBase, stream)

    def write(self, name: str, data: bytes) -> None:
        with self._writing(name) as stream:
            stream.write(data)

    @contextmanager
    def _writing(self, name: str) -> Iterator[BinaryIO]:
        with tempfile.TemporaryDirectory(prefix="windlass-") as folder:
            local = Path(folder) / "file"
            with open(local, "wb") as stream:
                yield stream
            self.written[name] = _record(local)
            self._storage.upload(local, name)

    @contextmanager
    def _reading(self, name: str) -> Iterator[BinaryIO]:
        try:
            stream = io.BytesIO(self._storage.read(name))
        except FileNotFoundError as error:
            raise WindlassError("CheckpointCorrupt", f"{name} is missing in {shown(self._storage.uri)}") from error
        if self._expected is not None and _digest(stream) != self._expected[name].xxh3:
            raise WindlassError("CheckpointCorrupt", f"{name} in {shown(self._storage.uri)} does not match its hash")
        yield stream

    def concat_path(self, path: str | os.PathLike[str], suffix: str) -> str:
        return suffix  # names are relative to the storage

    def init_path(self, path: str | os.PathLike[str]) -> str | os.PathLike[str]:
        return path

    def rename(self, path: str | os.PathLike[str], new_path: str | os.PathLike[str]) -> None:
        self.write(os.fspath(new_path), self._storage.read(os.fspath(path)))
        self.rm_file(path)

    def mkdir(self, path: str | os.PathLike[str]) -> None:
        """Folders come with their files."""

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        return True

    def exists(self, path: str | os.PathLike[str]) -> bool:
        return self._storage.exists(os.fspath(path))

    def ls(self, path: str | os.PathLike[str]) -> list[str]:
        return list(self._storage.list())

    def rm_file(self, path: str | os.PathLike[str]) -> None:
        del self.written[os.fspath(path)]
        self._storage.delete(os.fspath(path))


def _writer(files: CheckpointFiles) -> FileSystemWriter:
    writer = FileSystemWriter("", sync_files=False)  # the storage syncs
    writer.fs = files  # type: ignore[assignment]  # declared as the one for local paths
    return writer


def _reader(files: CheckpointFiles) -> FileSystemReader:
    reader = FileSystemReader("")
    reader.fs = files  # type: ignore[assignment]
    return reader


def _record(path: Path) -> FileRecord:
    with open(path, "rb") as stream:
        return FileRecord(path.stat().st_size, _digest(stream))


def _digest(stream: BinaryIO) -> str:
    """xxh3_64 of the stream from its start, which is where it is left."""
    digest = xxhash.xxh3_64()
    while block := stream.read(1 << 20):
        digest.update(block)
    stream.seek(0)
    return digest.hexdigest()
