"""arena.json and arena.md: ratings of models, for programs and for people."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import NamedTuple

from windlass.evaluation.journal import Record
from windlass.evaluation.markdown import plain
from windlass.evaluation.ratings import Rating
from windlass.evaluation.votes import Vote

FILE, PAGE = "arena.json", "arena.md"
SAMPLES = 5
"""Votes whose answers the page shows, the last ones."""
CHOSEN = {"tie": "a tie", "tie (bothbad)": "both bad"}


class Row(NamedTuple):
    """A line of the table."""

    model: str
    votes: str
    won: str
    lost: str
    neither: str
    bradley_terry: str
    bradley_terry_interval: str
    elo: str
    elo_interval: str


HEADER = Row("MODEL", "VOTES", "WON", "LOST", "NEITHER", "BRADLEY-TERRY", "95 % INTERVAL", "ELO", "95 % INTERVAL")


def ratings_record(votes: Sequence[Vote], ratings: Sequence[Rating], samples: Sequence[Record], time: str) -> Record:
    """What arena.json holds: ratings, votes of each pair, and votes with their texts."""
    pairs: dict[tuple[str, str], dict[str, int]] = {}
    for vote in votes:
        a, b = sorted((vote.model_a, vote.model_b))
        counts = pairs.setdefault((a, b), {"a_won": 0, "b_won": 0, "tie": 0, "both_bad": 0})
        won = {1.0: vote.model_a, 0.0: vote.model_b}.get(vote.points)
        kind = {a: "a_won", b: "b_won"}[won] if won else "both_bad" if "bad" in vote.winner else "tie"
        counts[kind] += 1
    return {
        "votes": len(votes),
        "models": [asdict(rating) for rating in ratings],
        "pairs": [{"a": a, "b": b, **counts} for (a, b), counts in sorted(pairs.items())],
        "samples": list(samples),
        "time": time,
    }


def rows(record: Record) -> Iterator[Row]:
    """A line for each model, the best first."""
    for model in record["models"]:
        numbers = (f"{model[name]:,}" for name in ("votes", "wins", "losses", "ties"))
        points = (
            text
            for name in ("bradley_terry", "elo")
            for text in (f"{model[name]:.0f}", "{:.0f} to {:.0f}".format(*model[f"{name}_interval"]))
        )
        yield Row(model["model"], *numbers, *points)


def notes(record: Record) -> Iterator[str]:
    """What to know beside the numbers, a sentence each."""
    if not record["votes"]:
        yield "There are no votes yet."
    elif not record["models"]:
        yield "No chain of votes connects all models, so they have no common ratings: let them meet."
    else:
        yield (
            f"{record['votes']:,} votes. 400 points are preferred 10 to 1, and 1000 is the mean; Elo moves by 4 at "
            "most for a vote, so that few votes say little."
        )


def page(record: Record) -> str:
    """The report in Markdown: ratings, then answers side by side, as they were shown, with the votes."""
    return "\n".join(_lines(record)) + "\n"


def _lines(record: Record) -> Iterator[str]:
    yield from ["# Arena", ""]
    if record["models"]:
        yield f"| {' | '.join(name.capitalize() for name in HEADER)} |"
        yield "| --- |" + " --- |" * (len(HEADER) - 1)
        yield from (f"| {' | '.join(map(plain, row))} |" for row in rows(record))
    yield from (f"\n{plain(note)}" for note in notes(record))
    for sample in record["samples"]:
        names = (sample["model_a"], sample["model_b"])
        chosen = CHOSEN.get(sample["winner"]) or sample[sample["winner"]]
        yield from ["", f"## {plain(sample['question'])}: {plain(chosen)}", ""]
        yield from [f"| | {' | '.join(map(plain, names))} |", "| --- | --- | --- |"]
        for turn, *answers in zip(sample["turns"], *sample["answers"], strict=True):
            yield f"| {plain(turn)} | {' | '.join(map(plain, answers))} |"
