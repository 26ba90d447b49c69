"""A Ray cluster as an executor: what is submitted to it runs on the CPUs of all of its nodes.

with ray_executor("auto") as executor:
    prepare(spec, tokenizer, "s3://corpora/mine", executor=executor, workers=executor.cpus)
"""

import contextlib
import logging
import os
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from typing import Any

import windlass
from windlass.errors import WindlassError

RETRIES = 3
"""Of a task whose process or node died; what a task raises is not retried."""


@contextlib.contextmanager
def ray_executor(address: str) -> Iterator["RayExecutor"]:
    """Yield the CPUs of the Ray cluster that this machine is a node of: at `address`, host:port, or auto for its own.

    Its tasks end with the context, or with this process however that ends. Raises ConfigInvalid where there is no such
    cluster, or a node has no Windlass of this version.
    """
    import ray

    try:
        _require_listener(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    except (OSError, RuntimeError, ValueError) as error:
        hint = "give auto, or HOST:PORT, on a node of a running cluster; `ray start --head` starts one"
        message = f"no Ray cluster can be used at {address}: {_first_line(error)}; {hint}"
        raise WindlassError("ConfigInvalid", message) from error
    try:
        yield RayExecutor()
    finally:
        ray.shutdown()


class RayExecutor(Executor):
    """Functions as tasks of the Ray cluster that this process is connected to; each takes one CPU.

    A task whose process or node dies is done again elsewhere.
    """

    def __init__(self) -> None:
        """Ask every node for its version. Raises ConfigInvalid where one has another, or no CPUs are there."""
        import ray

        known = ray.nodes()  # type: ignore[no-untyped-call]
        nodes = [node for node in known if node["Alive"] and node["Resources"].get("CPU")]
        self.nodes = len(nodes)
        self.cpus = sum(int(node["Resources"]["CPU"]) for node in nodes)
        if not self.cpus:
            raise WindlassError("ConfigInvalid", "the Ray cluster has no CPUs; start nodes with --num-cpus")
        _require_this_version(nodes)
        self._call = ray.remote(num_cpus=1, max_retries=RETRIES)(_call)

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **keywords: Any) -> Future[Any]:
        """Start function(*arguments, **keywords) where a CPU is free; all of them must be known on the nodes."""
        return _Task(self._call.remote(function, arguments, keywords))


class _Task(Future[Any]):
    """A task's outcome. It counts as pending until it is there, so that a running task can be cancelled."""

    def __init__(self, reference: Any) -> None:
        super().__init__()
        self._reference = reference
        reference.future().add_done_callback(self._settle)

    def cancel(self) -> bool:
        """End the task, and the process that runs it."""
        import ray

        if not self.done():
            ray.cancel(self._reference, force=True)
        return super().cancel()

    def _settle(self, answer: Future[Any]) -> None:
        if not self.set_running_or_notify_cancel():
            return
        if error := answer.exception():
            self.set_exception(_translated(error))
        else:
            self.set_result(answer.result())


def _call(function: Callable[..., Any], arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    """What a worker of Ray does; a WindlassError also says where it happened."""
    import ray

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        return function(*arguments, **keywords)
    except WindlassError as error:
        node = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        raise WindlassError(error.reason, f"{error.message} (on the Ray node {node})") from error


def _translated(error: BaseException) -> BaseException:
    """Return what a task raised if people can read it, and what became of a task that never ended."""
    from ray.exceptions import OutOfMemoryError, RayError, RayTaskError, WorkerCrashedError

    if isinstance(error, RayTaskError):
        return error.cause if isinstance(error.cause, WindlassError) else error
    if isinstance(error, OutOfMemoryError | WorkerCrashedError):
        message = f"Ray's workers were killed {RETRIES + 1} times at the same work, perhaps because memory ran out"
        return WindlassError("OutOfMemory", f"{message}: {_first_line(error)} Run again to continue")
    if isinstance(error, RayError):
        return WindlassError("NodeLost", f"the Ray cluster lost a task: {_first_line(error)} Run again to continue")
    return error


def _require_listener(address: str) -> None:
    """Raise OSError where nobody listens: Ray would end this process after a minute."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def _require_this_version(nodes: list[dict[str, Any]]) -> None:
    """Raise ConfigInvalid unless all nodes have this Windlass: another one could make other bytes of the same input."""
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ask = ray.remote(num_cpus=0)(_version)
    here = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in nodes]
    answers = [ask.options(scheduling_strategy=there).remote() for there in here]
    for node, answer in zip(nodes, answers, strict=True):
        try:
            version = f"has Windlass {ray.get(answer)}"
        except RayError as error:
            version = f"cannot run Windlass: {_last_line(error)}"
        if version != f"has Windlass {windlass.__version__}":
            message = f"the Ray node {node['NodeManagerAddress']} {version}"
            raise WindlassError("ConfigInvalid", f"{message}; install Windlass {windlass.__version__} on all nodes")


def _version() -> str:
    return windlass.__version__


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]


def _last_line(error: BaseException) -> str:
    return str(error).strip().rpartition("\n")[2]
