"""Ray's processes on one machine, without those that our runs do not need.

Beside its servers, Ray 2.60 starts a dashboard (also when told not to), a monitor, a log monitor, and two agents, for
the dashboard and for runtime environments. Each imports for about a second of a core before the first step, and then
holds 100 MB. Nobody asks ours for what they serve: ranks have the environment of their Ray. This module reaches into
Ray's internals, so pyproject.toml pins its minor version. Ray reads its environment when it is imported, here too.
"""

import contextlib
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from ray._private import services
from ray._private.node import Node
from ray._private.parameter import RayParams
from ray._private.resource_isolation_config import ResourceIsolationConfig
from ray._raylet import DASHBOARD_AGENT_LISTEN_PORT_NAME as LISTEN_PORT  # type: ignore[attr-defined]  # compiled
from ray._raylet import persist_port  # type: ignore[attr-defined]

from windlass.engine import idle_agent, rank_process

OBJECT_STORE_BYTES = 128 << 20
"""Ranks talk through torch.distributed; Ray's store holds little more than the train function."""
_IDLE = subprocess.list2cmdline([sys.executable, "-I", "-S", idle_agent.__file__])
_start_ray_process = services.start_ray_process
_DEFAULT_WORKER = str(Path(services.__file__).parent / "workers" / "default_worker.py")


class TrimmedNode(Node):
    """A Ray node without dashboard, monitors and agents."""

    def __init__(self, *, head: bool, address: str, temp_dir: str, shutdown_at_exit: bool, **parameters: Any) -> None:
        """`address` is this machine's; `parameters` are further fields of RayParams.

        With `shutdown_at_exit` the node ends with this process, on SIGTERM too; only the main thread can have that.
        """
        # A raylet waits for its agents to say their ports, unless it is told. Nobody will listen there.
        self._listen_port, metrics, export, environments = _free_ports(address, 4)
        given = RayParams(
            node_ip_address=address,
            temp_dir=temp_dir,
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=False,
            include_log_monitor=False,  # type: ignore[arg-type]  # declared str
            no_monitor=True,
            resource_isolation_config=ResourceIsolationConfig(),
            dashboard_agent_listen_port=self._listen_port,
            metrics_agent_port=metrics,
            metrics_export_port=export,
            runtime_env_agent_port=environments,
            **parameters,
        )
        super().__init__(given, head=head, shutdown_at_exit=shutdown_at_exit, spawn_reaper=True)

    def start_api_server(self, **options: Any) -> None:
        """Leave out the dashboard."""

    def start_raylet(self, *arguments: Any, **options: Any) -> None:
        """Say the one port that the raylet waits for although it is known beforehand, and start no agents."""
        persist_port(self._session_dir, self._node_id, LISTEN_PORT, self._listen_port)
        services.start_ray_process = _start_trimmed  # type: ignore[assignment]
        try:
            super().start_raylet(*arguments, **options)
        finally:
            services.start_ray_process = _start_ray_process


def _start_trimmed(command: list[str], process_type: str, **options: Any) -> Any:
    """Ray's `start_ray_process`, of a raylet whose agents are idle and whose workers import before they register."""
    return _start_ray_process([_trimmed(part) for part in command], process_type, **options)


def _trimmed(part: str) -> str:
    name, _, value = part.partition("=")
    if name in {"--dashboard_agent_command", "--runtime_env_agent_command"}:
        return f"{name}={_IDLE}"
    if name == "--python_worker_command":
        return f"{name}={value.replace(_DEFAULT_WORKER, rank_process.__file__)}"
    return part


def _free_ports(address: str, count: int) -> list[int]:
    """Ports that nobody listens on now."""
    with contextlib.ExitStack() as sockets:
        listeners = [sockets.enter_context(socket.create_server((address, 0))) for _ in range(count)]
        return [listener.getsockname()[1] for listener in listeners]
