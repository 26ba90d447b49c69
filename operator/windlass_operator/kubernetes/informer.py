"""A copy of the API server's objects of one kind that follows what happens to them, whatever happens in between."""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Sequence
from contextlib import aclosing

from windlass_operator.kubernetes.backoff import backoff
from windlass_operator.kubernetes.client import Client
from windlass_operator.kubernetes.errors import ApiError, Unreachable
from windlass_operator.kubernetes.resources import Key, Object, Resource, key_of, version_of

logger = logging.getLogger(__name__)

FIRST_DELAY, LONGEST_DELAY = 0.2, 15.0
"""Seconds between the end of a watch and the next one."""
PASSING = {429, 500, 502, 503, 504}
"""Errors that say nothing of the resource version: the watch goes on from where it was."""
FAILURES_BEFORE_LIST = 5
"""After so many in a row it lists again: something may be wrong with the resource version after all."""


def without_managed_fields(item: Object) -> Object:
    """The object but for who wrote which field of it, which is half of its size."""
    item["metadata"].pop("managedFields", None)
    return item


class Informer:
    """Objects of one resource, as of the last event of the API server.

    It lists once and then watches. A watch that ends goes on from the last event; where the server has forgotten that
    (410), all is listed again and compared, so that what was deleted in the meantime is deleted here. Resource versions
    order all that is heard of an object, from a list, a watch, or the answer to a write: the newest stays.
    """

    def __init__(
        self,
        client: Client,
        resource: Resource,
        *,
        on_change: Callable[[Object | None, Object | None], None],
        namespaces: Sequence[str] = (),
        labels: str | None = None,
        fields: str | None = None,
        trim: Callable[[Object], Object] = without_managed_fields,
        index: Callable[[Object], Hashable] | None = None,
    ) -> None:
        """`on_change(old, new)` hears of each change but own ones: old is None for an object that is new here, new is
        None for one that is gone.

        Only objects that match the selectors, in `namespaces` (none: in all), as `trim` leaves them: with namespace,
        name, uid and resourceVersion at least. `index` sorts them for `indexed`; None leaves one out.
        """
        self.synced = asyncio.Event()
        """Set once everything was listed."""
        self._client = client
        self._resource = resource
        self._on_change = on_change
        self._scopes: tuple[str | None, ...] = tuple(namespaces) or (None,)
        self._labels = labels
        self._fields = fields
        self._trim = trim
        self._index = index
        self._objects: dict[Key, Object] = {}
        self._sorted: defaultdict[Hashable, dict[Key, Object]] = defaultdict(dict)
        self._seen: dict[str | None, int] = {}
        """Resource version up to which all that happened in a scope is known."""
        self._heard = dict.fromkeys(self._scopes, time.monotonic())

    async def run(self) -> None:
        """Follow the objects until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for scope in self._scopes:
                tasks.create_task(self._follow(scope))

    def silent(self) -> float:
        """Seconds since the API server was last heard of; about a minute is usual when nothing happens."""
        return time.monotonic() - min(self._heard.values())

    def get(self, namespace: str | None, name: str) -> Object | None:
        return self._objects.get((namespace, name))

    def all(self) -> Collection[Object]:
        return self._objects.values()

    def indexed(self, value: Hashable) -> list[Object]:
        """The objects that `index` gives this value for."""
        return list(self._sorted[value].values()) if value in self._sorted else []

    def remember(self, item: Object) -> None:
        """Take in the server's answer to an own write at once, unless more is known already. `on_change` is not called.

        What is not here although all up to its resource version is known has been deleted since.
        """
        if key_of(item) not in self._objects and version_of(item) <= self._seen.get(self._scope(item), 0):
            return
        self._put(item, tell=False)

    def forget(self, namespace: str | None, name: str, uid: str) -> None:
        """Drop an object that the server said is gone. `on_change` is not called."""
        known = self.get(namespace, name)
        if known is not None and known["metadata"]["uid"] == uid:
            self._drop(key_of(known), tell=False)

    async def _follow(self, scope: str | None) -> None:
        clock = asyncio.get_running_loop().time
        failures, listed = 0, False
        while True:
            began = clock()
            try:
                if not listed:
                    await self._list(scope)
                    listed, began = True, clock()
                await self._watch(scope)
                cause = "ended"
            except (ApiError, Unreachable) as error:
                status = error.status if isinstance(error, ApiError) else None
                listed = listed and (status is None or status in PASSING)
                cause = "expired" if status == 410 else "failed"
                logger.log(
                    logging.WARNING if failures else logging.INFO, "following %s: %s", self._resource.plural, error
                )
            self._client.metrics.watch_restarts.labels(self._resource.plural, cause).inc()
            delay = backoff(failures, FIRST_DELAY, LONGEST_DELAY)
            # One that lasted longer than the delay before it was well: nothing is asked in a hot loop, and seldom late.
            failures = 0 if clock() - began > delay else failures + 1
            if failures >= FAILURES_BEFORE_LIST:
                listed = False
            await asyncio.sleep(delay)

    async def _list(self, scope: str | None) -> None:
        """Take over all objects of one state of the server, newer than all that was known."""
        found: dict[Key, Object] = {}
        version = 0
        pages = self._client.pages(self._resource, scope, labels=self._labels, fields=self._fields)
        async for page, text in pages:
            version = int(text)
            for item in page:
                known = self._objects.get(key_of(item))
                same = known is not None and version_of(known) == version_of(item)
                found[key_of(item)] = known if known is not None and same else self._trim(item)
            self._heard[scope] = time.monotonic()
        if version < self._seen.get(scope, 0):  # it was restored from a backup: what is newer never happened
            for key in self._keys(scope):
                self._drop(key)
        for key in self._keys(scope):
            if key not in found and version_of(self._objects[key]) <= version:
                self._drop(key)
        for item in found.values():
            self._put(item, trimmed=True)
        self._seen[scope] = version
        if len(self._seen) == len(self._scopes):
            self.synced.set()

    async def _watch(self, scope: str | None) -> None:
        """Take over what happens until the watch ends."""
        version = str(self._seen[scope])
        watch = self._client.watch(
            self._resource, scope, resource_version=version, labels=self._labels, fields=self._fields
        )
        async with aclosing(watch) as events:
            async for kind, item in events:
                self._heard[scope] = time.monotonic()
                if kind == "DELETED":
                    self._deleted(item)
                elif kind != "BOOKMARK":
                    self._put(item)
                self._seen[scope] = version_of(item)

    def _deleted(self, item: Object) -> None:
        """Drop what was deleted, and nothing that was created since under the same name."""
        known = self._objects.get(key_of(item))
        if known is not None and version_of(known) <= version_of(item):
            self._drop(key_of(item))

    def _put(self, item: Object, *, trimmed: bool = False, tell: bool = True) -> None:
        key = key_of(item)
        old = self._objects.get(key)
        if old is not None and version_of(old) >= version_of(item):
            return
        if old is not None:
            self._unsort(key, old)
        new = item if trimmed else self._trim(item)
        self._objects[key] = new
        if self._index is not None and (value := self._index(new)) is not None:
            self._sorted[value][key] = new
        if tell:
            self._on_change(old, new)

    def _drop(self, key: Key, *, tell: bool = True) -> None:
        old = self._objects.pop(key)
        self._unsort(key, old)
        if tell:
            self._on_change(old, None)

    def _unsort(self, key: Key, item: Object) -> None:
        value = self._index(item) if self._index is not None else None
        if value is not None:
            self._sorted[value].pop(key, None)
            if not self._sorted[value]:
                del self._sorted[value]

    def _scope(self, item: Object) -> str | None:
        return None if self._scopes == (None,) else item["metadata"]["namespace"]

    def _keys(self, scope: str | None) -> list[Key]:
        return [key for key in self._objects if scope is None or key[0] == scope]
