"""The operator's process: options, health, metrics, leadership, and an orderly end.

python -m windlass_operator.main --trainer-image IMAGE --key-file FILE
"""

import argparse
import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
from pathlib import Path

from aiohttp import web
from prometheus_client import CollectorRegistry, Gauge, PlatformCollector, ProcessCollector
from prometheus_client.aiohttp import make_aiohttp_handler

from windlass_operator.controller import Controller
from windlass_operator.kubernetes.access import load_access
from windlass_operator.kubernetes.client import Client
from windlass_operator.kubernetes.leader import LeaderElection
from windlass_operator.settings import Settings

logger = logging.getLogger(__name__)

LEASE = "windlass-operator"
GC_THRESHOLD = 50_000
"""New objects from one run of Python's garbage collection to the next. The caches are a million without a cycle among
them, and with the default of 700, half of the time in which they are filled goes into walking them over and over."""


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options; --help explains each."""
    parser = argparse.ArgumentParser(prog="windlass_operator", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--trainer-image", required=True, help="image of jobs that name none")
    add("--key-file", type=Path, required=True, help="file with the secret that the jobs' tokens are made with")
    add("--namespace", default=os.environ.get("POD_NAMESPACE", "windlass"), help="the operator's own namespace")
    add("--watch-namespace", action="append", default=[], help="look after jobs here only; may be given again")
    add("--leader-elect", action="store_true", help="work only while holding the lease: for several replicas")
    add("--listen", default="0.0.0.0:8080", help="address of /healthz, /readyz and /metrics")
    add("--prometheus-namespace", help="namespace whose pods may read the jobs' metrics")
    add("--prometheus-label", action="append", type=label, default=[], help="label=value of those pods")
    add("--operator-label", action="append", type=label, default=[], help="label=value of the operator's pods")
    add("--log-level", default="INFO", choices=["DEBUG", "INFO", "WARNING", "ERROR"])
    return parser.parse_args(arguments)


def label(text: str) -> tuple[str, str]:
    """A label as in app=prometheus."""
    name, separator, value = text.partition("=")
    if not (name and separator):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form label=value")
    return name, value


def settings_of(options: argparse.Namespace) -> Settings:
    """Raises SystemExit where the key is missing or too short to be one."""
    try:
        key = options.key_file.read_bytes().strip()
    except OSError as error:
        sys.exit(f"--key-file {options.key_file} cannot be read: {error.strerror}")
    if len(key) < 16:
        sys.exit(f"--key-file {options.key_file} holds {len(key)} bytes; a key has at least 16 random ones")
    settings = Settings(
        trainer_image=options.trainer_image,
        key=key,
        namespace=options.namespace,
        watched_namespaces=tuple(options.watch_namespace),
        prometheus_namespace=options.prometheus_namespace,
        prometheus_labels=dict(options.prometheus_label),
    )
    if options.operator_label:
        settings.operator_labels.clear()
        settings.operator_labels.update(options.operator_label)
    return settings


async def serve(options: argparse.Namespace) -> None:
    """Run until SIGTERM or SIGINT."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    instance = os.environ.get("POD_NAME", socket.gethostname())
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    leader: LeaderElection | None = None
    async with Client(load_access(), registry=registry, guard=lambda: leader is None or leader.leading) as client:
        controller = Controller(client, settings_of(options), instance, registry)
        if options.leader_elect:
            leader = LeaderElection(client, namespace=options.namespace, name=LEASE, identity=instance)
        leading = Gauge("windlass_operator_leading", "1 in the replica that leads, 0 in others.", registry=registry)
        leading.set_function(lambda: float(leader is None or leader.leading))
        runner = await _listen(options.listen, controller, registry)
        informers = asyncio.create_task(controller.run_informers())
        work = asyncio.create_task(leader.run(controller.run) if leader else controller.run())
        stop = asyncio.create_task(stopping.wait())
        try:
            done, _ = await asyncio.wait({informers, work, stop}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # informers and work end by an error only
        finally:
            for task in (work, informers):  # the lease is given back while the client still works
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
            await runner.cleanup()


async def _listen(address: str, controller: Controller, registry: CollectorRegistry) -> web.AppRunner:
    async def healthz(_: web.Request) -> web.Response:
        return _answer(controller.healthy, "a job has been in hand for too long")

    async def readyz(_: web.Request) -> web.Response:
        return _answer(controller.synced, "the caches are not filled yet")

    application = web.Application()
    application.router.add_get("/healthz", healthz)
    application.router.add_get("/readyz", readyz)
    application.router.add_get("/metrics", make_aiohttp_handler(registry))
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    host, _, port = address.rpartition(":")
    await web.TCPSite(runner, host.strip("[]"), int(port)).start()
    return runner


def _answer(well: bool, otherwise: str) -> web.Response:
    return web.Response(text="ok\n") if well else web.Response(status=503, text=f"{otherwise}\n")


def main() -> None:
    """Run the operator."""
    options = parse()
    logging.basicConfig(level=options.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    gc.set_threshold(GC_THRESHOLD)
    asyncio.run(serve(options))


if __name__ == "__main__":
    main()
