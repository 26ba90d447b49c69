"""Answers of models to questions, each written once and kept in a file; or read from a file that has them."""

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from windlass.data.tokenizers import Tokenizer
from windlass.engine.bases import Base, base_model, find_base, tokenizer_of
from windlass.engine.machine import this_machine
from windlass.engine.prompts import template_of
from windlass.engine.runs import find_run
from windlass.errors import WindlassError
from windlass.evaluation.journal import Journal, Record, read_journal
from windlass.evaluation.questions import Answers, Question, read_answers
from windlass.models.foreign import AnyModel
from windlass.models.generation import generate
from windlass.tasks.templates import Template, own_template

_TAIL = 32
"""Tokens at the end of an answer in which its end is looked for."""


@dataclass(frozen=True)
class Sampling:
    """How answers are written."""

    max_tokens: int = 512
    """Of one answer."""
    temperature: float = 0.0
    """0 takes the likeliest token each time."""
    seed: int = 0


@dataclass(frozen=True)
class Author:
    """Who answers: a model, or a file that has the answers of one."""

    name: str
    place: str
    base: Base | None
    """None for a file."""
    tokenizer: Tokenizer | None
    template: Template | None
    """None for a file, and for a model that follows no instructions: it continues the questions."""

    @property
    def file(self) -> str:
        """Where its answers are kept."""
        return f"answers-{re.sub(r'[^A-Za-z0-9_.-]+', '-', self.name)}.jsonl"


def find_authors(places: Sequence[Path | str], tokenizer: str | None, runs: Path) -> list[Author]:
    """What each place is: a file, a run, or a model in Hugging Face layout; no weights are loaded yet.

    Raises WindlassError: DataNotFound; ConfigInvalid for a classifier, or the same one twice.
    """
    authors = [_find(place, tokenizer, runs) for place in places]
    if len({author.name for author in authors}) < len(authors):
        authors = [Author(one.place.strip("/"), one.place, one.base, one.tokenizer, one.template) for one in authors]
    if len({author.name for author in authors}) < len(authors):
        raise WindlassError("ConfigInvalid", f"{places[0]} is named twice; a comparison needs two models")
    return authors


def _find(place: Path | str, asked: str | None, runs: Path) -> Author:
    path = Path(place)
    if path.is_file():
        return Author(path.stem, str(place), None, None, None)
    try:
        base = find_base(str(place), runs)
        spec = find_run(base.place).job.spec if base.checkpoint is not None else None
        if spec is not None and spec.task == "Classify":
            raise WindlassError("ConfigInvalid", f"{place} is a classifier and writes no text")
        tokenizer = tokenizer_of(base, asked)
    except WindlassError as error:
        message = re.sub(r"^spec\.(model\.from|tokenizer): ", "", error.message)
        raise WindlassError(error.reason, message) from error
    template = own_template(tokenizer) if spec is None else template_of(spec, tokenizer)
    return Author(base.uri.rstrip("/").rpartition("/")[2], str(place), base, tokenizer, template)


def kept_answers(author: Author, questions: Sequence[Question], out: Path, sampling: Sampling) -> list[Answers | None]:
    """The answers that are there: all of a file's, those of a model that it has written to `out` before.

    Raises WindlassError: DataNotFound where a file lacks one; ConfigInvalid for a question longer than the context.
    """
    if author.base is None:
        return list(read_answers(Path(author.place), questions))
    for question in questions:
        for turn in range(1, len(question.turns) + 1):
            context = _context(author)
            length = len(_tokens(author, question.turns[:turn], [""] * (turn - 1)))
            if length >= context:
                raise WindlassError(
                    "ConfigInvalid",
                    f"{question.place}: the question has {length:,} tokens, and the context of {author.name} "
                    f"{context:,}: nothing is left for the answer; shorten it, or take it out",
                )
    wanted = _signature(author, sampling)
    kept = {
        tuple(record["turns"]): tuple(record["answers"])
        for record in read_journal(out / author.file)
        if {name: record.get(name) for name in wanted} == wanted
    }
    return [kept.get(question.turns) for question in questions]


def write_answers(
    author: Author, questions: Sequence[Question], out: Path, sampling: Sampling, done: Callable[[int], None]
) -> list[Answers]:
    """The answers to all questions; those that are not kept yet are written, one by one, to the author's file in `out`.

    `done` is told how many there are. Errors as of `kept_answers`.
    """
    found = kept_answers(author, questions, out, sampling)
    answers = {question.id: one for question, one in zip(questions, found, strict=True) if one is not None}
    done(len(answers))
    if len(answers) < len(questions):
        assert author.base is not None
        model = base_model(author.base).to(this_machine().device)
        with Journal(out / author.file) as journal:
            for question in questions:
                if question.id not in answers:
                    answers[question.id] = _answer(author, model, question, sampling)
                    named = {"turns": list(question.turns), "answers": list(answers[question.id])}
                    journal.append(_signature(author, sampling) | named)
                    done(len(answers))
    return [answers[question.id] for question in questions]


def _signature(author: Author, sampling: Sampling) -> Record:
    """What answers depend on, beside their question."""
    assert author.base is not None
    return {"model": author.name, "weights": author.base.identity, **asdict(sampling)}


def _context(author: Author) -> int:
    assert author.base is not None
    return author.base.config.context_length


def _answer(author: Author, model: AnyModel, question: Question, sampling: Sampling) -> Answers:
    """An answer to each turn, after those before; a context that is full loses its start, as in `generate`."""
    tokenizer = author.tokenizer
    assert tokenizer is not None
    end = _end(author.template)
    answers: list[str] = []
    for turn in range(len(question.turns)):
        tokens: list[int] = []
        for token in generate(
            model,
            _tokens(author, question.turns[: turn + 1], answers),
            sampling.max_tokens,
            temperature=sampling.temperature,
            seed=sampling.seed,
            end_token=tokenizer.end_of_document,
            vocab_size=tokenizer.vocab_size,
        ):
            tokens.append(token)
            if end and end in tokenizer.decode(tokens[-_TAIL:]):
                break
        text = tokenizer.decode(tokens)
        answers.append((text.partition(end)[0] if end else text).strip())
    return tuple(answers)


def _tokens(author: Author, turns: Sequence[str], answers: Sequence[str]) -> list[int]:
    """The conversation up to the last turn, in the template; without one, its texts with empty lines between."""
    tokenizer = author.tokenizer
    assert tokenizer is not None
    messages = [("user", turns[0])]
    for answer, turn in zip(answers, turns[1:], strict=True):
        messages += [("assistant", answer), ("user", turn)]
    if author.template is None:
        return [int(token) for token in tokenizer.encode("\n\n".join(text for _, text in messages))]
    text = author.template.text(messages, add_generation_prompt=True)
    return [int(token) for token in tokenizer.encode(text, special_tokens=True)]


def _end(template: Template | None) -> str:
    """What a template writes after an answer; empty where that cannot be told."""
    if template is None:
        return ""
    asked = template.text([("user", "?")], add_generation_prompt=True)
    answered = template.text([("user", "?"), ("assistant", "!")], add_generation_prompt=False)
    return answered.removeprefix(asked + "!").strip() if answered.startswith(asked + "!") else ""
