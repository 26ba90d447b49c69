"""One writer at a time."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from windlass import lock
from windlass.errors import WindlassError
from windlass.lock import LEASE, StorageLease, claim_storage, lock_file
from windlass.storage import Storage

HOLD = "import sys, time; from pathlib import Path; from windlass.lock import lock_file; \
lock_file(Path(sys.argv[1]), 'it', run='first', folder='/there'); print('held', flush=True); time.sleep(60)"


def test_a_held_file_is_refused_with_its_holders_whereabouts_and_free_once_it_is_killed(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, path], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(WindlassError) as refused:
        lock_file(path, "The run")
    assert refused.value.reason == "StorageInUse"
    assert f"process {holder.pid} on {socket.gethostname()}" in str(refused.value)
    assert "run first in /there" in str(refused.value)
    holder.kill()
    holder.wait()
    os.close(lock_file(path, "The run"))


def test_a_new_head_waits_for_a_file_that_its_jobs_earlier_head_locks_and_for_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(lock, "POLL_SECONDS", 0.05)
    earlier = [sys.executable, "-c", HOLD, str(tmp_path / ".lock")]
    holder = subprocess.Popen(earlier, stdout=subprocess.PIPE, env=os.environ | {lock.JOB: "one"})
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    start = time.monotonic()
    with pytest.raises(WindlassError, match="is in use by process"):
        claim_storage(str(tmp_path))  # as windlass run does
    monkeypatch.setenv(lock.JOB, "two")
    with pytest.raises(WindlassError, match="is in use by process"):
        claim_storage(str(tmp_path))
    assert time.monotonic() - start < lock.EARLIER_HEAD_SECONDS / 2
    assert "Waiting" not in caplog.text

    monkeypatch.setenv(lock.JOB, "one")
    with pytest.raises(WindlassError, match="is in use by process"):
        claim_storage(str(tmp_path), patience=0.3)  # it may be alive
    caplog.clear()
    threading.Timer(0.5, holder.kill).start()
    claim_storage(str(tmp_path)).release()
    assert caplog.text.count("Waiting up to 120 s for the lock that the job's earlier head has") == 1
    holder.wait()


@pytest.fixture
def bucket(s3_server: Any, monkeypatch: pytest.MonkeyPatch) -> Storage:
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(lock, "RENEW_SECONDS", 0.1)
    monkeypatch.setattr(lock, "EXPIRE_SECONDS", 1.0)
    return Storage(s3_server.bucket())


def test_a_lease_in_object_storage_is_refused_while_it_is_renewed(bucket: Storage) -> None:
    first = claim_storage(bucket.uri, run="first", folder="/there")
    with pytest.raises(WindlassError, match=r"is in use by process .* run first in /there"):
        claim_storage(bucket.uri, run="second", folder="/here")
    first.release()
    claim_storage(bucket.uri, run="second", folder="/here").release()
    assert not bucket.exists(LEASE)


def test_a_lease_of_a_dead_process_of_this_machine_is_taken_at_once(
    bucket: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    holder = {"id": "x", "host": socket.gethostname(), "pid": dead.pid, "since": "", "renewed": ""}
    bucket.write(LEASE, json.dumps(holder).encode())
    monkeypatch.setattr(lock, "EXPIRE_SECONDS", 1000.0)
    StorageLease(bucket, run="next").release()


def test_a_lease_of_another_machine_that_is_not_renewed_expires(bucket: Storage) -> None:
    holder = {"id": "x", "host": "elsewhere", "pid": 1, "since": "", "renewed": ""}
    bucket.write(LEASE, json.dumps(holder).encode())
    lease = StorageLease(bucket, run="next")
    assert json.loads(bucket.read(LEASE))["run"] == "next"
    lease.release()


def test_a_job_takes_over_what_an_earlier_pod_of_its_own_holds_and_nothing_of_another_jobs(
    bucket: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "RENEW_SECONDS", 0.2)
    monkeypatch.setenv(lock.JOB, "one")
    earlier = claim_storage(bucket.uri)
    monkeypatch.setenv(lock.ATTEMPT, "1")
    claim_storage(bucket.uri).release()
    earlier.release()
    other = claim_storage(bucket.uri)
    monkeypatch.setenv(lock.JOB, "two")
    with pytest.raises(WindlassError, match=f"{socket.gethostname()}, job one"):
        claim_storage(bucket.uri)
    other.release()


def test_only_ones_own_lease_is_deleted(bucket: Storage) -> None:
    lease = StorageLease(bucket, run="first")
    time.sleep(0.05)
    lease._released.set()
    lease._thread.join()
    bucket.write(LEASE, json.dumps({"id": "another", "host": "elsewhere", "pid": 1}).encode())
    lease.release()
    assert bucket.exists(LEASE)


def test_of_a_jobs_heads_the_newest_holds_the_lease_whatever_an_earlier_one_still_does(
    bucket: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(lock.JOB, "one")
    earlier, newer = (claimed_in_attempt(number, bucket, monkeypatch) for number in (9, 10))
    eventually(lambda: not earlier.held())
    assert newer.held()
    bucket.write(LEASE, earlier._content())  # which it began to write before
    assert newer.held()
    eventually(lambda: json.loads(bucket.read(LEASE))["attempt"] == 10)
    monkeypatch.setattr(lock, "RENEW_SECONDS", 2.0)
    monkeypatch.setattr(lock, "EXPIRE_SECONDS", 6.0)
    time.sleep(0.3)  # from now on it is renewed every 2 s
    with pytest.raises(WindlassError, match="is in use by"):
        claimed_in_attempt(9, bucket, monkeypatch)
    earlier.release()
    assert newer.held()
    newer.release()
    assert not newer.held()


def claimed_in_attempt(number: int, bucket: Storage, monkeypatch: pytest.MonkeyPatch) -> StorageLease:
    monkeypatch.setenv(lock.ATTEMPT, str(number))
    return StorageLease(bucket)


def eventually(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_lease_is_held_while_the_storage_is_away_and_is_not_missed_when_it_is_freed_then(
    bucket: Storage, s3_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "RENEW_SECONDS", 1000.0)
    lease = StorageLease(bucket)
    s3_server.kill()
    with pytest.raises(WindlassError) as away:
        lease.held(patience=0.2)
    assert away.value.reason == "StorageUnavailable"
    back = threading.Timer(0.5, s3_server.start)
    back.start()
    assert lease.held()
    back.join()
    s3_server.kill()
    lease.release()
