"""Requests to the API server: objects in and out as plain dicts, watches as streams of events."""

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from copy import copy
from typing import Any, Literal, NamedTuple, Self
from urllib.parse import urlencode

import aiohttp
import orjson
from aiohttp.abc import AbstractStreamWriter
from prometheus_client import CollectorRegistry
from yarl import URL

from windlass.spec.encoding import json_and_yaml
from windlass_operator.keepalive import KeepAlive
from windlass_operator.kubernetes.access import Access, Credentials
from windlass_operator.kubernetes.errors import ApiError as ApiError
from windlass_operator.kubernetes.errors import NotLeading, Unreachable
from windlass_operator.kubernetes.metrics import Metrics
from windlass_operator.kubernetes.resources import Object, Resource

PAGE = 100
"""Objects in an answer to a list; 500 made the process 20 MiB larger for 3,000 pods, for good."""
RETRIES = 4
"""How often a request is sent again that the server asks to have later."""
LONGEST_RETRY_AFTER = 30.0
WATCH_SECONDS = 300
"""After this time, and up to twice of it, the server ends a watch."""
KEEPALIVE_SECONDS = 60.0
"""An idle connection is kept for this time; the API server keeps it for 90 s."""
PROBES = KeepAlive(idle=15, interval=5, count=3)
"""A watch that nobody is behind any more ends within half a minute."""


class WatchEvent(NamedTuple):
    """What happened to an object; a bookmark has nothing but a resource version."""

    type: Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]
    object: Object


class Page(NamedTuple):
    """What a list answers, all at once or a part at a time."""

    items: list[Object]
    version: str
    """Resource version that a watch goes on from."""


class Client:
    """An API server, asked over connections that are kept open. Use it as an async context manager.

    Requests raise ApiError where the server refuses, Unreachable where it does not answer (after `timeout` seconds at
    the latest), and writes raise NotLeading where the guard does not allow them. What the server asks to have later
    (429, or any error with Retry-After) is sent again by itself, a few times.
    """

    def __init__(
        self,
        access: Access,
        *,
        registry: CollectorRegistry | None = None,
        guard: Callable[[], bool] | None = None,
        user_agent: str = "windlass-operator",
        timeout: float = 30.0,
        silence: float = 90.0,
    ) -> None:
        """`guard` says whether writes are allowed; it is asked before each, and again when its bytes are to leave.

        A watch ends after `silence` seconds without a byte; the server sends a bookmark about every minute.
        """
        self.metrics = Metrics(registry or CollectorRegistry())
        self._access = access
        self._guard = guard
        self._user_agent = user_agent
        self._timeout = aiohttp.ClientTimeout(total=timeout)
        self._watch_timeout = aiohttp.ClientTimeout(sock_connect=timeout, sock_read=silence)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_SECONDS, socket_factory=PROBES.socket),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": self._user_agent},
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._session is not None
        await self._session.close()

    def unguarded(self) -> "Client":
        """The same client, whose writes nobody guards: for the lease itself."""
        client = copy(self)
        client._guard = None
        return client

    async def get(self, resource: Resource, namespace: str | None, name: str) -> Object:
        """One object."""
        return await self._request("get", resource, resource.path(namespace, name))

    async def list(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        labels: str | None = None,
        fields: str | None = None,
        limit: int = PAGE,
    ) -> Page:
        """The objects of a namespace, or of all, that match the selectors."""
        pages = [page async for page in self.pages(resource, namespace, labels=labels, fields=fields, limit=limit)]
        return Page([item for page in pages for item in page.items], pages[-1].version)

    async def pages(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        labels: str | None = None,
        fields: str | None = None,
        limit: int = PAGE,
    ) -> AsyncIterator[Page]:
        """`list` a page at a time, all of one state of the cluster; a 410 says that it was too long ago."""
        parameters = {"labelSelector": labels, "fieldSelector": fields, "limit": limit, "continue": None}
        while True:
            answer = await self._request("list", resource, resource.path(namespace), parameters=parameters)
            items = answer.get("items") or []
            for item in items:  # built-in kinds leave these two out of lists
                item.setdefault("apiVersion", resource.api_version)
                item.setdefault("kind", resource.kind)
            yield Page(items, answer["metadata"]["resourceVersion"])
            parameters["continue"] = answer["metadata"].get("continue")
            if not parameters["continue"]:
                return

    async def create(self, resource: Resource, item: Object) -> Object:
        """Create an object; returns it as the server has it. A field that the server does not know is an error."""
        path = resource.path(item["metadata"].get("namespace"))
        strict = {"fieldValidation": "Strict"}
        return await self._request("create", resource, path, method="POST", parameters=strict, body=item)

    async def apply(
        self, resource: Resource, item: Object, *, manager: str, force: bool = True, subresource: str | None = None
    ) -> Object:
        """Server-side apply: the fields given are as given, those that `manager` gave before and not now are gone.

        With a resource version in its metadata, a 409 says that the server has another one.
        """
        metadata = item["metadata"]
        return await self._request(
            "apply",
            resource,
            resource.path(metadata.get("namespace"), metadata["name"], subresource),
            subresource=subresource,
            method="PATCH",
            parameters={"fieldManager": manager, "force": "true" if force else "false"},
            body=item,
            content_type="application/apply-patch+yaml",
        )

    async def merge_patch(
        self,
        resource: Resource,
        namespace: str | None,
        name: str,
        patch: Object,
        *,
        subresource: str | None = None,
    ) -> Object:
        """JSON merge patch: null removes a field. With a resource version in it, a 409 says that it is another one."""
        return await self._request(
            "patch",
            resource,
            resource.path(namespace, name, subresource),
            subresource=subresource,
            method="PATCH",
            body=patch,
            content_type="application/merge-patch+json",
        )

    async def delete(
        self,
        resource: Resource,
        namespace: str | None,
        name: str,
        *,
        uid: str | None = None,
        resource_version: str | None = None,
        grace_seconds: int | None = None,
        propagation: Literal["Background", "Foreground", "Orphan"] | None = None,
    ) -> Object:
        """Delete an object: with `uid` or `resource_version` only that one, else a 409 says that it is another.

        Returns the object, or a Status when it is gone at once.
        """
        options: Object = {"apiVersion": "v1", "kind": "DeleteOptions"}
        preconditions = {"uid": uid, "resourceVersion": resource_version}
        if given := {name: value for name, value in preconditions.items() if value is not None}:
            options["preconditions"] = given
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        if propagation is not None:
            options["propagationPolicy"] = propagation
        return await self._request("delete", resource, resource.path(namespace, name), method="DELETE", body=options)

    async def watch(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        resource_version: str,
        labels: str | None = None,
        fields: str | None = None,
    ) -> AsyncGenerator[WatchEvent]:
        """What happened since a resource version, and what happens, until the server ends the stream.

        Raises ApiError also for an error in the stream: 410 says that the resource version is too old.
        """
        parameters = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": random.randint(WATCH_SECONDS, 2 * WATCH_SECONDS),
            "labelSelector": labels,
            "fieldSelector": fields,
        }
        path = resource.path(namespace)
        async with self._answer(
            "watch", resource.plural, "GET", path, parameters, None, self._watch_timeout
        ) as response:
            async for line in _lines(response.content):
                event = _parsed(line)
                if event["type"] == "ERROR":
                    raise _error(f"GET {path} (watch)", event["object"].get("code", 500), event["object"], {})
                yield WatchEvent(event["type"], event["object"])

    async def _request(
        self,
        verb: str,
        resource: Resource,
        path: str,
        *,
        subresource: str | None = None,
        method: str = "GET",
        parameters: Mapping[str, Any] | None = None,
        body: Object | None = None,
        content_type: str = "application/json",
    ) -> Object:
        """One request, sent again when the server asks for it."""
        what = f"{resource.plural}/{subresource}" if subresource else resource.plural
        payload = None if body is None else _Write(body, content_type, self._guard)
        tries = 0
        while True:
            tries += 1
            try:
                async with self._answer(verb, what, method, path, parameters, payload, self._timeout) as response:
                    answer: Object = _parsed(await response.read())
                    return answer
            except ApiError as error:
                if error.retry_after is None or tries > RETRIES:
                    raise
                await asyncio.sleep(min(error.retry_after, LONGEST_RETRY_AFTER) * random.uniform(1.0, 1.5))

    @asynccontextmanager
    async def _answer(
        self,
        verb: str,
        what: str,
        method: str,
        path: str,
        parameters: Mapping[str, Any] | None,
        payload: "_Write | None",
        timeout: aiohttp.ClientTimeout,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A good answer to one request; new credentials are used where the old ones are refused."""
        code = "none"
        query = urlencode({name: value for name, value in (parameters or {}).items() if value is not None})
        target = f"{path}?{query}" if query else path
        try:
            credentials = await self._access.credentials()
            response = await self._send(method, target, payload, timeout, credentials)
            if response.status == 401:
                response.close()
                await self._access.refused(credentials)
                response = await self._send(method, target, payload, timeout, await self._access.credentials())
            async with response:
                code = str(response.status)
                if response.status >= 400:
                    raise _error(f"{method} {path}", response.status, await response.read(), response.headers)
                yield response
        except (aiohttp.ClientError, TimeoutError) as error:
            if isinstance(error.__cause__, NotLeading):
                raise error.__cause__ from None
            raise Unreachable(f"{method} {path}: {str(error) or 'no answer in time'}") from error
        finally:
            self.metrics.requests.labels(verb, what, code).inc()

    async def _send(
        self,
        method: str,
        target: str,
        payload: "_Write | None",
        timeout: aiohttp.ClientTimeout,
        credentials: Credentials,
    ) -> aiohttp.ClientResponse:
        assert self._session is not None, "the client is used outside of its `async with`"
        if payload is not None:
            payload.ask()
        headers = {"Authorization": credentials.authorization} if credentials.authorization else {}
        return await self._session.request(
            method,
            URL(credentials.url + target, encoded=True),
            data=payload,
            headers=headers,
            timeout=timeout,
            ssl=credentials.tls or True,
            server_hostname=credentials.server_name,
            proxy=credentials.proxy,
            allow_redirects=False,
        )


class _Write(aiohttp.BytesPayload):
    """The body of a write, which asks the guard when its bytes, and the headers before them, are to leave.

    From the question to the bytes nothing is waited for: a process that was stopped while it waited for a connection
    finds out that it leads no more.
    """

    def __init__(self, body: Object, content_type: str, guard: Callable[[], bool] | None) -> None:
        super().__init__(_encoded(body), content_type=content_type)
        self._guard = guard

    def ask(self) -> None:
        if self._guard is not None and not self._guard():
            raise NotLeading("a write was not sent: this process does not lead any more")

    async def write(self, writer: AbstractStreamWriter) -> None:
        self.ask()
        await super().write(writer)

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        self.ask()
        await super().write_with_length(writer, content_length)


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """The lines of a stream, however long; what a cut connection leaves of one is dropped."""
    rest = b""
    async for chunk in content.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line


def _encoded(value: Any) -> bytes:
    """JSON that is YAML as well: orjson's, in a twentieth of the time, where all characters are printable ASCII."""
    with suppress(TypeError):  # a surrogate, which is no Unicode
        data = orjson.dumps(value)
        if data.isascii() and b"\x7f" not in data:
            return data
    return json_and_yaml(value)


def _parsed(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except ValueError as error:  # something between us and the API server answered in its place
        raise Unreachable(f"an answer that is no JSON: {data[:100]!r}") from error


def _error(request: str, status: int, body: bytes | Object, headers: Mapping[str, str]) -> ApiError:
    """From a Status object, or from whatever a proxy on the way answered."""
    try:
        answer = orjson.loads(body) if isinstance(body, bytes) else body
    except ValueError:
        answer = {"message": body[:200].decode(errors="replace") if isinstance(body, bytes) else ""}
    reason, message, details = (answer.get(name) for name in ("reason", "message", "details"))
    after = headers.get("Retry-After")
    retry_after = None if after is None and status != 429 else float(after) if after and after.isdecimal() else 1.0
    return ApiError(request, status, reason or "Unknown", message or "", retry_after=retry_after, details=details)
