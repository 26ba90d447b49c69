"""Ray's processes in a pod, without those that our runs do not need, and their settings.

    python -m windlass.engine.pods.ray_node head
    python -m windlass.engine.pods.ray_node worker CPUS GPUS

`ray start --head` starts a dashboard also when told not to, and waits for it before the node joins. A worker has
imported Ray by the time it reads the head's address, a line of its standard input.
"""

import contextlib
import os
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from windlass.engine.machine import threads_of_rank
from windlass.engine.pods.pod import Pod
from windlass.engine.ray_local import ENVIRONMENT, RANKS_ENVIRONMENT, WORKERS_ENVIRONMENT

STARTED = "Ray has started"
"""What is printed once all processes run and have joined."""
OBJECT_STORE_BYTES = 128 << 20
"""Ranks talk through torch.distributed; Ray's store holds little more than the train function."""
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
HEADS_ENVIRONMENT = {"RAY_preload_python_modules": "ray.train.v2._internal.execution.checkpoint.sync_actor"}
"""Settings of the head's Ray: the one process there is where ranks tell each other of their addresses."""


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
    # Ray reads its environment when it is imported.
    from ray._private import utils
    from ray._private.node import Node
    from ray._private.parameter import RayParams
    from ray._private.resource_isolation_config import ResourceIsolationConfig
    from ray._raylet import DASHBOARD_AGENT_LISTEN_PORT_NAME as LISTEN_PORT  # type: ignore[attr-defined]  # compiled
    from ray._raylet import persist_port  # type: ignore[attr-defined]

    class TrimmedNode(Node):
        def start_api_server(self, **options: Any) -> None:
            """Leave out the dashboard."""

        def start_raylet(self, *arguments: Any, **options: Any) -> None:
            """Say the one port that it waits for although it is known beforehand."""
            persist_port(self._session_dir, self._node_id, LISTEN_PORT, ports[0])
            super().start_raylet(*arguments, **options)

    # As if their dependencies were not installed: agents without a dashboard's parts start in half the time.
    utils.get_dashboard_dependency_error = lambda: ImportError()
    pod = Pod.here()
    head = role == "head"
    cpus, gpus = (int(count) for count in room or ("0", "0"))
    # Where ports are not given, Ray's node waits for its agents to say theirs, and dies when they are slow to start.
    ports = _free_ports(pod.ip, 4)
    parameters = RayParams(
        node_ip_address=pod.ip,
        node_name=pod.name,
        gcs_address=None if head else sys.stdin.readline().strip(),
        num_cpus=cpus,
        num_gpus=gpus,
        object_store_memory=OBJECT_STORE_BYTES,
        temp_dir=str(Path(os.environ.get("RAY_TMPDIR", tempfile.gettempdir())) / "ray"),  # sockets' paths must be short
        include_dashboard=False,
        include_log_monitor=False,  # type: ignore[arg-type]  # declared str
        no_monitor=True,
        resource_isolation_config=ResourceIsolationConfig(),
        dashboard_agent_listen_port=ports[0],
        metrics_agent_port=ports[1],
        metrics_export_port=ports[2],
        runtime_env_agent_port=ports[3],
    )
    if head:
        parameters.gcs_server_port = pod.ray_port
    node = TrimmedNode(parameters, head=head, shutdown_at_exit=True, spawn_reaper=True)
    sys.stdout.write(f"{STARTED}\n")
    sys.stdout.flush()
    while not (ended := node.dead_processes()):  # type: ignore[no-untyped-call]
        time.sleep(POLL_SECONDS)
    sys.stdout.write(f"{', '.join(name for name, _ in ended)} ended\n")
    return 1


def _free_ports(address: str, count: int) -> list[int]:
    """Ports that nobody listens on now."""
    with contextlib.ExitStack() as sockets:
        listeners = [sockets.enter_context(socket.create_server((address, 0))) for _ in range(count)]
        return [listener.getsockname()[1] for listener in listeners]


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
