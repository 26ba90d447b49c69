"""Questions that models are asked to be compared, of one turn or several, and files of answers to them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from windlass.data.examples import all_records
from windlass.errors import WindlassError
from windlass.spec.job import ExampleSource

QUESTION_FIELDS = ("prompt", "instruction", "question")
"""Where a question of one turn may be: ours, AlpacaEval's, and that of datasets of questions."""
ANSWER_FIELDS = ("answer", "output", "completion")

Answers = tuple[str, ...]
"""One for each turn."""


@dataclass(frozen=True)
class Question:
    """What a user asks, turn by turn."""

    id: str
    turns: tuple[str, ...]
    category: str | None
    reference: Answers
    """Right answers, for the judge to compare with; empty where there are none."""
    place: str
    """Where it was read, for messages."""


def read_questions(uri: str, limit: int | None = None) -> list[Question]:
    """The questions of a .jsonl, .parquet, .csv or .tsv file: `prompt`, or `turns`, as MT-Bench has them.

    Raises WindlassError: DataNotFound, DataCorrupt for a record without one, an empty one, and one that comes twice.
    """
    found: dict[tuple[str, ...], Question] = {}
    ids: dict[str, Question] = {}
    for number, (place, record) in enumerate(all_records(ExampleSource(uri=uri))):
        if limit is not None and number == limit:
            break
        turns = _turns(record, place)
        question = Question(
            str(record.get("question_id", record.get("id", number + 1))),
            turns,
            str(record["category"]) if record.get("category") else None,
            _texts(record, ("reference",), place, len(turns)) if record.get("reference") else (),
            place,
        )
        if before := found.get(turns) or ids.get(question.id):
            what = "question" if before.turns == turns else f"id {question.id}"
            raise WindlassError("DataCorrupt", f"{place}: the same {what} is in {before.place}; remove one")
        found[turns] = ids[question.id] = question
    if not found:
        raise WindlassError("DataCorrupt", f"{uri} has no questions; it needs records with a prompt each")
    return list(found.values())


def _turns(record: dict[str, Any], place: str) -> tuple[str, ...]:
    turns = _texts(record, ("turns", *QUESTION_FIELDS), place)
    if not turns or not all(turn.strip() for turn in turns):
        raise WindlassError("DataCorrupt", f"{place}: a prompt is empty; fill it, or remove the record")
    return turns


def read_answers(path: Path, questions: Sequence[Question]) -> list[Answers]:
    """The answers that a file has to the questions, which it names by their text, or by their id alone.

    Raises WindlassError: DataNotFound where one is missing, DataCorrupt for a record that has none.
    """
    by_turns, by_id = {}, {}
    for place, record in all_records(ExampleSource(uri=str(path))):
        if any(field in record for field in ("turns", *QUESTION_FIELDS)):
            turns = _turns(record, place)
            by_turns[turns] = _texts(record, ("answers", *ANSWER_FIELDS), place, len(turns))
        else:
            by_id[str(record.get("question_id", record.get("id")))] = _texts(record, ("answers", *ANSWER_FIELDS), place)
    found = [by_turns.get(question.turns, by_id.get(question.id)) for question in questions]
    missing = [question for question, answers in zip(questions, found, strict=True) if answers is None]
    if missing:
        raise WindlassError(
            "DataNotFound",
            f"{path} answers {len(questions) - len(missing):,} of {len(questions):,} questions; that of "
            f"{missing[0].place} is missing: {missing[0].turns[0][:60]!r}",
        )
    answers = [one for one in found if one is not None]
    for question, one in zip(questions, answers, strict=True):
        _require(len(question.turns), one, str(path), question.place)
    return answers


def _texts(record: dict[str, Any], fields: Sequence[str], place: str, count: int | None = None) -> tuple[str, ...]:
    """A text, or a list of them, in the first of the fields that the record has."""
    name = next((field for field in fields if field in record), None)
    value = record[name] if name else None
    texts = tuple(value) if isinstance(value, list) else (value,)
    if not all(isinstance(text, str) for text in texts):
        wanted = f"no text in {' or '.join(fields)}" if name is None else f"no text, or list of texts, in {name}"
        raise WindlassError("DataCorrupt", f"{place} has {wanted}; it has {', '.join(sorted(record))}")
    if count is not None and name != "reference":
        _require(count, texts, place, "its question")
    return tuple(text.encode(errors="replace").decode() for text in texts)  # JSON can hold half of a surrogate pair


def _require(turns: int, answers: Sequence[str], place: str, question: str) -> None:
    if len(answers) != turns:
        raise WindlassError("DataCorrupt", f"{place} has {len(answers)} answers to {turns} turns of {question}")
