"""Leader election by a Lease: at most one of several processes works, and it stops before another may begin."""

import asyncio
import contextlib
import logging
import math
import random
import sys
import time
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from windlass_operator.kubernetes.client import Client
from windlass_operator.kubernetes.errors import ApiError, Unreachable
from windlass_operator.kubernetes.resources import LEASES, Object, version_of

logger = logging.getLogger(__name__)


def _now() -> float:
    """Seconds on a clock that nobody sets, and that goes on while the machine sleeps."""
    if sys.platform == "linux":
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


class LeaderElection:
    """One process of those that run for a Lease.

    No clocks are compared. A candidate takes a lease over that it has not seen change for the lease's duration; the
    leader counts from before it asked for its last renewal, and stops after two thirds of that. So writes that are on
    their way then have the last third to arrive.
    """

    def __init__(
        self,
        client: Client,
        *,
        namespace: str,
        name: str,
        identity: str,
        duration: float = 9.0,
        renew_every: float = 2.0,
    ) -> None:
        """`identity` names this process to people, as the pod's name does; `duration` and `renew_every` in seconds."""
        self._client = client.unguarded()
        self._namespace = namespace
        self._name = name
        self._identity = f"{identity}_{uuid.uuid4().hex[:8]}"  # a restarted process is another one
        self._duration = duration
        self._renew_every = renew_every
        self._until = 0.0
        """Until when this process leads."""
        self._lease: Object | None = None
        """As it was last seen, or written."""
        self._own = False
        """Whether that was an own write, so that it need not be read before the next."""
        self._changed = 0.0
        """When it was first seen so."""

    @property
    def leading(self) -> bool:
        """Whether this process leads at this moment; ask right before each use."""
        return _now() < self._until

    async def run(self, lead: Callable[[], Awaitable[None]]) -> None:
        """Run `lead` while this process leads, cancel it when it does no more, and so on until `lead` ends by itself.

        Raises what `lead` raises. In the end the lease is given back, so that the next leader need not wait.
        """
        try:
            ended = False
            while not ended:
                await self._wait_for_turn()
                logger.info("%s leads", self._identity)
                ended = await self._lead(lead)
                logger.info("%s leads no more", self._identity)
        finally:
            await self._release()

    async def _wait_for_turn(self) -> None:
        while not await self._try():
            await asyncio.sleep(self._renew_every * random.uniform(0.8, 1.2))

    async def _lead(self, lead: Callable[[], Awaitable[None]]) -> bool:
        """Whether `lead` ended before the leadership did."""
        work = asyncio.ensure_future(lead())
        renewal = asyncio.create_task(self._renew())
        try:
            await asyncio.wait({work, renewal}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended = work.done()
            for task in (work, renewal):
                task.cancel()
            await asyncio.gather(work, renewal, return_exceptions=True)
        if ended:
            work.result()
        return ended

    async def _renew(self) -> None:
        """Renew the lease until it is lost or about to end."""
        with contextlib.suppress(TimeoutError):
            while self.leading:
                async with asyncio.timeout(self._until - _now()):
                    await asyncio.sleep(self._renew_every if self._own else self._renew_every / 4)
                    await self._try()

    async def _try(self) -> bool:
        """Take the lease or renew it; False where it is another's, or where the API server does not say."""
        asked = _now()
        try:
            async with asyncio.timeout(self._duration / 3):
                if not (self.leading and self._own):
                    await self._look()
                if not self._is_free():
                    self._until = 0.0
                    return False
                self._own = False  # until the answer is here
                self._lease = await self._write(self._identity, self._duration)
        except (ApiError, Unreachable, TimeoutError) as error:
            level = logging.DEBUG if isinstance(error, ApiError) and error.status == 409 else logging.WARNING
            logger.log(level, "the lease %s/%s: %s", self._namespace, self._name, str(error) or "no answer in time")
            return False
        self._own = True
        self._until = asked + self._duration * 2 / 3
        return True

    async def _look(self) -> None:
        """See how the lease is, and since when it has been so."""
        try:
            lease = await self._client.get(LEASES, self._namespace, self._name)
        except ApiError as error:
            if error.status != 404:
                raise
            self._lease = None
            return
        if self._lease is None or version_of(lease) != version_of(self._lease):
            self._changed = _now()
        self._lease = lease

    def _is_free(self) -> bool:
        spec = self._lease["spec"] if self._lease else {}
        holder = spec.get("holderIdentity")
        return holder in {None, "", self._identity} or _now() - self._changed > spec["leaseDurationSeconds"]

    async def _write(self, holder: str | None, duration: float) -> Object:
        """Write the lease; a 409 says that another was faster."""
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = {"holderIdentity": holder, "leaseDurationSeconds": math.ceil(duration), "renewTime": now}
        metadata = {"name": self._name, "namespace": self._namespace}
        if self._lease is None:
            lease = {"apiVersion": LEASES.api_version, "kind": LEASES.kind, "metadata": metadata}
            return await self._client.create(LEASES, lease | {"spec": spec | {"acquireTime": now}})
        before = self._lease["spec"]
        if holder not in {None, before.get("holderIdentity")}:
            spec |= {"acquireTime": now, "leaseTransitions": before.get("leaseTransitions", 0) + 1}
        version = {"resourceVersion": self._lease["metadata"]["resourceVersion"]}
        patch = {"metadata": version, "spec": spec}
        return await self._client.merge_patch(LEASES, self._namespace, self._name, patch)

    async def _release(self) -> None:
        """Give the lease back, if it is held; where a renewal was on its way, it is read before."""
        if not self.leading:
            return
        self._until = 0.0
        try:
            async with asyncio.timeout(self._duration / 3):
                while not await self._given_back():
                    self._own = False
        except (ApiError, Unreachable, TimeoutError) as error:
            logger.info("the lease %s/%s was not given back: %s", self._namespace, self._name, error)

    async def _given_back(self) -> bool:
        """Whether it is no more this process's; False where it has changed meanwhile."""
        if not self._own:
            await self._look()
        if self._lease is None or self._lease["spec"].get("holderIdentity") != self._identity:
            return True
        try:
            await self._write(None, 1.0)
        except ApiError as error:
            if error.status != 409:
                raise
            return False
        return True
