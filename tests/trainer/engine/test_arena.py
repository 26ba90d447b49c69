"""The arena's page by its requests: what it may know, which votes count, and that a second start goes on."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from windlass.engine import arena as engine
from windlass.engine.arena import Arena, application, open_arena, samples
from windlass.evaluation.journal import Journal
from windlass.evaluation.questions import Question
from windlass.evaluation.ratings import rate
from windlass.evaluation.votes import read_votes

Client = TestClient[Any, Any]
QUESTIONS = [Question(str(number), (f"Question {number}?",), None, (), "here") for number in range(8)]
ANSWERS = {name: [(f"{text} {number}",) for number in range(8)] for name, text in (("hamlet", "ay"), ("macbeth", "no"))}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "SECONDS_TO_READ", 0.0)


def visit(arena: Arena, visitor: Callable[[Client], Awaitable[None]]) -> bool:
    """Let a visitor use the page; returns whether the arena was finished then."""

    async def run() -> bool:
        finished = asyncio.Event()
        async with TestClient(TestServer(application(arena, finished), host="127.0.0.1")) as client:
            await visitor(client)
        return finished.is_set()

    return asyncio.run(run())


async def cast(client: Client, choice: str, id: str | None = None) -> tuple[int, Any]:
    shown = await (await client.get("/battle")).json()
    response = await client.post("/vote", json={"id": id or shown["id"], "choice": choice})
    return response.status, await response.json()


def test_votes_are_for_whom_was_shown_on_that_side_and_the_page_never_knows_who(tmp_path: Path) -> None:
    with Journal(tmp_path / "votes.jsonl") as journal:
        arena = open_arena(QUESTIONS, dict(ANSWERS), journal)

        async def visitor(client: Client) -> None:
            page = await (await client.get("/")).text()
            for _ in QUESTIONS:
                text = await (await client.get("/battle")).text()
                assert not any(name in text + page for name in ANSWERS)
                shown = json.loads(text)
                assert {shown["left"][0][:2], shown["right"][0][:2]} == {"ay", "no"}
                better = "left" if shown["left"][0].startswith("ay") else "right"
                status, after = await cast(client, better)
                assert status == 200
            assert after == {"error": None, "left_to_do": 0, "total": 8}

        assert visit(arena, visitor), "finished"
        votes = read_votes([tmp_path / "votes.jsonl"])
        assert {vote.model_a if vote.points else vote.model_b for vote in votes} == {"hamlet"}
        assert {vote.model_a for vote in votes} == {"hamlet", "macbeth"}, "both are shown on the left at times"
        assert [rating.model for rating in rate(votes, rounds=50)] == ["hamlet", "macbeth"]
        [last] = samples(arena.battles, journal, 1)
        assert last["answers"][0][0].startswith("ay" if last["model_a"] == "hamlet" else "no")


def test_a_second_vote_on_a_pair_and_one_before_it_was_read_do_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Journal(tmp_path / "votes.jsonl") as journal:
        arena = open_arena(QUESTIONS, dict(ANSWERS), journal)

        async def visitor(client: Client) -> None:
            first = (await (await client.get("/battle")).json())["id"]
            both = await asyncio.gather(cast(client, "left", first), cast(client, "right", first))
            assert sorted(status for status, _ in both) == [200, 409]
            assert next(after["error"] for status, after in both if status == 409) == "This pair has its vote already."
            monkeypatch.setattr(engine, "SECONDS_TO_READ", 60.0)
            status, after = await cast(client, "left")
            assert (status, after["error"]) == (409, "Too soon: read the answers first.")
            assert after["left_to_do"] == 7

        assert not visit(arena, visitor)
        assert len(journal.records) == 1


def test_a_second_start_goes_on_with_the_pairs_that_have_no_vote(tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"

    async def three_votes(client: Client) -> None:
        for choice in ("tie", "bad", "left"):
            await cast(client, choice)

    with Journal(path) as journal:
        visit(open_arena(QUESTIONS, dict(ANSWERS), journal), three_votes)
    with open(path, "a") as file:
        file.write('{"battle": "cut')
    with Journal(path) as journal:
        arena = open_arena(QUESTIONS, dict(ANSWERS), journal)
        assert len(arena.waiting) == 5
        visit(arena, three_votes)
        changed = ANSWERS | {"macbeth": [("other",), *ANSWERS["macbeth"][1:]]}
        assert len(open_arena(QUESTIONS, dict(changed), journal).waiting) in (2, 3), "votes are for these texts only"
        assert len(open_arena(QUESTIONS, {**ANSWERS, "third": ANSWERS["macbeth"]}, journal).battles) == 24
    winners = [json.loads(line)["winner"] for line in path.read_text().splitlines()]
    assert winners == ["tie", "tie (bothbad)", "model_a"] * 2


def test_other_sites_pages_can_neither_read_nor_vote(tmp_path: Path) -> None:
    with Journal(tmp_path / "votes.jsonl") as journal:
        arena = open_arena(QUESTIONS, dict(ANSWERS), journal)

        async def visitor(client: Client) -> None:
            rebound = await client.get("/battle", headers={"Host": "evil.example:80"})
            assert rebound.status == 403
            form = json.dumps({"id": arena.id, "choice": "left"})
            sent = await client.post("/vote", data=form, headers={"Content-Type": "text/plain"})
            assert sent.status == 415
            for body in ({"id": arena.id, "choice": "first"}, {}, ["left"]):
                assert (await client.post("/vote", json=body)).status == 400
            page = await client.get("/")
            nonce = page.headers["Content-Security-Policy"].split("nonce-")[1].split("'")[0]
            assert f'<script nonce="{nonce}">' in await page.text()

        visit(arena, visitor)
        assert journal.records == []
