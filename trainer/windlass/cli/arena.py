"""`windlass evaluate arena`: answers, the page, and the ratings that come of its votes."""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

import typer

from windlass.cli.judge import bar
from windlass.cli.show import short, table, write
from windlass.cli.text import run_place
from windlass.engine.answers import Sampling, find_authors, kept_answers, write_answers
from windlass.engine.arena import VOTES, Arena, open_arena, samples, serve
from windlass.engine.run_folder import now, write_json
from windlass.errors import INTERRUPTED, WindlassError
from windlass.evaluation.arena_report import FILE, HEADER, PAGE, SAMPLES, notes, page, ratings_record, rows
from windlass.evaluation.journal import Journal
from windlass.evaluation.questions import Answers, read_questions
from windlass.evaluation.ratings import rate
from windlass.evaluation.votes import read_votes
from windlass.lock import lock_file


def run_arena(
    models: Sequence[str],
    prompts: str | None,
    votes: Sequence[Path],
    *,
    port: int,
    sampling: tuple[int, float, int],
    limit: int | None,
    tokenizer: str | None,
    out: Path,
    runs: Path,
) -> None:
    """Take votes until all pairs have one, or Ctrl-C; then print ratings and write them to `out`.

    Raises WindlassError: ConfigInvalid for what cannot be voted on; DataNotFound, DataCorrupt, StorageInUse.
    """
    if len(models) == 1 or (not models and not votes):
        raise WindlassError("ConfigInvalid", "name two models or more that meet, or --votes to rate those alone")
    if models and prompts is None:
        raise WindlassError("ConfigInvalid", "say what the models are asked: --prompts FILE")
    read_votes(votes)
    lock = lock_file(out / ".lock", str(out))
    try:
        if not models or prompts is None:
            _rate(votes, None, out)
            return
        with Journal(out / VOTES) as journal:
            arena = _open(models, prompts, journal, Sampling(*sampling), limit, tokenizer, out, runs)
            interrupted = _vote(arena, port)
            _rate(votes, arena, out)
    finally:
        os.close(lock)
    if interrupted:
        raise typer.Exit(INTERRUPTED)


def _open(
    models: Sequence[str],
    prompts: str,
    journal: Journal,
    sampling: Sampling,
    limit: int | None,
    tokenizer: str | None,
    out: Path,
    runs: Path,
) -> Arena:
    questions = read_questions(prompts, limit)
    authors = find_authors([run_place(model, runs) for model in models], tokenizer, runs)
    for author in authors:
        kept_answers(author, questions, out, sampling)  # what is wrong with one is said before another one writes
    answers: dict[str, Sequence[Answers]] = {}
    for author in authors:
        with bar(f"Answers of {author.name}", len(questions)) as done:
            answers[author.name] = write_answers(author, questions, out, sampling, done)
    return open_arena(questions, answers, journal)


def _vote(arena: Arena, port: int) -> bool:
    """Serve the page; returns whether Ctrl-C ended it."""
    if not arena.waiting:
        write(f"All {len(arena.battles):,} pairs have their votes.")
        return False

    def told(url: str) -> None:
        write(f"{len(arena.waiting):,} of {len(arena.battles):,} pairs wait for your vote: {url}")

    try:
        asyncio.run(serve(arena, port, told))
    except KeyboardInterrupt:
        write()
        return True
    return False


def _rate(votes: Sequence[Path], arena: Arena | None, out: Path) -> None:
    """Ratings from the folder's votes and the earlier ones; a file that is named twice counts once."""
    own = [out / VOTES] if (out / VOTES).exists() else []
    counted = read_votes(list({path.resolve(): path for path in (*votes, *own)}.values()))
    shown = samples(arena.battles, arena.journal, SAMPLES) if arena else []
    record = ratings_record(counted, rate(counted), shown, now())
    write_json(out / FILE, record)
    (out / PAGE).write_text(page(record), encoding="utf-8")
    if record["models"]:
        for line in table(HEADER, list(rows(record))):
            write(line)
    for note in notes(record):
        write(note)
    write(f"{short(out.absolute())}: {FILE}, {PAGE}")
