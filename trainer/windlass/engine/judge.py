"""Have a model behind an endpoint judge answers: what it will cost, the answers, the judgements, the files.

Everything that is paid for, or took a while, is kept in the folder as soon as it is there, and used again.
"""

import asyncio
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from windlass.engine.answers import Author, Sampling, find_authors, kept_answers, write_answers
from windlass.engine.run_folder import now, write_json
from windlass.evaluation import judge_report
from windlass.evaluation.endpoint import Endpoint
from windlass.evaluation.journal import Journal, Record, read_journal
from windlass.evaluation.judgement import compare, grade, requests
from windlass.evaluation.judging import Estimate, Prices, ask_all, estimate, kept_replies, tokens_of
from windlass.evaluation.questions import Answers, Question, read_questions
from windlass.lock import lock_file

JUDGEMENTS = "judgements.jsonl"

Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""Shows how far a task of so many parts is; what it yields is told how many are done."""


@contextmanager
def silent(task: str, total: int) -> Iterator[Callable[[int], None]]:
    """Shows nothing."""
    yield lambda done: None


@dataclass(frozen=True)
class Judging:
    """Who is judged on what, and by whom; everything is found and nothing is done."""

    questions: Sequence[Question]
    authors: Sequence[Author]
    """One is graded, of two the first is compared with the second."""
    endpoint: Endpoint
    out: Path
    sampling: Sampling
    prices: Prices | None
    estimate: Estimate


def find_judging(
    places: Sequence[Path | str],
    prompts: str,
    endpoint: Endpoint,
    out: Path,
    *,
    sampling: Sampling,
    prices: Prices | None = None,
    tokenizer: str | None = None,
    limit: int | None = None,
    runs: Path = Path("runs"),
) -> Judging:
    """Find one model, to grade, or two, to compare, and the questions; and what a judge will cost at most.

    Raises WindlassError: DataNotFound, DataCorrupt, ConfigInvalid.
    """
    questions = read_questions(prompts, limit)
    authors = find_authors(places, tokenizer, runs)
    found = [kept_answers(author, questions, out, sampling) for author in authors]
    complete = [[one for one in answers if one is not None] for answers in found]
    if all(len(answers) == len(questions) for answers in complete):
        kept = kept_replies(read_journal(out / JUDGEMENTS), endpoint.max_tokens)
        asked = requests(questions, complete)
        new = [one for one in asked if one.key(endpoint.model) not in kept]
        texts = [[tokens_of(message["content"]) for message in one.messages] for one in new]
        known = len(asked) - len(new)
    else:  # answers to come are as long as they may be
        texts, known = list(_requests_to_come(questions, found, sampling.max_tokens)), 0
    cost = estimate(texts, known, endpoint.max_tokens, prices)
    return Judging(questions, authors, endpoint, out, sampling, prices, cost)


def _requests_to_come(
    questions: Sequence[Question], answers: Sequence[Sequence[Answers | None]], max_tokens: int
) -> Iterator[list[int]]:
    """Tokens of the texts that each request will show."""
    for question, *known in zip(questions, *answers, strict=True):
        turns = [
            [tokens_of(text), *(max_tokens if one is None else tokens_of(one[turn]) for one in known)]
            for turn, text in enumerate(question.turns)
        ]
        reference = [tokens_of(text) for text in question.reference]
        if len(answers) == 1:
            yield from ([*reference, *chain(*turns[: turn + 1])] for turn in range(len(turns)))
        else:
            yield from [[*reference, *chain(*turns)]] * 2


def judge(judging: Judging, *, parallel: int = 8, progress: Progress = silent) -> Record:
    """Write answers, have them judged, and write judge.json and judge.md; returns what the first one holds.

    Raises WindlassError: StorageInUse while another process judges into the same folder, and as `Endpoint.ask`.
    """
    judging.out.mkdir(parents=True, exist_ok=True)
    lock = lock_file(judging.out / ".lock", str(judging.out))
    try:
        return _judge(judging, parallel, progress)
    finally:
        os.close(lock)


def _judge(judging: Judging, parallel: int, progress: Progress) -> Record:
    questions, endpoint = judging.questions, judging.endpoint
    answers = []
    for author in judging.authors:
        with progress(f"Answers of {author.name}", len(questions)) as done:
            answers.append(write_answers(author, questions, judging.out, judging.sampling, done))
    asked = requests(questions, answers)
    with Journal(judging.out / JUDGEMENTS) as journal, progress("Judgements", len(asked)) as done:
        replies = asyncio.run(ask_all(endpoint, asked, journal, parallel, done))
    tokens_in, tokens_out = (sum(reply[name] for reply in replies.values()) for name in ("tokens_in", "tokens_out"))
    record: Record = {
        "models": [_described(author, one) for author, one in zip(judging.authors, answers, strict=True)],
        "judge": {
            "model": endpoint.model,
            "url": endpoint.url,
            "max_tokens": endpoint.max_tokens,
            "replies": len(replies),
            "cut": sum(reply["is_cut"] for reply in replies.values()),
            "tokens_in": tokens_in,
            "tokens_out": tokens_out,
            "dollars": judging.prices.cost(tokens_in, tokens_out) if judging.prices else None,
        },
        "time": now(),
    }
    if len(answers) == 1:
        record["grades"] = grade(questions, answers[0], replies, endpoint.model)
    else:
        record["comparison"] = compare(questions, answers[0], answers[1], replies, endpoint.model)
    write_json(judging.out / judge_report.FILE, record)
    (judging.out / judge_report.PAGE).write_text(judge_report.page(record), encoding="utf-8")
    return record


def _described(author: Author, answers: Sequence[Answers]) -> Record:
    flat = [answer for turns in answers for answer in turns]
    return {
        "name": author.name,
        "place": author.place,
        "checkpoint": author.base.checkpoint if author.base else None,
        "answers": len(flat),
        "mean_length": sum(map(len, flat)) / len(flat),
    }
