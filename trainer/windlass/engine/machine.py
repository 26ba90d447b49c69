"""The machine a run is on: its device, memory and cores, and how they are shared by ranks."""

import contextlib
import importlib.metadata
import os
import platform
from dataclasses import dataclass
from typing import Any

import psutil

from windlass.errors import WindlassError
from windlass.planning.choices import Device


@dataclass(frozen=True)
class Machine:
    """What there is to train on."""

    device: Device
    devices: int
    """GPUs; 1 on a CPU, however many ranks share it."""
    device_name: str
    memory: int
    """Bytes of one GPU, or of the whole machine on a CPU."""
    compute_capability: tuple[int, int] | None = None
    threads: int | None = None
    """Of each rank; None: an even share of this machine's cores."""

    def check_ranks(self, ranks: int, asked: str = "spec.workers") -> int:
        """The number of ranks that a setting asked for, if this machine has a place for each. Raises ConfigInvalid."""
        if self.device == "cuda" and ranks > self.devices:
            raise WindlassError(
                "ConfigInvalid",
                f"{asked} asks for {ranks} ranks, and this machine has {self.devices} GPUs. "
                f"Use --workers {self.devices}, or hide the GPUs (CUDA_VISIBLE_DEVICES=) to train on the CPU.",
            )
        if self.device == "mps" and ranks > 1:
            raise WindlassError("ConfigInvalid", "Apple's GPU (MPS) holds one rank. Use --workers 1.")
        return ranks

    def memory_of_rank(self, ranks: int) -> int:
        return self.memory if self.device == "cuda" else self.memory // ranks


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_of_rank(ranks: int) -> int:
    """Threads of each rank's operators: OMP_NUM_THREADS where it is set, else its share of the cores."""
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]  # "4,2": more numbers are for nested regions
    return int(asked or max(1, cores() // ranks))


def this_machine() -> Machine:
    """CUDA if there is a GPU, then MPS, then the CPU."""
    import torch  # here, because the driver starts Ray first

    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties(0)
        return Machine(
            "cuda", torch.cuda.device_count(), gpu.name, gpu.total_memory, torch.cuda.get_device_capability(0)
        )
    memory = psutil.virtual_memory().total
    if torch.backends.mps.is_available():
        return Machine("mps", 1, "Apple GPU", memory)
    return Machine("cpu", 1, platform.processor() or platform.machine(), memory)


def environment(machine: Machine) -> dict[str, Any]:
    """What to know when a result is compared with another one: hardware and versions."""
    versions = {}
    for name in ("windlass", "torch", "ray", "numpy", "transformers", "lm_eval"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "platform": platform.platform(),
        "python": platform.python_version(),
        "device": machine.device_name,
        "devices": machine.devices,
        "cores": cores(),
        "memory_bytes": psutil.virtual_memory().total,
        "packages": versions,
    }
