"""Votes of people on two models' answers, in the fields of Chatbot Arena's published votes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from windlass.errors import WindlassError
from windlass.evaluation.journal import read_journal

POINTS = {"model_a": 1.0, "model_b": 0.0, "tie": 0.5, "tie (bothbad)": 0.5}
"""What each winner is worth to model_a."""


@dataclass(frozen=True)
class Vote:
    """Which of two models' answers was preferred."""

    model_a: str
    model_b: str
    winner: str
    """A key of POINTS."""

    @property
    def points(self) -> float:
        """Of model_a: 1, 0, or 0.5 for neither."""
        return POINTS[self.winner]


def read_votes(paths: Sequence[Path]) -> list[Vote]:
    """The votes of files of JSON lines, one after the other. Raises DataNotFound, DataCorrupt."""
    votes = []
    for path in paths:
        if not path.is_file():
            raise WindlassError("DataNotFound", f"{path}: there is no such file of votes")
        votes += [vote_of(record, f"{path}, vote {number}") for number, record in enumerate(read_journal(path), 1)]
    return votes


def vote_of(record: Mapping[str, Any], place: str) -> Vote:
    """The vote of a record. Raises DataCorrupt for one that is none."""
    a, b, winner = (record.get(name) for name in ("model_a", "model_b", "winner"))
    if not (isinstance(a, str) and isinstance(b, str)) or a == b or winner not in POINTS:
        raise WindlassError(
            "DataCorrupt", f"{place}: it needs model_a and model_b, two names, and a winner: {', '.join(POINTS)}"
        )
    return Vote(a, b, str(winner))
