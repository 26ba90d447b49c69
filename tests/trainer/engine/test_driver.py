"""Budgets of restarts, and what a head does that may not be the job's newest any more."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from windlass import lock
from windlass.engine.driver import backoff, drive
from windlass.engine.machine import Machine, this_machine
from windlass.engine.pods.ray_cluster import RayCluster
from windlass.engine.rank_settings import RankSettings
from windlass.engine.run_folder import RunFolder, read_json, read_lines
from windlass.errors import BAD_INPUT, DONE, WindlassError
from windlass.lock import LEASE, Claim, claim_storage
from windlass.spec.job import LLMTrainingJob, Restarts
from windlass.storage import Storage
from windlass.training.commits import Commit, CommitLog

NEWER_HEAD = """
import sys, time
from windlass.lock import claim_storage
from windlass.storage import Storage
from windlass.training.commits import CommitLog
claim = claim_storage(sys.argv[1])
CommitLog(Storage(sys.argv[1])).begin_attempt(0, {})
Storage(sys.argv[1]).write("result.json", b"the newer head's")
print("trains", flush=True)
time.sleep(100)
"""


def test_the_first_restart_is_at_once_and_fruitless_ones_wait_twice_as_long_each_time() -> None:
    budget = Restarts(backoff_seconds=10.0, max_backoff_seconds=60.0)
    assert [backoff(budget, fruitless) for fruitless in range(6)] == [0.0, 10.0, 20.0, 40.0, 60.0, 60.0]


class Head(RayCluster):
    """A head whose ranks do what the test says, at each start the next thing."""

    def __init__(self, job: LLMTrainingJob, run: RunFolder, *starts: Callable[[], object]) -> None:
        self._job, self._run, self._starts = job, run, list(starts)
        self._keeping = threading.Thread()
        self.held_when_kept = False

    def check(self) -> None:
        pass

    def gather(self) -> int:
        return 1

    def machine(self) -> Machine:
        return this_machine()

    def fit(self, settings: RankSettings) -> bool:
        self._starts.pop(0)()
        return True

    def keep(self, run: RunFolder, claim: Claim) -> None:
        super().keep(run, claim)
        self.held_when_kept = claim.held()

    def close(self) -> None:
        pass


@pytest.fixture
def job(s3_server: Any, tiny_job: Callable[..., LLMTrainingJob], monkeypatch: pytest.MonkeyPatch) -> LLMTrainingJob:
    """A job in a bucket, of whose first head this process is the driver."""
    monkeypatch.setenv(lock.JOB, "one")
    monkeypatch.setenv(lock.ATTEMPT, "1")
    return tiny_job(f"checkpoints.uri={s3_server.bucket()}/run", "lifecycle.restarts.backoffSeconds=0.1")


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunFolder]:
    """The head's run folder."""
    (tmp_path / "runs" / "tiny").mkdir(parents=True)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield RunFolder(tmp_path / "runs" / "tiny")
    for number, handler in handlers.items():
        signal.signal(number, handler)


@contextmanager
def newer_head(uri: str) -> Iterator[None]:
    """Another process is the job's next head, and trains there."""
    command, environment = [sys.executable, "-c", NEWER_HEAD, uri], os.environ | {lock.ATTEMPT: "2"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"trains\n"
        try:
            yield
        finally:
            process.kill()


def lose_a_rank() -> None:
    raise WindlassError("RankFailed", "A rank died.")


@pytest.mark.parametrize("end", ["a rank dies", "stopped", "at its end"])
def test_a_head_that_a_newer_one_has_taken_over_from_starts_no_ranks_and_keeps_nothing(
    job: LLMTrainingJob, run: RunFolder, end: str
) -> None:
    uri = run.checkpoints_uri(job)
    log = CommitLog(Storage(uri))

    def train() -> None:
        log.begin_attempt(0, {})
        taken.enter_context(newer_head(uri))
        if end == "a rank dies":
            lose_a_rank()
        if end == "stopped":
            run.stop.touch()

    with ExitStack() as taken:
        head = Head(job, run, train, lambda: log.begin_attempt(0, {}))
        code = drive(job, run, lambda: head)
        assert log.storage.read("result.json") == b"the newer head's"
    assert [attempt.number for attempt in log.attempts()] == [1, 2]
    result = read_json(run.result)
    if end == "stopped":
        assert result["status"] == "Stopped"
    else:
        assert (code, result["reason"]) == (BAD_INPUT, "StorageInUse")
        assert "was taken over by a newer head of the job" in result["message"]
    assert log.storage.exists(LEASE)


def test_the_newest_head_whose_ranks_were_fenced_by_an_earlier_ones_starts_them_again(
    job: LLMTrainingJob, run: RunFolder
) -> None:
    log = CommitLog(Storage(run.checkpoints_uri(job)))

    def be_fenced() -> None:
        ours = log.begin_attempt(0, {})
        log.begin_attempt(0, {})
        log.commit(Commit(5, ours.number, {}, {}))

    head = Head(job, run, be_fenced, lambda: log.begin_attempt(0, {}))
    assert drive(job, run, lambda: head) == DONE
    [restart] = [event for event in read_lines(run.events) if event.get("phase") == "Recovering"]
    assert restart["message"].endswith("attempt 1 may not commit any more. Restart 1 of 20")
    assert [attempt.number for attempt in log.attempts()] == [1, 2, 3]
    assert log.storage.exists("result.json")
    assert head.held_when_kept
    assert not log.storage.exists(LEASE)


def test_a_storage_that_is_away_is_no_lost_lease(job: LLMTrainingJob, run: RunFolder, s3_server: Any) -> None:
    def lose_a_rank_and_the_storage() -> None:
        s3_server.kill()
        threading.Timer(1, s3_server.start).start()
        lose_a_rank()

    head = Head(job, run, lose_a_rank_and_the_storage, lambda: None)
    assert drive(job, run, lambda: head) == DONE
    assert len([event for event in read_lines(run.events) if event.get("phase") == "Recovering"]) == 1


def test_a_head_that_finds_its_storage_in_use_by_another_job_keeps_nothing_there(
    job: LLMTrainingJob, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "RENEW_SECONDS", 0.2)
    storage = Storage(run.checkpoints_uri(job))
    storage.write("result.json", b"the other job's")
    other = claim_storage(storage.uri)
    monkeypatch.setenv(lock.JOB, "two")
    assert drive(job, run, lambda: Head(job, run)) == BAD_INPUT
    assert read_json(run.result)["reason"] == "StorageInUse"
    assert storage.read("result.json") == b"the other job's"
    other.release()
