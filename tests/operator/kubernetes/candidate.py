"""A process that runs for a lease, and while it leads writes as fast as it may: KUBECONFIG NAMESPACE NAME."""

import asyncio
import contextlib
import signal
import sys

from windlass_operator.kubernetes.access import from_kubeconfig
from windlass_operator.kubernetes.client import Client
from windlass_operator.kubernetes.errors import NotLeading, Unreachable
from windlass_operator.kubernetes.leader import LeaderElection
from windlass_operator.kubernetes.resources import CONFIG_MAPS

DURATION = 3.0


async def main(kubeconfig: str, namespace: str, name: str) -> None:
    """Each write is a new object, labelled with this process' name: the resource versions tell their order."""
    election: LeaderElection | None = None
    access = from_kubeconfig(kubeconfig)
    async with Client(access, guard=lambda: election is not None and election.leading) as client:
        election = LeaderElection(
            client, namespace=namespace, name="lease", identity=name, duration=DURATION, renew_every=0.2
        )

        async def write() -> None:
            metadata = {"generateName": f"{name}-", "namespace": namespace, "labels": {"writer": name}}
            while True:
                with contextlib.suppress(NotLeading, Unreachable):
                    await client.create(CONFIG_MAPS, {"metadata": metadata})
                await asyncio.sleep(0.002)

        async def lead() -> None:
            async with asyncio.TaskGroup() as writers:
                for _ in range(4):
                    writers.create_task(write())

        work = asyncio.create_task(election.run(lead))
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, work.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await work


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
