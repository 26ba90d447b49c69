"""Processes that wait to be used by Ray: ranks that start again need not import anew what took the first ones seconds.

Every node's Ray answers this request, which Ray 2.60 has no Python function for: pyproject.toml pins its minor version.
"""

import logging

import grpc
import ray
from ray._common.network_utils import build_address  # type: ignore[attr-defined]  # not in its __all__
from ray._private.grpc_utils import init_grpc_channel
from ray.core.generated.common_pb2 import Language  # type: ignore[attr-defined]  # made at run time
from ray.core.generated.node_manager_pb2 import PrestartWorkersRequest  # type: ignore[attr-defined]
from ray.core.generated.node_manager_pb2_grpc import NodeManagerServiceStub

logger = logging.getLogger(__name__)

KEEP_SECONDS = 365 * 24 * 3600
"""How long Ray lets them wait."""
TIMEOUT = 5.0


def start_spares(host: str, port: int, count: int) -> None:
    """Have `count` processes started by a node's Ray, for the job that this process is connected as."""
    request = PrestartWorkersRequest(
        language=Language.PYTHON,
        job_id=bytes.fromhex(ray.get_runtime_context().get_job_id()),
        keep_alive_duration_secs=KEEP_SECONDS,
        num_workers=count,
    )
    request.runtime_env_info.serialized_runtime_env = "{}"  # that of the ranks
    with init_grpc_channel(build_address(host, port)) as channel:
        try:
            NodeManagerServiceStub(channel).PrestartWorkers(request, timeout=TIMEOUT)  # type: ignore[no-untyped-call]
        except grpc.RpcError as error:  # the next start takes longer, and nothing else
            logger.warning("No process waits on %s for the next start: %s", host, error)
