"""A proxy before an API server that does to requests what networks and busy servers do, by a seeded schedule."""

import asyncio
import contextlib
import json
import random
import time
from typing import Any, Self

import aiohttp
from aiohttp import web
from tests.operator.api_server import ApiServer

from windlass_operator.kubernetes.access import Access, Credentials
from windlass_operator.kubernetes.client import Client

EXPIRED = {"kind": "Status", "status": "Failure", "reason": "Expired", "code": 410, "message": "too old"}
INTERNAL = {"kind": "Status", "status": "Failure", "reason": "InternalError", "code": 500, "message": "an internal ill"}
FAULTS = (429, 500, 503, "refuse", "delay", "cut", "expired status", "expired event", "internal event", "garbage")


class Proxy:
    """Speaks http on 127.0.0.1; use it as an async context manager."""

    def __init__(self, server: ApiServer, seed: int = 0) -> None:
        self.share = 0.0
        """Of the requests that get a fault."""
        self.next: list[Any] = []
        """Faults for the next requests, one each."""
        self.retry_after = "1"
        """Seconds, with a 429."""
        self.silent = asyncio.Event()
        """While it is set, connections stay open, requests come through, and no answers do."""
        self.held = 0
        """Answers that wait for that."""
        self.requests: list[tuple[float, str, str]] = []
        """Time, method and path of all that came."""
        self._random = random.Random(seed)
        self._server = server
        self._open: set[asyncio.Transport] = set()

    async def __aenter__(self) -> Self:
        self._stack = contextlib.AsyncExitStack()
        connector = aiohttp.TCPConnector(ssl=self._server.tls(), limit=0)
        session = aiohttp.ClientSession(connector=connector, auto_decompress=False)
        self._session = await self._stack.enter_async_context(session)
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def client(self, **options: Any) -> Client:
        """A client that goes through the proxy."""
        header = f"Bearer {self._server.token}"
        return Client(Access(lambda anew: Credentials(self.url, header)), **options)

    def cut(self) -> None:
        """Cut all connections."""
        for transport in self._open:
            transport.abort()

    def busiest(self, seconds: float = 1.0) -> int:
        """The most requests that came within so many seconds."""
        times = [when for when, _, _ in self.requests]
        return max((sum(start <= when < start + seconds for when in times) for start in times), default=0)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        self.requests.append((time.monotonic(), request.method, request.path_qs))
        self._open.add(request.transport)
        try:
            return await self._answer(request, request.transport)
        finally:
            self._open.discard(request.transport)

    async def _answer(self, request: web.Request, transport: asyncio.Transport) -> web.StreamResponse:
        fault = self._fault()
        if fault == "delay":
            await asyncio.sleep(self._random.uniform(0, 0.5))
        elif fault == "refuse":
            transport.abort()
        elif fault == "expired status" and "watch=true" in request.path_qs:
            return web.json_response(EXPIRED, status=410)
        elif isinstance(fault, int):
            return web.Response(
                status=fault, headers={"Retry-After": self.retry_after} if fault == 429 else {}, text="no"
            )
        headers = {name: request.headers[name] for name in ("Authorization", "Content-Type") if name in request.headers}
        try:
            async with self._session.request(
                request.method, self._server.url + request.path_qs, data=await request.read(), headers=headers
            ) as answer:
                return await self._forward(request, answer, fault, transport)
        except aiohttp.ClientError:
            transport.abort()
            return web.Response()  # which nobody gets

    async def _forward(
        self, request: web.Request, answer: aiohttp.ClientResponse, fault: Any, transport: asyncio.Transport
    ) -> web.StreamResponse:
        response = web.StreamResponse(status=answer.status)
        response.content_type = answer.content_type
        await self._pass()
        await response.prepare(request)
        if "watch=true" in request.path_qs and fault in {"expired event", "internal event", "garbage"}:
            item = EXPIRED if fault == "expired event" else INTERNAL
            line = "<html>no</html>" if fault == "garbage" else json.dumps({"type": "ERROR", "object": item})
            await response.write(line.encode() + b"\n")
            return response
        async for chunk in answer.content.iter_any():
            await self._pass()
            if fault == "cut":
                await response.write(chunk[: self._random.randrange(len(chunk))])
                transport.abort()
            await response.write(chunk)
        return response

    def _fault(self) -> Any:
        if self.next:
            return self.next.pop(0)
        return self._random.choice(FAULTS) if self._random.random() < self.share else None

    async def _pass(self) -> None:
        self.held += 1
        while self.silent.is_set():
            await asyncio.sleep(0.02)
        self.held -= 1
