"""A client of an OpenAI-compatible endpoint: one chat completion, tried again while the endpoint is late."""

import asyncio
import json
import logging
import random
import re
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp

from windlass.errors import WindlassError
from windlass.storage import shown

PATIENCE = 300.0
"""Seconds that an endpoint may be away, or ask for patience, before a request gives up."""
FIRST_PATIENCE = 15.0
"""Seconds for one that has never answered: its URL may be wrong."""
ANSWER_SECONDS = 300.0
"""The longest time that one completion may take."""
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0
"""Seconds before the second try; the wait doubles from there, unless the endpoint says how long to wait."""
LATE = {408, 409, 425, 429, 500, 502, 503, 504, 529}
"""Statuses after which the same request may succeed."""

_jitter = random.Random()
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reply:
    """A completion."""

    text: str
    is_cut: bool
    """True where it ended at the limit of tokens."""
    tokens_in: int
    tokens_out: int
    """As the endpoint counts them; 0 where it does not."""


@dataclass
class Endpoint:
    """A model behind a URL such as https://api.openai.com/v1; used as an async context."""

    url: str
    model: str
    key: str | None = field(default=None, repr=False)
    """Sent as a bearer token; never shown."""
    max_tokens: int = 1024
    """Of a completion."""
    patience: float = PATIENCE
    _settings: dict[str, Any] = field(default_factory=dict, repr=False)
    _has_answered: bool = field(default=False, repr=False)
    _is_late: bool = field(default=False, repr=False)

    def __post_init__(self) -> None:
        """Raises ConfigInvalid for what is no URL of an endpoint, or one that would send the key in the clear."""
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
            raise WindlassError(
                "ConfigInvalid",
                f"{shown(self.url)} is no URL of an endpoint; it is https://HOST/v1, without user and query",
            )
        if self.key and parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
            raise WindlassError(
                "ConfigInvalid", f"{self.url} is not encrypted and would show the key to the network; use https"
            )
        self._address = self.url.rstrip("/").removesuffix("/chat/completions") + "/chat/completions"
        # Not aiohttp's trust_env, which would send what ~/.netrc has for the host.
        self._proxy = None if proxy_bypass(parts.hostname) else getproxies().get(parts.scheme)
        self._settings = {"max_tokens": self.max_tokens, "temperature": 0}

    async def __aenter__(self) -> "Endpoint":
        self._session = aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {self.key}"} if self.key else {},
            timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS, sock_connect=10),
            connector=aiohttp.TCPConnector(limit=0),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def ask(self, messages: list[dict[str, str]]) -> Reply:
        """The completion that follows the messages, by greedy decoding where the model lets us choose.

        Raises WindlassError: AccessDenied for a key that is refused or used up, ConfigInvalid for a request that is,
        JudgeUnavailable where nothing else came for `patience` seconds.
        """
        began, wait = time.monotonic(), FIRST_WAIT
        while True:
            try:
                return await self._try(messages)
            except (aiohttp.ClientSSLError, aiohttp.ClientConnectorCertificateError) as error:
                hint = "its certificate is not trusted; set SSL_CERT_FILE to the authority's file"
                raise WindlassError("AccessDenied", f"{self.url}: {hint}: {error}") from error
            except (TimeoutError, aiohttp.ClientConnectionError, aiohttp.ClientPayloadError) as error:
                late = _Late(f"{type(error).__name__}: {error}".rstrip(": "), None)
            except _Late as error:
                late = error
            seconds = late.after if late.after is not None else wait * _jitter.uniform(0.5, 1.5)
            patience = self.patience if self._has_answered else min(self.patience, FIRST_PATIENCE)
            if time.monotonic() + seconds > began + patience:
                raise WindlassError(
                    "JudgeUnavailable",
                    f"{self.url} does not answer: {late}; judgements are kept: check the URL, or run the same command "
                    "again later, with a smaller --parallel where there are too many requests",
                )
            if not self._is_late:
                _log.warning("%s is late, trying for %.0f s: %s", self.url, patience, late)
                self._is_late = True
            await asyncio.sleep(seconds)
            wait = min(2 * wait, LONGEST_WAIT)

    async def _try(self, messages: list[dict[str, str]]) -> Reply:
        settings = dict(self._settings)
        body = {"model": self.model, "messages": messages, **settings}
        request = self._session.post(self._address, json=body, allow_redirects=False, proxy=self._proxy)
        async with request as response:
            text = await response.text(errors="replace")
            after = response.headers.get("Retry-After")
            status, place = response.status, response.headers.get("Location")
        self._has_answered = True
        if status == 200:
            return self._reply(text)
        message = self._said(text)
        if status in (401, 403) or "insufficient_quota" in text:
            hint = "its key is refused or used up" if self.key else "it wants a key: --key-variable NAME"
            raise WindlassError("AccessDenied", f"{self.url}: {hint} ({status}: {message})")
        if status in LATE:
            raise _Late(f"{status}: {message}", _seconds(after))
        if status == 400 and self._adapt(message, settings):
            return await self._try(messages)
        if place:
            message = f"it leads to {shown(place)}; give that as the URL if you trust it"
        elif status == 404:
            message += "; check --judge, and --url, which mostly ends in /v1"
        raise WindlassError("ConfigInvalid", f"{self._address} refuses the request ({status}): {message}")

    def _adapt(self, message: str, settings: dict[str, Any]) -> bool:
        """Change what a model of this endpoint does not take; returns whether there is something else to try."""
        if "max_tokens" in settings and "max_completion_tokens" in message:
            self._settings = self._settings | {"max_completion_tokens": self.max_tokens}
            self._settings.pop("max_tokens", None)
            return True
        if "temperature" in settings and "temperature" in message:
            self._settings = {name: value for name, value in self._settings.items() if name != "temperature"}
            return True
        return settings != self._settings  # another request has found out meanwhile

    def _reply(self, text: str) -> Reply:
        try:
            answer = _object(text)
            choice, usage = answer["choices"][0], answer.get("usage") or {}
            return Reply(
                str(choice["message"].get("content") or ""),
                choice.get("finish_reason") == "length",
                int(usage.get("prompt_tokens") or 0),
                int(usage.get("completion_tokens") or 0),
            )
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise WindlassError(
                "ConfigInvalid",
                f"{self._address} does not answer as an OpenAI-compatible endpoint: {self._said(text)}",
            ) from error

    def _said(self, text: str) -> str:
        """What the endpoint says is wrong, in a line that does not hold the key."""
        try:
            said = _object(text)
            error = next((said[name] for name in ("error", "detail", "message") if said.get(name)), None)
            message = error.get("message") if isinstance(error, dict) else error
            line = str(message or text)
        except ValueError:
            line = re.sub(r"<[^>]*>", " ", text)
        line = line.replace(self.key, "***") if self.key else line
        return " ".join(line.split())[:300]


class _Late(Exception):
    """The endpoint may answer later: `after` seconds, where it says so."""

    def __init__(self, message: str, after: float | None) -> None:
        super().__init__(message)
        self.after = after


def _object(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(f"no object but a {type(value).__name__}")
    return value


def _seconds(after: str | None) -> float | None:
    """What a Retry-After asks for: seconds, or a date (RFC 9110, section 10.2.3)."""
    if not after:
        return None
    try:
        return max(0.0, float(after))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(after) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None
