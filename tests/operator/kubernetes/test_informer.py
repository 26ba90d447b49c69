"""Informers of a real API server that is killed, forgets, and is behind a network that fails."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from tests.operator.api_server import ApiServer
from tests.operator.kubernetes.proxy import Proxy

from windlass_operator.kubernetes.access import Access, Credentials
from windlass_operator.kubernetes.client import Client
from windlass_operator.kubernetes.informer import FIRST_DELAY, Informer
from windlass_operator.kubernetes.resources import CONFIG_MAPS, Object, version_of

BUSIEST = round(2 / (FIRST_DELAY / 2)) + 2
"""Requests within a second: no more than a list and a watch after each of the shortest delays."""


def config_map(namespace: str, name: str, **data: str) -> Object:
    metadata = {"name": name, "namespace": namespace, "labels": {"app": "test"}}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


class Listener:
    """Hears of changes, and checks that what it hears makes sense."""

    def __init__(self) -> None:
        self.known: dict[str, Object] = {}
        self.changes: list[tuple[str, str]] = []

    def __call__(self, old: Object | None, new: Object | None) -> None:
        name = (new or old or {})["metadata"]["name"]
        assert (old is None) <= (name not in self.known), f"{name} is told of as new once more"
        assert new is None or old is None or version_of(new) > version_of(old)
        self.changes.append((name, "new" if old is None else "gone" if new is None else "changed"))
        if new is None:
            self.known.pop(name, None)  # an own write was not told of
        else:
            self.known[name] = new


@dataclass
class Scene:
    """A namespace of a server, an informer of it behind a proxy, and a client that asks the server itself."""

    namespace: str
    direct: Client
    proxy: Proxy
    client: Client
    informer: Informer
    listener: Listener

    @property
    def names(self) -> list[str]:
        return sorted(item["metadata"]["name"] for item in self.informer.all())

    async def create(self, name: str, **data: str) -> Object:
        return await self.direct.create(CONFIG_MAPS, config_map(self.namespace, name, **data))

    async def change(self, name: str, **data: str | None) -> Object:
        return await self.direct.merge_patch(CONFIG_MAPS, self.namespace, name, {"data": data})

    async def delete(self, name: str) -> None:
        await self.direct.delete(CONFIG_MAPS, self.namespace, name)

    async def until_equal(self, *, told: bool = True) -> None:
        """Wait until the informer has what the server has; and has told so, where nothing was an own write."""
        items, _ = await self.direct.list(CONFIG_MAPS, self.namespace)
        for item in items:
            del item["metadata"]["managedFields"]
        expected = {item["metadata"]["name"]: item for item in items}
        await until(lambda: {item["metadata"]["name"]: item for item in self.informer.all()} == expected)
        assert not told or self.listener.known == expected


@asynccontextmanager
async def scene(
    server: ApiServer,
    *,
    token: Callable[[], str] | None = None,
    silence: float = 90,
    registry: CollectorRegistry | None = None,
    **options: Any,
) -> AsyncIterator[Scene]:
    """A scene whose informer has its objects; `token` is asked whenever credentials are renewed."""
    namespace, listener = server.namespace(), Listener()
    async with server.client() as direct, Proxy(server) as proxy:
        credentials = token or (lambda: server.token)
        access = Access(lambda anew: Credentials(proxy.url, f"Bearer {credentials()}"))
        async with Client(access, silence=silence, registry=registry) as client:
            informer = Informer(client, CONFIG_MAPS, namespaces=[namespace], on_change=listener, **options)
            task = asyncio.create_task(informer.run())
            await asyncio.wait_for(informer.synced.wait(), 60)
            await until(lambda: any("watch=true" in path for _, _, path in proxy.requests))
            yield Scene(namespace, direct, proxy, client, informer, listener)
            assert not task.done()
            task.cancel()
            await asyncio.wait({task})


async def until(condition: Callable[[], bool]) -> None:
    """Wait until it holds."""
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.02)


def test_it_has_what_is_there_and_follows_it(api_server: ApiServer) -> None:
    async def main() -> None:
        async with scene(api_server, labels="app=test") as here:
            await here.create("a", one="1")
            other = config_map(here.namespace, "other")
            other["metadata"]["labels"] = {"app": "other"}
            await here.direct.create(CONFIG_MAPS, other)
            await here.create("b")
            await here.change("a", one="2")
            await here.delete("b")
            await until(lambda: len(here.listener.changes) == 4)
            assert here.listener.changes == [("a", "new"), ("b", "new"), ("a", "changed"), ("b", "gone")]
            found = here.informer.get(here.namespace, "a")
            assert found is not None
            assert found["data"] == {"one": "2"}
            assert "managedFields" not in found["metadata"]
            labels = {"metadata": {"labels": {"app": "other"}}}
            await here.direct.merge_patch(CONFIG_MAPS, here.namespace, "a", labels)
            await until(lambda: here.names == [])

    asyncio.run(main())


def test_objects_are_found_by_their_index(api_server: ApiServer) -> None:
    async def main() -> None:
        async with scene(api_server, index=lambda item: item["data"].get("job")) as here:
            for name, job in (("a", "x"), ("b", "y"), ("c", "x")):
                await here.create(name, job=job)
            await until(lambda: len(here.informer.indexed("x")) == 2)
            assert [item["metadata"]["name"] for item in here.informer.indexed("x")] == ["a", "c"]
            await here.change("a", job="y")
            await here.delete("c")
            await until(lambda: len(here.informer.indexed("y")) == 2 and here.informer.indexed("x") == [])

    asyncio.run(main())


def test_an_own_write_is_here_at_once_and_its_late_answer_brings_nothing_deleted_back(api_server: ApiServer) -> None:
    async def main() -> None:
        async with scene(api_server) as here:
            created = await here.create("a")
            here.informer.remember(created)
            assert here.names == ["a"]
            here.informer.forget(here.namespace, "a", "another")
            assert here.names == ["a"]
            await here.until_equal(told=False)
            patched = await here.change("a", one="1")
            await here.until_equal(told=False)
            here.informer.remember(created)
            await here.until_equal(told=False)
            await here.delete("a")
            await here.until_equal(told=False)
            here.informer.remember(patched)
            assert here.names == []
            created = await here.create("b")
            here.informer.remember(created)
            here.informer.forget(here.namespace, "b", created["metadata"]["uid"])
            assert here.names == []

    asyncio.run(main())


def test_an_own_write_stays_when_what_is_older_comes_later(api_server: ApiServer) -> None:
    async def main() -> None:
        async with scene(api_server) as here:
            await here.create("replaced")
            await here.until_equal()
            here.proxy.silent.set()
            await here.delete("replaced")
            replaced = await here.create("replaced")
            here.informer.remember(replaced)
            await here.create("last")
            here.proxy.silent.clear()
            await here.until_equal(told=False)

            here.proxy.silent.set()
            here.proxy.next = ["expired status"]
            here.proxy.cut()
            listed = len(here.proxy.requests)
            await until(lambda: len(here.proxy.requests) == listed + 2)
            await until(lambda: here.proxy.held > 0)
            created = await here.create("during-the-list")
            here.informer.remember(created)
            here.proxy.silent.clear()
            await until(lambda: len(here.proxy.requests) == listed + 3)  # it has listed, and watches
            await here.until_equal(told=False)
            assert not [change for change in here.listener.changes if change[1] == "gone"]

    asyncio.run(main())


@pytest.mark.parametrize("end", ["expired status", "expired event", "internal event", "garbage", "cut", 500, 429, 403])
def test_what_happened_while_a_watch_was_away_is_learned_however_it_ended(api_server: ApiServer, end: Any) -> None:
    async def main() -> None:
        async with scene(api_server) as here:
            for name in ("changed", "deleted", "replaced", "same"):
                await here.create(name)
            await here.until_equal()
            here.proxy.silent.set()
            await here.change("changed", one="1")
            await here.delete("deleted")
            await here.delete("replaced")
            await here.create("replaced")
            await here.create("new")
            here.proxy.next = [end]
            here.proxy.cut()
            here.proxy.silent.clear()
            await here.until_equal()
            assert ("deleted", "gone") in here.listener.changes
            assert [change for change in here.listener.changes if change[0] == "same"] == [("same", "new")]
            await here.create("later")
            await here.until_equal()

    asyncio.run(main())


def test_a_half_open_connection_is_noticed(api_server: ApiServer) -> None:
    async def main() -> None:
        async with scene(api_server, silence=1) as here:
            here.proxy.silent.set()
            await here.create("a")
            await until(lambda: here.informer.silent() > 1)
            assert here.names == []
            here.proxy.silent.clear()
            await here.until_equal()

    asyncio.run(main())


def test_a_token_that_expires_is_renewed_as_soon_as_there_is_another(api_server: ApiServer) -> None:
    tokens = [api_server.token]

    async def main() -> None:
        async with scene(api_server, token=lambda: tokens[-1]) as here:
            tokens.append("expired")
            await here.client._access.refused(await here.client._access.credentials())
            here.proxy.cut()
            before = len(here.proxy.requests)
            await here.create("a")
            await until(lambda: len(here.proxy.requests) >= before + 4)
            assert here.names == []
            tokens.append(api_server.token)
            await here.until_equal()

    asyncio.run(main())


def test_no_object_is_lost_or_doubled_and_nothing_is_asked_in_a_hot_loop_behind_a_network_that_fails(
    api_server: ApiServer,
) -> None:
    async def main() -> None:
        chance = random.Random(1)
        async with scene(api_server, silence=2) as here:
            here.proxy.share = 0.5
            there: set[str] = set()
            for _ in range(100):
                name = f"c{chance.randrange(20)}"
                if name not in there:
                    await here.create(name)
                    there.add(name)
                elif chance.random() < 0.5:
                    await here.delete(name)
                    there.remove(name)
                else:
                    await here.change(name, number=str(chance.random()))
                if chance.random() < 0.15:
                    here.proxy.cut()
                await asyncio.sleep(0.03)
            here.proxy.share = 0.0
            await here.until_equal()
            assert there == set(here.names)
            assert here.proxy.busiest() <= BUSIEST

    asyncio.run(main())


def test_an_api_server_that_is_killed_and_has_forgotten_everything_since_is_followed_on(
    mortal_api_server: ApiServer,
) -> None:
    server, registry = mortal_api_server, CollectorRegistry()

    def expired() -> float:
        labels = {"resource": "configmaps", "cause": "expired"}
        return registry.get_sample_value("windlass_operator_watch_restarts_total", labels) or 0

    async def main() -> None:
        async with scene(server, registry=registry) as here:
            for name in ("a", "b", "c"):
                await here.create(name)
            server.kill()
            await until(lambda: len(here.proxy.requests) > 5)
            await asyncio.to_thread(server.start)
            await here.delete("a")
            await here.until_equal()
            before = expired()
            await asyncio.sleep(5)  # a watch that lasts: the failures before it count no more towards a new list

            here.proxy.silent.set()
            await here.delete("b")
            await here.create("d")
            server.kill()
            server.etcd.compact()
            await asyncio.to_thread(server.start)
            here.proxy.cut()
            here.proxy.silent.clear()
            await here.until_equal()
            assert expired() > before
            assert ("b", "gone") in here.listener.changes
            assert here.proxy.busiest() <= BUSIEST

    asyncio.run(main())
