"""Ray's processes in a pod: the commands that start them, and their settings."""

import os
import sys
import tempfile
from pathlib import Path

from windlass.engine.machine import threads_of_rank
from windlass.engine.pods.pod import Pod
from windlass.engine.ray_local import ENVIRONMENT, WORKERS_ENVIRONMENT

RAY = (sys.executable, "-m", "ray.scripts.scripts")
STARTED = b"Ray runtime started."
"""What `ray start` prints once its processes have joined."""
OBJECT_STORE_BYTES = 128 << 20
"""Ranks talk through torch.distributed; Ray's store holds little more than the train function."""

_ENVIRONMENT = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",
    # A lost node is noticed within five seconds.
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "10",  # a worker's Ray ends soon after the head is lost
}
TRAIN_ENVIRONMENT = WORKERS_ENVIRONMENT | {
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "15",  # the driver has seen that there is room
}
"""Settings of Ray Train's controller and of the ranks."""


def environment() -> dict[str, str]:
    """Settings of all of Ray's processes and of the driver."""
    if "RAY_AUTH_TOKEN_PATH" not in os.environ:
        raise RuntimeError("RAY_AUTH_TOKEN_PATH is not set: anyone who reaches this Ray could run code in it")
    return ENVIRONMENT | TRAIN_ENVIRONMENT | _ENVIRONMENT


def head_command(pod: Pod) -> list[str]:
    """`ray start` in the head: the control store, and a node without room for ranks."""
    head_only = ("--head", f"--port={pod.ray_port}", "--include-dashboard=false", "--disable-usage-stats")
    return [*RAY, "start", *head_only, "--no-monitor", *_common(pod), "--num-cpus=0", "--num-gpus=0"]


def worker_command(pod: Pod, address: str, cpus: int, gpus: int) -> list[str]:
    """`ray start` in a worker, with room for its ranks."""
    return [*RAY, "start", f"--address={address}", *_common(pod), f"--num-cpus={cpus}", f"--num-gpus={gpus}"]


def _common(pod: Pod) -> list[str]:
    return [
        "--block",
        f"--node-ip-address={pod.ip}",
        f"--object-store-memory={OBJECT_STORE_BYTES}",
        f"--temp-dir={ray_folder()}",
        "--include-log-monitor=false",
    ]


def ray_folder() -> Path:
    """Where Ray's sockets and logs are; sockets' paths must be short."""
    return Path(os.environ.get("RAY_TMPDIR", tempfile.gettempdir())) / "ray"


def ranks_environment(pod: Pod, ranks: int) -> dict[str, str]:
    """Settings of a worker's ranks: threads, and the network interface that they meet on unless the user chose one."""
    threads = {"OMP_NUM_THREADS": str(threads_of_rank(ranks))}
    if pod.interface is None:
        return threads
    chosen = {f"{library}_SOCKET_IFNAME": pod.interface for library in ("GLOO", "NCCL")}
    return threads | {name: os.environ.get(name, interface) for name, interface in chosen.items()}
