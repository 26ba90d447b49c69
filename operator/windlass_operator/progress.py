"""Asking the heads how far their jobs are: pulled with the job's token, so that no other pod can answer for one."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Annotated

import aiohttp
from pydantic import Field, ValidationError

from windlass.spec.job import SpecModel
from windlass.spec.status import CheckpointStatus, Failure, Progress, Time
from windlass_operator.job import Key
from windlass_operator.lifecycle.observed import HeadPhase, HeadReport
from windlass_operator.observe import is_blind

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
FAILURE_THRESHOLD, SILENT_SECONDS = 3, 10.0
"""Questions in a row without an answer, and seconds, after which a head is silent, whatever its pod says: when its node
dies, the pod is ready until the control plane has noticed, 40 s and more."""
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
    heard: datetime = field(default_factory=lambda: datetime.now(UTC))
    """When it answered last, or was to be asked first."""
    unanswered: int = 0
    """Questions since then."""
    silent: bool = False
    """Whether it is not to be believed any more, whatever it answered last."""

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
        self.report = replace(report, vouched_until=vouched)
        self.hear(report.received)

    def hear(self, now: datetime) -> None:
        """Take in that something answered."""
        self.heard, self.unanswered, self.silent = now, 0, False

    def miss(self, now: datetime) -> None:
        """Take in that nothing answered."""
        self.unanswered += 1
        late = now - self.heard >= timedelta(seconds=SILENT_SECONDS)
        self.silent = self.silent or (late and self.unanswered >= FAILURE_THRESHOLD)


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
        """Whether the job's head does not answer. Where most do not, rather the operator is cut off: False."""
        asked = self._asked.get(key)
        if asked is None or not asked.silent:
            return False
        return not is_blind(sum(other.silent for other in self._asked.values()), len(self._asked))

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
            self._session = None

    async def _poll(self, key: Key, asked: Asked, address: str, token: str) -> None:
        host = f"[{address}]" if ":" in address else address
        while True:
            before, was_silent = asked.report, asked.silent
            try:
                report = await self._fetch(f"http://{host}:{PORT}/progress", token)
            except (aiohttp.ClientConnectionError, TimeoutError, OSError) as error:
                logger.debug("%s does not answer: %s", host, error)
                asked.miss(datetime.now(UTC))
            else:
                if report is None:
                    asked.hear(datetime.now(UTC))
                else:
                    asked.take(report, self._pause(report))
            after = asked.report
            if asked.silent != was_silent or (after is not None and (before is None or _news(before) != _news(after))):
                self._on_news(key)
            elif before and after and (before.progress, before.checkpoint) != (after.progress, after.checkpoint):
                self._on_progress(key)
            in_doubt = before is not None and asked.unanswered > 0 and not asked.silent
            await asyncio.sleep(BRISK_SECONDS if in_doubt else self._pause(None if asked.silent else after))

    def _pause(self, report: HeadReport | None) -> float:
        """Seconds until the next question to a head that said this last."""
        base = STEADY_SECONDS if report is not None and report.phase == "Running" else BRISK_SECONDS
        return max(base, len(self._asked) / QUESTIONS_A_SECOND)

    async def _fetch(self, url: str, token: str) -> HeadReport | None:
        """What the head answers; None where something answers, and not as it should. Raises where nothing does."""
        if self._session is None:
            # No connection is kept: a thousand idle ones cost more memory than opening one costs time.
            self._session = aiohttp.ClientSession(
                timeout=TIMEOUT, connector=aiohttp.TCPConnector(limit=0, force_close=True), trust_env=False
            )
        try:
            async with self._session.get(url, headers={"Authorization": f"Bearer {token}"}) as response:
                response.raise_for_status()
                message = ProgressMessage.model_validate_json(await response.read())
        except (aiohttp.ClientResponseError, aiohttp.ClientPayloadError) as error:
            logger.debug("%s: %s", url, error)
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
