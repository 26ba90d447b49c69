"""Requests of a worker to its head."""

from types import TracebackType
from typing import Any

import aiohttp

TIMEOUT_SECONDS = 5.0
SLOWEST = 5 << 20
"""Bytes a second at which a long run's metrics come through to a head that is well."""


class Unreachable(Exception):
    """The head does not answer, or not as one."""


class Refused(Exception):
    """The head does not want what was sent."""


class HeadClient:
    """The head of this job, wherever its name leads to now."""

    def __init__(self, url: str, token: str) -> None:
        self._session = aiohttp.ClientSession(
            url,
            headers={"Authorization": f"Bearer {token}"},
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECONDS),
            connector=aiohttp.TCPConnector(use_dns_cache=False),  # a new head has a new address
        )

    async def __aenter__(self) -> "HeadClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def beat(self, index: int, heartbeat: dict[str, Any]) -> dict[str, Any]:
        """Send a heartbeat; returns the head's answer, which may take a second. Raises Unreachable."""
        try:
            async with self._session.post(f"/workers/{index}", json=heartbeat) as response:
                response.raise_for_status()
                answer: dict[str, Any] = await response.json()
                return answer
        except (TimeoutError, aiohttp.ClientError, ValueError) as error:
            raise Unreachable(f"{type(error).__name__}: {error}") from error

    async def send(self, method: str, path: str, body: bytes) -> None:
        """Send lines. Raises Refused when they belong to ranks that have been replaced, else Unreachable."""
        seconds = TIMEOUT_SECONDS + len(body) / SLOWEST
        timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=TIMEOUT_SECONDS)
        try:
            async with self._session.request(method, path, data=body, timeout=timeout) as response:
                if response.status in (409, 416):
                    raise Refused
                response.raise_for_status()
        except (TimeoutError, aiohttp.ClientError) as error:
            raise Unreachable(f"{type(error).__name__}: {error}") from error
