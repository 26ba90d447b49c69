"""A page on this machine on which a person votes: two models' answers side by side, without their names."""

import asyncio
import hashlib
import itertools
import json
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from importlib.resources import files

from aiohttp import web

from windlass.engine.run_folder import now
from windlass.errors import WindlassError
from windlass.evaluation.journal import Journal, Record
from windlass.evaluation.questions import Answers, Question

VOTES = "votes.jsonl"
LOCAL = ("127.0.0.1", "localhost")
SECONDS_TO_READ = 0.3
"""A vote that comes sooner after its answers were shown was meant for those before."""
CHOICES = ("left", "right", "tie", "bad")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Battle:
    """Two models' answers to a question, and on which side each is shown."""

    key: str
    """Hash of the texts: a vote counts for them, and not for what the models answer later."""
    question: Question
    left: str
    right: str
    answers: dict[str, Answers]
    """Of each of the two models."""


@dataclass
class Arena:
    """What is left to vote on, and what was voted."""

    battles: list[Battle]
    journal: Journal
    """With the votes."""
    id: str = field(default_factory=lambda: secrets.token_urlsafe(8))
    """Of the battle that is shown; says nothing of its models."""
    shown_at: float | None = None

    def __post_init__(self) -> None:
        voted = {record.get("battle") for record in self.journal.records}
        self.waiting = [battle for battle in self.battles if battle.key not in voted]

    def vote(self, id: str, choice: str) -> str | None:
        """Keep a vote and go on to the next battle; returns why it does not count, if it does not."""
        if id != self.id or not self.waiting:
            return "This pair has its vote already."
        if self.shown_at is None or time.monotonic() - self.shown_at < SECONDS_TO_READ:
            return "Too soon: read the answers first."
        battle = self.waiting[0]
        winner = {"left": "model_a", "right": "model_b", "tie": "tie", "bad": "tie (bothbad)"}[choice]
        self.journal.append(
            {
                "battle": battle.key,
                "question": battle.question.id,
                "model_a": battle.left,
                "model_b": battle.right,
                "winner": winner,
                "time": now(),
            }
        )
        self.waiting.pop(0)
        self.id, self.shown_at = secrets.token_urlsafe(8), None
        return None

    def shown(self) -> Record:
        """What the page may know."""
        if not self.waiting:
            return {"left_to_do": 0, "total": len(self.battles)}
        battle = self.waiting[0]
        self.shown_at = self.shown_at or time.monotonic()
        return {
            "left_to_do": len(self.waiting),
            "total": len(self.battles),
            "id": self.id,
            "turns": battle.question.turns,
            "left": battle.answers[battle.left],
            "right": battle.answers[battle.right],
        }


def open_arena(questions: Sequence[Question], answers: dict[str, Sequence[Answers]], journal: Journal) -> Arena:
    """All pairs of models on all questions, in an order and on sides that are random, and the same at each start."""
    battles = []
    for (number, question), pair in itertools.product(enumerate(questions), itertools.combinations(sorted(answers), 2)):
        texts = {model: answers[model][number] for model in pair}
        key = hashlib.sha256(json.dumps([question.turns, texts]).encode()).hexdigest()[:32]
        left, right = pair if int(key, 16) % 2 else pair[::-1]
        battles.append(Battle(key, question, left, right, texts))
    random.Random(0).shuffle(battles)
    return Arena(battles, journal)


def application(arena: Arena, finished: asyncio.Event) -> web.Application:
    """The page and what it asks for; `finished` is set once there is nothing left to vote on."""
    page = files("windlass.evaluation").joinpath("arena.html").read_text(encoding="utf-8")

    @web.middleware
    async def from_this_page(request: web.Request, handler: Handler) -> web.StreamResponse:
        """Other sites' pages neither read, under a name that leads here, nor vote: no form sends JSON."""
        if request.url.host not in LOCAL:
            return web.Response(status=403, text="This page is for this machine: http://127.0.0.1.\n")
        if request.method == "POST" and request.content_type != "application/json":
            return web.Response(status=415, text="A vote is JSON.\n")
        return await handler(request)

    async def index(request: web.Request) -> web.Response:
        nonce = secrets.token_urlsafe(16)
        policy = (
            "default-src 'none'; style-src 'unsafe-inline'; img-src data:; connect-src 'self'; "
            f"script-src 'nonce-{nonce}'"
        )
        headers = {"Content-Security-Policy": policy, "Cache-Control": "no-store"}
        return web.Response(text=page.replace("NONCE", nonce), content_type="text/html", headers=headers)

    async def battle(request: web.Request) -> web.Response:
        return web.json_response(arena.shown(), headers={"Cache-Control": "no-store"})

    async def vote(request: web.Request) -> web.Response:
        try:
            sent = await request.json()
            id, choice = sent["id"], sent["choice"]
        except (ValueError, LookupError, TypeError):
            id = choice = None
        if choice not in CHOICES:
            return web.json_response({"error": f"A vote has an id, and a choice: {', '.join(CHOICES)}."}, status=400)
        try:
            refusal = arena.vote(id, choice)
        except OSError as error:
            return web.json_response({"error": f"The vote is not kept: {error}"}, status=507)
        if not arena.waiting:
            finished.set()
        return web.json_response({"error": refusal, **arena.shown()}, status=409 if refusal else 200)

    app = web.Application(middlewares=[from_this_page])
    app.add_routes([web.get("/", index), web.get("/battle", battle), web.post("/vote", vote)])
    return app


async def serve(arena: Arena, port: int, told: Callable[[str], None]) -> None:
    """Serve the page until every pair has its vote; `told` is given its URL. ConfigInvalid for a port that is taken."""
    finished = asyncio.Event()
    runner = web.AppRunner(application(arena, finished), access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, LOCAL[0], port)
        try:
            await site.start()
        except OSError as error:
            hint = "choose another one, or --port 0 for a free one"
            raise WindlassError("ConfigInvalid", f"port {port} of 127.0.0.1 cannot be had: {error}; {hint}") from error
        told(f"http://127.0.0.1:{runner.addresses[0][1]}")
        await finished.wait()
        await asyncio.sleep(0.5)  # the page gets the answer to its last vote
    finally:
        await runner.cleanup()


def samples(battles: Sequence[Battle], journal: Journal, count: int) -> list[Record]:
    """The last votes, with the texts that were shown."""
    known = {battle.key: battle for battle in battles}
    found = [
        {
            **{name: record[name] for name in ("question", "model_a", "model_b", "winner")},
            "turns": list(battle.question.turns),
            "answers": [list(battle.answers[record[side]]) for side in ("model_a", "model_b")],
        }
        for record in journal.records
        if (battle := known.get(record.get("battle", "")))
    ]
    return found[-count:]
