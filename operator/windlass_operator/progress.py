"""Asking the heads how far their jobs are: pulled with the job's token, so that no other pod can answer for one."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Annotated

import aiohttp
from pydantic import Field, ValidationError

from windlass.spec.job import SpecModel
from windlass.spec.status import CheckpointStatus, Failure, Progress, Time
from windlass_operator.job import Key
from windlass_operator.lifecycle.observed import HeadPhase, HeadReport

logger = logging.getLogger(__name__)

PORT = 8080
STEADY_SECONDS = 5.0
"""Between questions to a head that trains."""
BRISK_SECONDS = 1.0
"""Between questions to a head that starts, recovers or stops."""
QUESTIONS_A_SECOND = 100
"""Over all heads; with more jobs, each is asked less often."""
TIMEOUT = aiohttp.ClientTimeout(total=3)
ANSWER_SECONDS = 2.0
"""An answer that takes no longer is in time."""
UNANSWERED = 3
"""Questions. A head that leaves so many in a row unanswered is silent, whatever its pod says: when its node dies, the
pod is ready until the control plane has noticed, 40 s and more."""
LONGEST_STEP = timedelta(seconds=60)
"""What takes longer, such as an evaluation, says nothing of how long a step takes."""


class Workers(SpecModel):
    """Workers as the head counts them."""

    joined: int = 0
    training: int = 0


class ProgressMessage(SpecModel):
    """The JSON of a head's /progress."""

    attempt: int
    phase: HeadPhase
    message: str = ""
    since: Time
    workers: Workers = Workers()
    restarts: int = 0
    failures: Annotated[list[Failure], Field(default_factory=list)]
    progress: Progress | None = None
    checkpoint: CheckpointStatus | None = None
    productive_seconds: float = 0.0


@dataclass
class Asked:
    """A head that is being asked, and what it answered."""

    uid: str
    """Of its pod."""
    report: HeadReport | None = None
    advanced: datetime | None = None
    """When an answer told of a new step last."""
    unanswered: int = 0
    """Questions since the last answer."""

    @property
    def silent(self) -> bool:
        """Whether it is not to be believed any more, whatever it answered last."""
        return self.unanswered >= UNANSWERED

    def take(self, report: HeadReport, pause: float) -> None:
        """Take in an answer; the next one comes after a `pause` of so many seconds.

        A step that is new speaks for the workers until the next is due: in the next answer, or after as long as this
        one took.
        """
        before, step = self.report, report.progress.step if report.progress else 0
        vouched = before.vouched_until if before else None
        if before is not None and report.phase == "Running" and step > (before.progress.step if before.progress else 0):
            took = min(report.received - (self.advanced or report.received), LONGEST_STEP)
            vouched = report.received + max(took, timedelta(seconds=pause + ANSWER_SECONDS))
            self.advanced = report.received
        self.report, self.unanswered = replace(report, vouched_until=vouched), 0


class ProgressPoller:
    """The last answer of each head."""

    def __init__(self, on_news: Callable[[Key], None], on_progress: Callable[[Key], None]) -> None:
        """Each is called with a job's key: when an answer says something new, or nothing new but that it goes on."""
        self._on_news, self._on_progress = on_news, on_progress
        self._asked: dict[Key, Asked] = {}
        self._tasks: dict[Key, asyncio.Task[None]] = {}
        self._session: aiohttp.ClientSession | None = None

    def __len__(self) -> int:
        return len(self._asked)

    def report(self, key: Key) -> HeadReport | None:
        """What the job's head said last."""
        asked = self._asked.get(key)
        return asked.report if asked else None

    def silent(self, key: Key) -> bool:
        """Whether the job's head is asked, and does not answer."""
        asked = self._asked.get(key)
        return asked is not None and asked.silent

    def ask(self, key: Key, uid: str, address: str, token: str) -> None:
        """Ask this head from now on: the pod with this UID, at this IP address."""
        asked = self._asked.get(key)
        if asked is not None and asked.uid == uid:
            return
        self.leave(key)
        self._asked[key] = Asked(uid)
        self._tasks[key] = asyncio.create_task(self._poll(key, self._asked[key], address, token))

    def leave(self, key: Key) -> None:
        """Ask the job's head no more, and forget what it said."""
        if self._asked.pop(key, None) is not None:
            self._tasks.pop(key).cancel()

    async def close(self) -> None:
        for key in list(self._asked):
            self.leave(key)
        if self._session is not None:
            await self._session.close()

    async def _poll(self, key: Key, asked: Asked, address: str, token: str) -> None:
        host = f"[{address}]" if ":" in address else address
        while True:
            report = await self._fetch(f"http://{host}:{PORT}/progress", token)
            before, was_silent = asked.report, asked.silent
            if report is None:
                asked.unanswered += 1
                if asked.silent and not was_silent:
                    self._on_news(key)
            else:
                asked.take(report, self._pause(report))
                if before is None or was_silent or _news(before) != _news(report):
                    self._on_news(key)
                elif before.progress != report.progress or before.checkpoint != report.checkpoint:
                    self._on_progress(key)
            in_doubt = before is not None and asked.unanswered > 0 and not asked.silent
            await asyncio.sleep(BRISK_SECONDS if in_doubt else self._pause(asked.report))

    def _pause(self, report: HeadReport | None) -> float:
        """Seconds until the next question to a head that said this last."""
        base = STEADY_SECONDS if report is not None and report.phase == "Running" else BRISK_SECONDS
        return max(base, len(self._asked) / QUESTIONS_A_SECOND)

    async def _fetch(self, url: str, token: str) -> HeadReport | None:
        """None where the head does not answer, or not as it should."""
        if self._session is None:
            # No connection is kept: a thousand idle ones cost more memory than opening one costs time.
            self._session = aiohttp.ClientSession(
                timeout=TIMEOUT, connector=aiohttp.TCPConnector(limit=0, force_close=True), trust_env=False
            )
        try:
            async with self._session.get(url, headers={"Authorization": f"Bearer {token}"}) as response:
                response.raise_for_status()
                message = ProgressMessage.model_validate_json(await response.read())
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            logger.debug("%s does not answer: %s", url, error)
            return None
        except ValidationError as error:
            logger.warning("%s answers what is no progress: %s", url, error)
            return None
        return HeadReport(
            attempt=message.attempt,
            phase=message.phase,
            message=message.message,
            since=datetime.fromisoformat(message.since),
            received=datetime.now(UTC),
            workers=message.workers.training,
            progress=message.progress,
            checkpoint=message.checkpoint,
            restarts=message.restarts,
            failures=tuple(message.failures),
            productive_seconds=message.productive_seconds,
        )


def _news(report: HeadReport) -> tuple[object, ...]:
    """Everything but when it was said and how far the job is, once there is any progress."""
    passing = {"received", "vouched_until", "progress", "checkpoint", "productive_seconds"}
    told = tuple(value for name, value in vars(report).items() if name not in passing)
    return (*told, report.progress is None, report.checkpoint is None)
