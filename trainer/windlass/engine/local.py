"""Runs on this machine: start one, watch it, stop it. Loads neither torch nor ray; the driver process does."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from windlass.engine.changes import refuse_changes
from windlass.engine.run_folder import Record, RunFolder, last, read_json, read_lines
from windlass.errors import BAD_INPUT, DONE, FAILED, INTERRUPTED, WindlassError
from windlass.lock import claim_storage, lock_file
from windlass.spec.checks import check
from windlass.spec.job import LLMTrainingJob
from windlass.spec.loading import dump_job, load_job
from windlass.spec.problems import InvalidJob
from windlass.storage import Storage

POLL_SECONDS = 0.1


def start_run(
    job: LLMTrainingJob | Path | str, *, runs: Path | str = Path("runs"), restart: bool = False
) -> "RunHandle":
    """Start a job, or a job file, in runs/NAME, or continue it there from its last checkpoint; returns at once.

    A run that has finished is not started again: its handle ends at once with the result. `restart` deletes what is
    there, checkpoints included, and starts over.

    Raises WindlassError: StorageInUse where the run is running already; ConfigInvalid where the job differs from the
    one that the run was trained with, or asks for what this version cannot do.
    """
    if not isinstance(job, LLMTrainingJob):
        job = load_job(job)
    if problems := check(job):
        raise InvalidJob(problems)
    run = RunFolder(Path(runs).absolute() / job.metadata.name)
    lock = lock_file(run.lock, f"The run {run.name}", run=run.name, folder=str(run.path))
    try:
        if restart:
            delete_run(run, job)
        elif run.job.exists():
            refuse_changes(load_job(run.job), job, run)
            if (read_json(run.result) or {}).get("status") == "Succeeded":
                os.close(lock)
                return RunHandle(run, None)
        (run.path / "logs").mkdir(parents=True, exist_ok=True)
        run.stop.unlink(missing_ok=True)
        partial = run.job.with_suffix(".partial")
        partial.write_text(dump_job(job), encoding="utf-8")
        partial.replace(run.job)
    except BaseException:
        os.close(lock)
        raise
    return RunHandle(run, lock)


def delete_run(run: RunFolder, job: LLMTrainingJob) -> None:
    """Delete all of a run but its lock, and its checkpoints wherever they are, unless another run writes there."""
    checkpoints = Storage(run.checkpoints_uri(job))
    claim = claim_storage(checkpoints.uri, run=run.name, folder=str(run.path))
    try:
        ours = ("attempts/", "step-", "examples/")
        for name in {file.split("/")[0] for file in checkpoints.list() if file.startswith(ours)}:
            checkpoints.delete(name)
    finally:
        claim.release()
    for path in run.path.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path != run.lock:
            path.unlink()


class RunHandle:
    """A run on this machine: its live metrics, its end, and the means to stop it."""

    def __init__(self, run: RunFolder, lock: int | None) -> None:
        """Start the driver; `lock` is the run's, held by the driver from now on. None: the run has finished before."""
        self.folder = run.path
        self.name = run.name
        self.finished_before = lock is None
        self._run = run
        self._ended = threading.Event()
        self._exit_code = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._killed = False
        self._offset = run.events.stat().st_size if run.events.exists() else 0
        if lock is None:
            self._ended.set()
            return
        run.tell("phase", "", phase="Launching")
        self._process = self._spawn(lock)
        threading.Thread(target=self._supervise, args=(lock,), name="windlass-run", daemon=True).start()

    def _spawn(self, lock: int) -> subprocess.Popen[bytes]:
        with open(self._run.log("driver"), "ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "windlass.engine.driver", str(self.folder)],
                stdin=subprocess.PIPE,  # it ends when this process does
                stdout=log,
                stderr=log,
                pass_fds=[lock],
                start_new_session=True,  # Ctrl-C in a terminal goes to this process alone
            )

    def _supervise(self, lock: int) -> None:
        """Wait for the driver; start it again when it was killed or hung, as often as the job allows."""
        budget = load_job(self._run.job).spec.lifecycle.restarts.infrastructure
        restarts = 0
        while True:
            assert self._process is not None
            code = self._process.wait()
            died = code not in (DONE, BAD_INPUT, FAILED, INTERRUPTED)
            stopped = self._killed or self._run.stop.exists()
            if not died or stopped or restarts >= budget:
                break
            restarts += 1
            self._run.enter("Recovering", f"HeadLost: {_death(code)}. Restart {restarts} of {budget}")
            self._process = self._spawn(lock)
        self._exit_code = code
        if died:
            self._exit_code = INTERRUPTED if stopped else FAILED
            if not stopped:
                self._run.enter("Failed", f"RestartsExhausted: {_death(code)}")
        os.close(lock)
        self._ended.set()

    @property
    def exit_code(self) -> int | None:
        """0 done, 2 bad input, 3 failed, 130 interrupted; None while it runs."""
        return self._exit_code if self._ended.is_set() else None

    def metrics(self) -> list[Record]:
        """All records of metrics.jsonl so far."""
        return list(read_lines(self._run.metrics))

    @property
    def latest(self) -> Record | None:
        """The last logged training step."""
        return last(self.metrics(), "train") or None

    @property
    def result(self) -> dict[str, Any] | None:
        """result.json; None while it runs."""
        return read_json(self._run.result) if self._ended.is_set() else None

    def events(self) -> Iterator[Record]:
        """Events and metrics of this start of the run, as they come, until its end."""
        events, metrics = _Tail(self._run.events, self._offset), _Tail(self._run.metrics, None)
        while True:
            ended = self._ended.is_set()
            new = [*events.read(), *metrics.read()]
            yield from sorted(new, key=lambda record: str(record["time"]))
            if ended:
                return
            if not new:
                self._ended.wait(POLL_SECONDS)

    def wait(self, timeout: float | None = None) -> dict[str, Any] | None:
        """Wait for the end, at most `timeout` seconds, and return the result; None when it still runs.

        Raises WindlassError with the reason when the run failed.
        """
        if not self._ended.wait(timeout):
            return None
        result = self.result
        if self._exit_code not in (DONE, INTERRUPTED):
            if result is None or result["status"] != "Failed":  # no time for a result, or one of an earlier start
                raise WindlassError("HeadLost", f"The driver ended without a result; see {self._run.log('driver')}.")
            raise WindlassError(result["reason"], result["message"])
        return result

    def stop(self) -> None:
        """Ask the run to save a checkpoint and stop."""
        if not self._ended.is_set():
            self._run.stop.touch()
            self._run.enter("Stopping", "Saving a checkpoint")

    def kill(self) -> None:
        """End all of its processes at once; it continues from its last checkpoint when it is run again."""
        import psutil

        self._killed = True
        process = self._process
        if process is None or process.poll() is not None:
            return
        try:
            descendants = psutil.Process(process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return
        process.kill()
        for descendant in descendants:
            with contextlib.suppress(psutil.NoSuchProcess):
                descendant.kill()
        psutil.wait_procs(descendants, timeout=10)  # not the driver, which is this process's own to wait for
        self._ended.wait(10)

    def generate(self, prompt: str, **sampling: Any) -> str:
        """Continue a prompt with the newest checkpoint's weights; see `windlass.engine.runs.generate_text`."""
        from windlass.engine.runs import generate_text

        return "".join(generate_text(self.folder, prompt, **sampling))


def _death(code: int) -> str:
    if code == 1:
        return "the driver ended by itself, as it does after a hang; its log ends with why"
    return f"the driver died by signal {-code}"


class _Tail:
    """New lines of a .jsonl file that is appended to, and replaced when a run continues from a checkpoint."""

    def __init__(self, path: Path, offset: int | None) -> None:
        """Start at `offset` bytes; None: at what is there now, by the time in its records."""
        self._path = path
        self._offset = offset or 0
        self._inode: int | None = None
        self._seen = "" if offset is not None else max((str(r["time"]) for r in read_lines(path)), default="")

    def read(self) -> list[Record]:
        try:
            file = open(self._path, "rb")  # noqa: SIM115 - closed below
        except FileNotFoundError:
            return []
        with file:
            inode = os.fstat(file.fileno()).st_ino
            replaced = self._inode not in {None, inode}
            if replaced:
                self._offset = 0
            history = replaced or self._inode is None
            self._inode = inode
            file.seek(self._offset)
            lines = file.read().split(b"\n")
        self._offset += sum(len(line) + 1 for line in lines[:-1])
        records = [json.loads(line) for line in lines[:-1]]
        # Times are in milliseconds, so only what was there when the file was opened is judged by them.
        new = [record for record in records if not history or str(record["time"]) > self._seen]
        if new:
            self._seen = max(self._seen, *(str(record["time"]) for record in new))
        return new
