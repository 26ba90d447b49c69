"""One writer at a time."""

import json
import os
import socket
import subprocess
import sys
import time
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
