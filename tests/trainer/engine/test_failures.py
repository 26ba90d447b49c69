"""What a failure was, judged by what each rank raised."""

import pickle

import pytest
import torch

from windlass.engine.failures import as_windlass_error, classify
from windlass.errors import WindlassError

LOST = RuntimeError("[gloo/transport/tcp/pair.cc:537] Read error [127.0.0.1]:27849: Connection reset by peer")


def test_the_ranks_that_lost_their_connection_do_not_hide_the_one_that_failed() -> None:
    first = WindlassError("DataCorrupt", "block 3 does not match its hash")
    assert classify([LOST, first, LOST]) is first


def test_lost_connections_alone_are_a_dead_rank() -> None:
    assert classify([LOST, LOST]).reason == "RankFailed"
    assert classify([]).reason == "RankFailed"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), "OutOfMemory"),
        (OSError(28, "No space left on device"), "StorageFull"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), "GpuOutOfMemory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "GpuOutOfMemory"),
        (ValueError("the user's own"), "UserError"),
        (RuntimeError("shapes cannot be multiplied"), "UserError"),
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
