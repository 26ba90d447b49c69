"""What a failure was, judged by what each rank raised."""

import pickle
import subprocess
import sys
import threading
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # not in its __all__

from windlass.engine.failures import as_windlass_error, classify
from windlass.errors import WindlassError

LOST = RuntimeError("[gloo/transport/tcp/pair.cc:537] Read error [127.0.0.1]:27849: Connection reset by peer")
RANK_0 = """
import sys, time
from torch.distributed import TCPStore
store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
print(store.port, flush=True)
before = store.num_keys()
while store.num_keys() == before:  # until rank 1 has come
    time.sleep(0.01)
print("Rank 1 waits", flush=True)
time.sleep(100)
"""
RAYS_ERRORS = """
from ray.exceptions import (
    ActorDiedError, ActorUnavailableError, NodeDiedError, OutOfMemoryError, RayTaskError, TaskCancelledError,
    WorkerCrashedError,
)
from windlass.engine.failures import as_windlass_error
from windlass.errors import WindlassError

for error in (ActorDiedError(), ActorUnavailableError("away", None), NodeDiedError("a node"), WorkerCrashedError()):
    print("machine", as_windlass_error(error).reason)
print("memory", as_windlass_error(OutOfMemoryError("killed by Ray")).reason)
for cause in (ValueError("the user's own"), OSError(28, "No space left"), WindlassError("DataCorrupt", "a block")):
    error = RayTaskError("train", "Traceback (most recent call last): ...", cause)
    for raised in (error, error.as_instanceof_cause()):
        print(type(cause).__name__, as_windlass_error(raised).reason)
"""


def test_the_ranks_that_lost_their_connection_do_not_hide_the_one_that_failed() -> None:
    first = WindlassError("DataCorrupt", "block 3 does not match its hash")
    assert classify([LOST, first, LOST]) is first


def test_lost_connections_alone_are_a_dead_rank() -> None:
    assert classify([LOST, LOST]).reason == "RankFailed"
    assert classify([]).reason == "RankFailed"


def test_a_rank_whose_peer_is_killed_while_they_join_is_not_a_mistake_of_the_user() -> None:
    with subprocess.Popen([sys.executable, "-c", RANK_0], stdout=subprocess.PIPE, text=True) as rank_0:
        assert rank_0.stdout
        store = TCPStore("127.0.0.1", int(rank_0.stdout.readline()), is_master=False)

        def kill() -> None:
            assert rank_0.stdout
            rank_0.stdout.readline()
            rank_0.kill()

        threading.Thread(target=kill).start()
        with pytest.raises(dist.DistNetworkError, match="Connection was likely closed") as lost:
            dist.init_process_group("gloo", store=store, rank=1, world_size=2)
    assert as_windlass_error(lost.value).reason == "RankFailed"


def test_a_rank_that_finds_no_peer_is_not_a_mistake_of_the_user() -> None:
    with pytest.raises(dist.DistNetworkError, match="timed out") as lost:
        TCPStore("127.0.0.1", 9, is_master=False, timeout=timedelta(seconds=0.1))
    assert as_windlass_error(lost.value).reason == "RankFailed"


def test_rays_own_errors_are_lost_machines_and_what_a_rank_raised_through_ray_is_its_own_failure() -> None:
    # In a process of its own: Ray keeps the settings that it was imported with.
    done = subprocess.run([sys.executable, "-c", RAYS_ERRORS], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert [line.split() for line in done.stdout.splitlines()] == [
        *([["machine", "RankFailed"]] * 4),
        ["memory", "OutOfMemory"],
        *([["ValueError", "UserError"]] * 2),
        *([["OSError", "StorageFull"]] * 2),
        *([["WindlassError", "DataCorrupt"]] * 2),
    ]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), "OutOfMemory"),
        (OSError(28, "No space left on device"), "StorageFull"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), "GpuOutOfMemory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "GpuOutOfMemory"),
        (ValueError("the user's own"), "UserError"),
        (RuntimeError("shapes cannot be multiplied"), "UserError"),
        (TimeoutError("the user's own connection"), "UserError"),
        (dist.DistBackendError("unhandled system error"), "RankFailed"),
        (dist.DistStoreError("wait timeout after 120000ms"), "RankFailed"),
    ],
)
def test_python_errors_get_a_reason(error: Exception, reason: str) -> None:
    assert as_windlass_error(error).reason == reason


def test_the_cause_of_a_wrapped_error_counts() -> None:
    error = RuntimeError("while training")
    error.__cause__ = WindlassError("AccessDenied", "the key is wrong")
    assert as_windlass_error(error).reason == "AccessDenied"


def test_errors_travel_between_processes() -> None:
    error = pickle.loads(pickle.dumps(WindlassError("StorageFull", "the disk is full")))
    assert (error.reason, str(error), error.retryable, error.exit_code) == ("StorageFull", "the disk is full", False, 3)
