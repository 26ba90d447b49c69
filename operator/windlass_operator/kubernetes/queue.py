"""Which keys are to be looked at: each once however often it is added, by one worker at a time, now or later."""

import asyncio
import itertools
from collections.abc import Hashable
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry, Gauge

from windlass_operator.kubernetes.backoff import backoff
from windlass_operator.kubernetes.metrics import PREFIX

K = TypeVar("K", bound=Hashable)


class WorkQueue(Generic[K]):
    """Keys in the order in which they were added. A key that is added while a worker has it comes again after that."""

    def __init__(
        self,
        *,
        first_backoff: float = 0.05,
        longest_backoff: float = 60.0,
        registry: CollectorRegistry | None = None,
    ) -> None:
        """Seconds of the first and of the longest backoff; the depth goes to `registry`."""
        self._first_backoff = first_backoff
        self._longest_backoff = longest_backoff
        self._ready: asyncio.PriorityQueue[tuple[bool, int, K]] = asyncio.PriorityQueue()
        self._order = itertools.count()
        self._waiting: set[K] = set()
        """Added and not yet handed out: in `_ready`, or with a worker that has them from before."""
        self._in_hand: set[K] = set()
        self._timers: dict[K, asyncio.TimerHandle] = {}
        self._failures: dict[K, int] = {}
        if registry is not None:
            gauge = Gauge(f"{PREFIX}_queue_depth", "Keys that wait for a worker.", registry=registry)
            gauge.set_function(lambda: self.depth)

    @property
    def depth(self) -> int:
        """Keys that wait for a worker; those that are due later do not count."""
        return len(self._waiting)

    def add(self, key: K, *, last: bool = False) -> None:
        """Have the key looked at now; `last`: after all keys that are not, those that are added later too."""
        if key in self._waiting:
            return
        self._waiting.add(key)
        if key not in self._in_hand:
            self._ready.put_nowait((last, next(self._order), key))

    def add_after(self, key: K, seconds: float) -> None:
        """Have the key looked at in so many seconds, or earlier where an earlier time is set already."""
        loop = asyncio.get_running_loop()
        due = loop.time() + seconds
        timer = self._timers.get(key)
        if timer is not None:
            if timer.when() <= due:
                return
            timer.cancel()
        self._timers[key] = loop.call_at(due, self._is_due, key)

    def add_backoff(self, key: K) -> None:
        """Have the key looked at after its backoff, which doubles with each call until `reset`."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        self.add_after(key, backoff(failures, self._first_backoff, self._longest_backoff))

    def reset(self, key: K) -> None:
        """Forget the key's failures."""
        self._failures.pop(key, None)

    async def get(self) -> K:
        """The next key; the caller calls `done` when it has looked at it."""
        _, _, key = await self._ready.get()
        self._waiting.discard(key)
        self._in_hand.add(key)
        return key

    def done(self, key: K) -> None:
        """The caller of `get` has looked at the key."""
        self._in_hand.discard(key)
        if key in self._waiting:
            self._ready.put_nowait((False, next(self._order), key))

    def _is_due(self, key: K) -> None:
        del self._timers[key]
        self.add(key)
