"""What a worker pod has to train on, found out without importing torch."""

import contextlib
import platform
import subprocess
from pathlib import Path

import psutil

from windlass.engine.machine import Machine

_MEMORY_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))  # v2, v1
_QUERY = ["nvidia-smi", "--query-gpu=name,memory.total,compute_cap", "--format=csv,noheader,nounits"]


def worker_machine(gpus: int, threads: int) -> Machine:
    """This pod's GPUs, or its share of the node's CPU and memory."""
    if gpus == 0:
        return Machine("cpu", 1, _processor(), _memory(), threads=threads)
    answer = subprocess.run(_QUERY, capture_output=True, text=True, check=True, timeout=60).stdout
    name, mebibytes, capability = (part.strip() for part in answer.splitlines()[0].split(","))
    major, _, minor = capability.partition(".")
    return Machine("cuda", gpus, name, int(mebibytes) << 20, (int(major), int(minor)), threads=threads)


def _memory() -> int:
    """Bytes: the container's limit, or all of the node's."""
    node = psutil.virtual_memory().total
    for file in _MEMORY_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # no limit: "max", or a number beyond the node's
            return min(node, int(file.read_text()))
    return node


def _processor() -> str:
    return platform.processor() or platform.machine()
