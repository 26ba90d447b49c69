"""Informers and random histories: a cluster in memory that fails, delays and forgets."""

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from tests.operator.kubernetes.fast_loop import run

from windlass_operator.kubernetes.client import Page, WatchEvent
from windlass_operator.kubernetes.errors import ApiError, Unreachable
from windlass_operator.kubernetes.informer import Informer
from windlass_operator.kubernetes.metrics import Metrics
from windlass_operator.kubernetes.resources import CONFIG_MAPS, Object, Resource, version_of

NAMES = "abcde"
OPERATION = st.tuples(st.sampled_from(["create", "change", "delete", "replace", "compact"]), st.sampled_from(NAMES))


class Cluster:
    """Objects with a history, and a client's way to it that fails now and then."""

    def __init__(self, seed: int, failing: float) -> None:
        self.metrics = Metrics(CollectorRegistry())
        self.objects: dict[str, Object] = {}
        self.failing = failing
        """Probability of a fault in a request, or before an event."""
        self._chance = random.Random(seed)
        self._history: list[tuple[int, WatchEvent]] = []
        self._version = 100
        self._oldest = 0
        self._uid = 0

    def write(self, kind: str, name: str) -> Object | None:
        """Do it if it can be done; returns the answer."""
        if kind == "compact":
            self._version += 1  # by what other clients wrote
            self._oldest = self._version
        elif kind == "replace" and name in self.objects:
            self.write("delete", name)
            return self.write("create", name)
        elif kind == "create" and name not in self.objects:
            self._uid += 1
            return self._happen("ADDED", name, {"uid": str(self._uid)})
        elif kind == "change" and name in self.objects:
            return self._happen("MODIFIED", name, self.objects[name]["metadata"])
        elif kind == "delete" and name in self.objects:
            return self._happen("DELETED", name, self.objects[name]["metadata"])
        return None

    def _happen(self, kind: Any, name: str, metadata: Object) -> Object:
        self._version += self._chance.randint(1, 3)
        item = {"metadata": metadata | {"namespace": "n", "name": name, "resourceVersion": str(self._version)}}
        self._history.append((self._version, WatchEvent(kind, item)))
        self.objects[name] = item
        if kind == "DELETED":
            del self.objects[name]
        return item

    async def _trouble(self) -> None:
        await asyncio.sleep(self._chance.uniform(0, 0.5))
        if self._chance.random() < self.failing:
            raise self._chance.choice([Unreachable("cut"), ApiError("GET", 500, "InternalError", "ill")])

    async def pages(self, resource: Resource, namespace: str | None, **_: Any) -> AsyncIterator[Page]:
        await self._trouble()
        version, items = str(self._version), list(self.objects.values())
        yield Page([self._copy(item) for item in items[:2]], version)
        await self._trouble()
        yield Page([self._copy(item) for item in items[2:]], version)

    async def watch(
        self, resource: Resource, namespace: str | None, *, resource_version: str, **_: Any
    ) -> AsyncIterator[WatchEvent]:
        seen = int(resource_version)
        until = asyncio.get_running_loop().time() + self._chance.uniform(1, 60)
        while asyncio.get_running_loop().time() < until:
            await self._trouble()
            if seen < self._oldest:
                raise ApiError("GET", 410, "Expired", "too old")
            for version, event in self._history:
                if version > seen:
                    seen = version
                    yield WatchEvent(event.type, self._copy(event.object))
                    await self._trouble()
            if self._chance.random() < 0.2:
                seen = max(seen, self._version)
                yield WatchEvent("BOOKMARK", {"metadata": {"resourceVersion": str(seen)}})

    @staticmethod
    def _copy(item: Object) -> Object:
        return {"metadata": dict(item["metadata"])}


@settings(max_examples=50)
@given(
    operations=st.lists(OPERATION, min_size=15, max_size=40),
    seed=st.integers(0, 2**32),
    failing=st.sampled_from([0.0, 0.05, 0.3]),
    own=st.booleans(),
)
def test_after_any_history_the_cache_is_the_cluster_and_own_writes_are_seen_from_then_on(
    operations: list[tuple[str, str]], seed: int, failing: float, own: bool
) -> None:
    async def main() -> None:
        chance = random.Random(seed)
        cluster = Cluster(seed, failing)
        told: dict[str, Object] = {}

        def on_change(old: Object | None, new: Object | None) -> None:
            name = (new or old or {})["metadata"]["name"]
            if not own:
                assert told.get(name) == old
            if new is None:
                told.pop(name, None)
            else:
                assert old is None or version_of(new) > version_of(old)
                told[name] = new

        informer = Informer(
            cluster,  # type: ignore[arg-type]
            CONFIG_MAPS,
            on_change=on_change,
            index=lambda item: version_of(item) % 3,
        )
        task = asyncio.create_task(informer.run())
        await informer.synced.wait()
        remembered: dict[str, Object] = {}

        async def answer(name: str, item: Object) -> None:
            """A write's answer is late, perhaps."""
            await asyncio.sleep(chance.choice([0, 0, 1, 10]))
            informer.remember(item)
            remembered[name] = item

        async def check() -> None:
            while True:
                for name, written in remembered.items():
                    now = cluster.objects.get(name)
                    if now is not None and now["metadata"]["uid"] == written["metadata"]["uid"]:
                        here = informer.get("n", name)
                        assert here is not None
                        assert version_of(here) >= version_of(written)
                await asyncio.sleep(0.2)

        checks = asyncio.create_task(check())
        for kind, name in operations:
            item = cluster.write(kind, name)
            if own and item is not None and (kind != "delete" or chance.random() < 0.5):
                asyncio.create_task(answer(name, item))  # noqa: RUF006 - it ends before the loop does
            await asyncio.sleep(chance.choice([0, 0.01, 0.5, 2]))
        cluster.failing = 0
        await asyncio.sleep(60)
        assert not task.done()
        assert not checks.done()
        assert {item["metadata"]["name"]: item for item in informer.all()} == cluster.objects
        for value in range(3):
            expected = [item for item in cluster.objects.values() if version_of(item) % 3 == value]
            assert sorted(informer.indexed(value), key=version_of) == sorted(expected, key=version_of)
        task.cancel()
        checks.cancel()

    run(main)
