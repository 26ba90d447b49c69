"""Asking the heads how far their jobs are: pulled with the job's token, so that no other pod can answer for one."""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Annotated

import aiohttp
from pydantic import AwareDatetime, Field, ValidationError

from windlass.spec.job import SpecModel
from windlass.spec.status import CheckpointStatus, Failure, Progress
from windlass_operator.job import Key
from windlass_operator.keepalive import KeepAlive
from windlass_operator.lifecycle.observed import HeadPhase, HeadReport
from windlass_operator.observe import is_blind

logger = logging.getLogger(__name__)

PORT = 8080
HOLD_SECONDS = 10.0
"""How long a head holds a question while it has no news. Its answer then tells how far the job is."""
QUESTIONS_A_SECOND = 50
"""To all heads that have no news, and as many to those that do not answer; with more jobs, each is asked less often."""
NEWS_A_SECOND = 200
"""Questions to all heads that are asked first, as after the operator's start, and as many to those that have just told
news."""
PAUSE_SECONDS = 0.5
"""From one of these to the next, at least."""
RETRY_SECONDS = 1.0
"""From a question that nothing answered to the next, at least."""
CONNECT_SECONDS, ANSWER_SECONDS = 1.5, 3.0
"""An answer that takes no longer, after what the head may hold it, is in time."""
PROBES = KeepAlive(idle=3, interval=1, count=3)
"""Notices within six seconds that a node died whose head holds a question."""
FAILURE_THRESHOLD, SILENT_SECONDS = 3, 6.0
"""Questions in a row without an answer, and seconds since the first of them, after which a head is silent, whatever its
pod says: when its node dies, the pod is ready until the control plane has noticed, 40 s and more."""
LONGEST_STEP = timedelta(seconds=60)
"""What takes longer, such as an evaluation, says nothing of how long a step takes."""


class Workers(SpecModel):
    """Workers as the head knows them."""

    training: int = 0
    lost: tuple[int, ...] = ()


class ProgressMessage(SpecModel):
    """The JSON of a head's /progress."""

    version: str = ""
    """Another one when there is more news than progress."""
    attempt: int
    phase: HeadPhase
    message: str = ""
    since: AwareDatetime
    workers: Workers = Workers()
    restarts: int = 0
    failures: Annotated[list[Failure], Field(default_factory=list)]
    progress: Progress | None = None
    checkpoint: CheckpointStatus | None = None
    productive_seconds: float = 0.0

    @property
    def news(self) -> str:
        """The version; of a head from before there were any, one that is made here."""
        return self.version or str(hash(self.model_dump_json(exclude={"progress", "checkpoint", "productive_seconds"})))


@dataclass
class Asked:
    """A head that is being asked, and what it answered."""

    uid: str
    """Of its pod."""
    replicas: int = 1
    """Workers that its job should have now, which each question says: it may have been born with another number."""
    report: HeadReport | None = None
    version: str | None = None
    """Of that."""
    advanced: datetime | None = None
    """When an answer told of a new step last."""
    unanswered: int = 0
    """Questions since its last answer."""
    missed: datetime | None = None
    """When the first of them had no answer."""
    silent: bool = False
    """Whether it is not to be believed any more, whatever it answered last."""

    def take(self, report: HeadReport, due: float) -> None:
        """Take in an answer; the next one is due after so many seconds.

        A step that is new speaks for the workers until the next is due: in the next answer, or after as long as this
        one took.
        """
        before, step = self.report, report.progress.step if report.progress else 0
        vouched = before.vouched_until if before else None
        if before is not None and report.phase == "Running" and step > (before.progress.step if before.progress else 0):
            took = min(report.received - (self.advanced or report.received), LONGEST_STEP)
            vouched = report.received + max(took, timedelta(seconds=due))
            self.advanced = report.received
        self.report = replace(report, vouched_until=vouched)

    def hear(self) -> None:
        """Take in that something answered."""
        self.unanswered, self.missed, self.silent = 0, None, False

    def miss(self, now: datetime) -> None:
        """Take in that nothing answered."""
        self.unanswered += 1
        self.missed = self.missed or now
        late = now - self.missed >= timedelta(seconds=SILENT_SECONDS)
        over = self.report is not None and self.report.phase in {"Succeeded", "Stopped", "Failed"}
        self.silent = self.silent or (late and self.unanswered >= FAILURE_THRESHOLD and not over)


class ProgressPoller:
    """The last answer of each head."""

    def __init__(self, on_news: Callable[[Key], None], on_progress: Callable[[Key], None]) -> None:
        """Each is called with a job's key: when an answer says something new, or nothing new but that it goes on."""
        self._on_news, self._on_progress = on_news, on_progress
        self._asked: dict[Key, Asked] = {}
        self._tasks: dict[Key, asyncio.Task[None]] = {}
        self._session: aiohttp.ClientSession | None = None
        self._turn = 0.0
        """When the newest head is asked first (monotonic)."""

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

    def ask(self, key: Key, uid: str, address: str, token: str, replicas: int) -> None:
        """Ask this head from now on: the pod with this UID, at this IP address; its job should have so many workers."""
        asked = self._asked.get(key)
        if asked is not None and asked.uid == uid:
            asked.replicas = replicas
            return
        self.leave(key)
        self._asked[key] = Asked(uid, replicas)
        self._turn = max(time.monotonic(), self._turn + 1 / NEWS_A_SECOND)
        self._tasks[key] = asyncio.create_task(self._poll(key, self._asked[key], address, token, self._turn))

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

    async def _poll(self, key: Key, asked: Asked, address: str, token: str, begin: float) -> None:
        host = f"[{address}]" if ":" in address else address
        while True:
            await asyncio.sleep(max(0.0, begin - time.monotonic()))
            begun, hold, was_silent = time.monotonic(), self._hold, asked.silent
            before, news = asked.report, False
            # One who is in doubt is not waited for.
            version = None if asked.unanswered else asked.version
            try:
                question = {"replicas": str(asked.replicas)}
                if version is not None:
                    question |= {"version": version, "wait": f"{hold:.3f}"}
                answer = await self._fetch(f"http://{host}:{PORT}/progress", token, question)
            except (aiohttp.ClientConnectionError, TimeoutError, OSError) as error:
                logger.debug("%s does not answer: %s", host, error)
                asked.miss(datetime.now(UTC))
                begin = begun + self._retry
            else:
                asked.hear()
                if answer is None:
                    begin = begun + (hold if before else self._retry)
                else:
                    news, asked.version = answer.news != asked.version, answer.news
                    # It held the question if it could; a head that does not hold is not asked again at once.
                    held = version is not None and not news
                    begin = begun + (hold if held else max(PAUSE_SECONDS, len(self._asked) / NEWS_A_SECOND))
                    asked.take(_report(answer), max(0.0, begin - time.monotonic()) + hold + ANSWER_SECONDS)
            after = asked.report
            if news or asked.silent != was_silent:
                self._on_news(key)
            elif before and after and (before.progress, before.checkpoint) != (after.progress, after.checkpoint):
                self._on_progress(key)

    @property
    def _hold(self) -> float:
        """Seconds for which a head may hold a question."""
        return max(HOLD_SECONDS, len(self._asked) / QUESTIONS_A_SECOND)

    @property
    def _retry(self) -> float:
        """Seconds from a question that nothing answered to the next."""
        unanswered = sum(asked.unanswered > 0 for asked in self._asked.values())
        return max(RETRY_SECONDS, unanswered / QUESTIONS_A_SECOND)

    async def _fetch(self, url: str, token: str, question: dict[str, str]) -> ProgressMessage | None:
        """What the head answers; None where something answers, and not as it should. Raises where nothing does."""
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=0, socket_factory=PROBES.socket)
            self._session = aiohttp.ClientSession(connector=connector, trust_env=False)
        headers = {"Authorization": f"Bearer {token}"}
        hold = float(question.get("wait", 0))
        timeout = aiohttp.ClientTimeout(total=hold + ANSWER_SECONDS, sock_connect=CONNECT_SECONDS)
        try:
            async with self._session.get(url, headers=headers, params=question, timeout=timeout) as response:
                response.raise_for_status()
                # A head may be newer, and tell more than is known here.
                return ProgressMessage.model_validate_json(await response.read(), extra="ignore")
        except (aiohttp.ClientResponseError, aiohttp.ClientPayloadError) as error:
            logger.debug("%s: %s", url, error)
        except ValidationError as error:
            logger.warning("%s answers what is no progress: %s", url, error)
        return None


def _report(message: ProgressMessage) -> HeadReport:
    return HeadReport(
        attempt=message.attempt,
        phase=message.phase,
        message=message.message,
        since=message.since,
        received=datetime.now(UTC),
        workers=message.workers.training,
        lost=frozenset(message.workers.lost),
        progress=message.progress,
        checkpoint=message.checkpoint,
        restarts=message.restarts,
        failures=tuple(message.failures),
        productive_seconds=message.productive_seconds,
    )
