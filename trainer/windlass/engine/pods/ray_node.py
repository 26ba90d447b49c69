"""Ray's processes in a pod, and their settings.

    python -m windlass.engine.pods.ray_node head
    python -m windlass.engine.pods.ray_node worker CPUS GPUS

A worker has imported Ray by the time it reads the head's address, a line of its standard input.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

from windlass.engine.machine import threads_of_rank
from windlass.engine.pods.pod import Pod
from windlass.engine.ray_local import ENVIRONMENT, RANKS_ENVIRONMENT, WORKERS_ENVIRONMENT

STARTED = "Ray has started"
"""What is printed once all processes run and have joined."""
POLL_SECONDS = 0.2

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


def command(*arguments: str) -> list[str]:
    """What starts Ray's processes."""
    return [sys.executable, "-m", "windlass.engine.pods.ray_node", *arguments]


def ranks_environment(pod: Pod, ranks: int) -> dict[str, str]:
    """Settings of a worker's Ray and its ranks: threads, and the network interface unless the user chose one."""
    settings = RANKS_ENVIRONMENT | {"OMP_NUM_THREADS": str(threads_of_rank(ranks))}
    if pod.interface is None:
        return settings
    chosen = {f"{library}_SOCKET_IFNAME": pod.interface for library in ("GLOO", "NCCL")}
    return settings | {name: os.environ.get(name, interface) for name, interface in chosen.items()}


def main(role: str, *room: str) -> int:
    """Start Ray's processes, and end when one of them does; returns the exit code."""
    from windlass.engine.trimmed_ray import TrimmedNode  # imports Ray, for whose environment see there

    pod = Pod.here()
    head = role == "head"
    cpus, gpus = (int(count) for count in room or ("0", "0"))
    node = TrimmedNode(
        head=head,
        shutdown_at_exit=True,
        address=pod.ip,
        temp_dir=str(Path(os.environ.get("RAY_TMPDIR", tempfile.gettempdir())) / "ray"),  # sockets' paths must be short
        node_name=pod.name,
        gcs_address=None if head else sys.stdin.readline().strip(),
        gcs_server_port=pod.ray_port if head else None,
        num_cpus=cpus,
        num_gpus=gpus,
    )
    sys.stdout.write(f"{STARTED}\n")
    sys.stdout.flush()
    while not (ended := node.dead_processes()):  # type: ignore[no-untyped-call]
        time.sleep(POLL_SECONDS)
    sys.stdout.write(f"{', '.join(name for name, _ in ended)} ended\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
