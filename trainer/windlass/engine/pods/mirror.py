"""Brings what rank 0 writes in a worker pod to the head: metrics and events, in order, each once."""

import asyncio
import logging
from pathlib import Path

from windlass.engine.pods.client import HeadClient, Refused, Unreachable
from windlass.engine.pods.follow import Followed, News

logger = logging.getLogger(__name__)

RETRY_SECONDS = 0.5


class Mirror:
    """The files of one start of the ranks, on their way to the head."""

    def __init__(self, folder: Path, head: HeadClient) -> None:
        self._fit = folder.name
        self._head = head
        # Metrics first: rank 0's last event comes after its last record.
        self._metrics, self._events = Followed(folder / "metrics.jsonl"), Followed(folder / "events.jsonl")

    async def send(self) -> bool:
        """Send what is new; False once the head wants no more of it."""
        events = self._events.read()
        try:
            await self._send(self._metrics.read(), "metrics.jsonl")
            await self._send(events, "events")
        except Refused:
            return False
        return True

    async def _send(self, news: News, file: str) -> None:
        if not news.lines and not (news.replaced and file == "metrics.jsonl"):
            return
        whole = news.replaced and file == "metrics.jsonl"
        method, offset = ("PUT", "") if whole else ("POST", f"&offset={news.offset}")
        while True:
            try:
                await self._head.send(method, f"/run/{file}?fit={self._fit}{offset}", news.lines)
                return
            except Unreachable as error:
                logger.warning("The head does not take metrics: %s", error)
                await asyncio.sleep(RETRY_SECONDS)
