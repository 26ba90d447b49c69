"""What a failure of the ranks was: one error with a reason, from what each rank raised."""

from collections.abc import Iterable

from windlass.errors import WindlassError

_CONSEQUENCES = ("gloo", "NCCL", "Connection reset", "Connection closed", "ProcessGroup", "Broken pipe")
"""Words of the errors that the other ranks get when one rank is gone."""
_GPU_MEMORY = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""Words of the driver, and of a library that found no room; PyTorch's own allocator has an error class."""


class Stopped(Exception):
    """The run was asked to stop while nothing trained."""


def classify(errors: Iterable[BaseException]) -> WindlassError:
    """The failure that came first, judged by what each rank raised: the others' lost connections are consequences."""
    failures = [as_windlass_error(error) for error in errors]
    own = [failure for failure in failures if failure.reason != "RankFailed"]
    return (own or failures or [WindlassError("RankFailed", "A rank died without a word.")])[0]


def as_windlass_error(error: BaseException) -> WindlassError:
    """An exception as an error with a reason."""
    if isinstance(error, WindlassError):
        return error
    if cause := _cause(error):
        return cause
    kinds = {kind.__name__ for kind in type(error).__mro__}  # of classes that are not imported here
    if "RayTaskError" in kinds:  # what a rank raised, in Ray's words
        return as_windlass_error(error.cause)  # type: ignore[attr-defined]
    kind, text = type(error).__name__, str(error).strip() or type(error).__name__
    last_line = text.splitlines()[-1]
    if (kind == "OutOfMemoryError" and "CUDA" in text) or any(word in text for word in _GPU_MEMORY):
        return WindlassError("GpuOutOfMemory", f"{last_line} Lower training.microBatchSize or shard with FSDP.")
    if isinstance(error, MemoryError) or "not enough memory" in text or kind == "OutOfMemoryError":
        return WindlassError("OutOfMemory", f"{last_line} Lower training.microBatchSize.")
    if isinstance(error, OSError) and error.errno == 28:
        return WindlassError("StorageFull", f"{error}. Free space and run again.")
    if "RayError" in kinds or kind.startswith("WorkerGroup") or "worker health check" in text.lower():
        return WindlassError("RankFailed", f"A rank died: {_exit_detail(text)}")
    lost = isinstance(error, (RuntimeError, ConnectionError)) and any(word in text for word in _CONSEQUENCES)
    if lost or "DistError" in kinds:  # torch.distributed's
        return WindlassError("RankFailed", f"A rank lost its connection to another one: {last_line[:300]}")
    return WindlassError("UserError", f"{kind}: {text}")


def _cause(error: BaseException) -> WindlassError | None:
    """The WindlassError that this one was raised from or wraps, if there is one."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, WindlassError):
            return seen
        inner = getattr(seen, "cause", None)
        seen = seen.__cause__ or seen.__context__ or (inner if isinstance(inner, BaseException) else None)
    return None


def _exit_detail(text: str) -> str:
    """What Ray says of it, without its guesses."""
    if "connection error code 2" in text:
        return "its process is gone, as when it is killed."
    for line in text.splitlines():
        if "exit detail" in line.lower():
            return line.split("Worker exit detail:")[-1].split(" Some common causes")[0].strip()[:300]
    return text.splitlines()[-1][:300]
