"""Leader election before a real API server: one leads, and one that was stopped writes nothing after its lease."""

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tests.operator.api_server import ApiServer
from tests.operator.kubernetes.proxy import Proxy

from windlass_operator.kubernetes.client import Client
from windlass_operator.kubernetes.leader import LeaderElection
from windlass_operator.kubernetes.resources import CONFIG_MAPS, LEASES, version_of

ROOT = Path(__file__).parents[3]


@pytest.fixture
def candidate(api_server: ApiServer) -> Iterator[Callable[[str, str], subprocess.Popen[bytes]]]:
    """A function that starts a process that runs for the namespace's lease under a name."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(namespace: str, name: str) -> subprocess.Popen[bytes]:
        module = "tests.operator.kubernetes.candidate"
        command = [sys.executable, "-m", module, str(api_server.kubeconfig()), namespace, name]
        processes.append(subprocess.Popen(command, cwd=ROOT))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()


class Terms:
    """Who got the lease, at which resource version."""

    def __init__(self, client: Client, namespace: str) -> None:
        self.known: list[tuple[str | None, int]] = []
        self._client = client
        self._namespace = namespace

    async def follow(self) -> None:
        _, version = await self._client.list(LEASES, self._namespace)
        async for event in self._client.watch(LEASES, self._namespace, resource_version=version):
            if event.type in {"ADDED", "MODIFIED"}:
                holder = event.object["spec"].get("holderIdentity")
                name = holder.split("_")[0] if holder else None
                if not self.known or self.known[-1][0] != name:
                    self.known.append((name, version_of(event.object)))

    async def until(self, condition: Callable[[str | None], bool]) -> str | None:
        """Wait until the holder is such a one."""
        async with asyncio.timeout(120):
            while not (self.known and condition(self.known[-1][0])):
                await asyncio.sleep(0.02)
        return self.known[-1][0]


def test_one_process_leads_and_one_that_was_stopped_writes_nothing_once_another_leads(
    api_server: ApiServer, candidate: Callable[[str, str], subprocess.Popen[bytes]]
) -> None:
    async def main() -> None:
        namespace = api_server.namespace()
        async with api_server.client() as client:
            terms = Terms(client, namespace)
            following = asyncio.create_task(terms.follow())
            processes = {name: candidate(namespace, name) for name in ("a", "b")}
            for pause in (0.3, 0.71):
                leader = await terms.until(lambda name: name is not None)
                assert leader is not None
                await asyncio.sleep(pause)  # in the middle of its writes
                processes[leader].send_signal(signal.SIGSTOP)
                await terms.until(lambda name, old=leader: name not in {None, old})  # type: ignore[misc]
                await asyncio.sleep(0.2)
                processes[leader].send_signal(signal.SIGCONT)
                await asyncio.sleep(1)

            last = await terms.until(lambda name: name is not None)
            assert last is not None
            processes[last].terminate()
            assert await asyncio.to_thread(processes[last].wait, 30) == 0
            await terms.until(lambda name: name not in {None, last})
            assert (last, None) in [(before, name) for (before, _), (name, _) in pairwise(terms.known)]
            following.cancel()

            written, _ = await client.list(CONFIG_MAPS, namespace, labels="writer")
            assert {item["metadata"]["labels"]["writer"] for item in written} == {"a", "b"}
            for item in written:
                holder = [name for name, since in terms.known if since < version_of(item)][-1]
                assert item["metadata"]["labels"]["writer"] == holder

    asyncio.run(main())


def test_the_leader_stops_before_its_lease_ends_when_it_cannot_renew_it(api_server: ApiServer) -> None:
    renewed, stopped = 0.0, 0.0

    async def main() -> None:
        namespace = api_server.namespace()
        async with Proxy(api_server) as proxy, proxy.client() as client:
            options = {"duration": 3.0, "renew_every": 0.2}
            election = LeaderElection(client, namespace=namespace, name="lease", identity="a", **options)

            async def lead() -> None:
                nonlocal renewed, stopped
                assert election.leading
                try:
                    await asyncio.sleep(1)
                    proxy.next = ["refuse"] * 1000
                    renewed = [when for when, method, _ in proxy.requests if method in {"POST", "PATCH"}][-1]
                    await asyncio.sleep(3600)
                finally:
                    stopped = time.monotonic()

            task = asyncio.create_task(election.run(lead))
            async with asyncio.timeout(60):
                while not stopped:
                    await asyncio.sleep(0.02)
            assert not election.leading
            assert stopped < renewed + 3
            proxy.next = []
            async with asyncio.timeout(60):
                while not election.leading:
                    await asyncio.sleep(0.02)
            task.cancel()
            await asyncio.wait({task})

    asyncio.run(main())


def test_work_that_fails_ends_the_leadership_and_gives_the_lease_back(api_server: ApiServer) -> None:
    async def main() -> None:
        namespace = api_server.namespace()
        async with api_server.client() as client:
            election = LeaderElection(client, namespace=namespace, name="lease", identity="a")
            done: list[str] = []

            async def fail() -> None:
                raise ValueError("the work")

            async def work() -> None:
                done.append("b")

            with pytest.raises(ValueError, match="the work"):
                await election.run(fail)
            assert not election.leading
            lease: Any = await client.get(LEASES, namespace, "lease")
            assert "holderIdentity" not in lease["spec"]
            await LeaderElection(client, namespace=namespace, name="lease", identity="b").run(work)
            assert done == ["b"]

    asyncio.run(main())


def test_a_lease_is_given_back_in_the_middle_of_a_renewal_too(api_server: ApiServer) -> None:
    async def main() -> None:
        namespace = api_server.namespace()
        async with api_server.client() as client:
            election = LeaderElection(client, namespace=namespace, name="lease", identity="a", renew_every=0.05)
            task = asyncio.create_task(election.run(lambda: asyncio.sleep(3600)))
            async with asyncio.timeout(60):
                while not election.leading or election._own:
                    await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait({task})
            lease: Any = await client.get(LEASES, namespace, "lease")
            assert "holderIdentity" not in lease["spec"]

    asyncio.run(main())
