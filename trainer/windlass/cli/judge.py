"""`windlass evaluate judge`: say what it costs, ask, and show who was preferred or how it was graded."""

import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import typer

from windlass.cli.show import short, table, warn, write
from windlass.cli.text import run_place
from windlass.engine.answers import Sampling
from windlass.engine.judge import Judging, find_judging, judge
from windlass.errors import BAD_INPUT, DONE, WindlassError
from windlass.evaluation.endpoint import Endpoint
from windlass.evaluation.judge_report import FILE, PAGE, in_dollars, notes, rows
from windlass.evaluation.judging import Prices
from windlass.evaluation.record import HEADER


def judge_models(
    models: Sequence[str],
    prompts: str,
    judge_name: str,
    url: str,
    key_variable: str | None,
    *,
    prices: tuple[float | None, float | None],
    judge_tokens: int,
    parallel: int,
    yes: bool,
    sampling: tuple[int, float, int],
    limit: int | None,
    tokenizer: str | None,
    out: Path | None,
    runs: Path,
) -> None:
    """Judge and print. Raises as `find_judging` and `judge`, and ConfigInvalid for options that don't fit."""
    if len(models) > 2:
        raise WindlassError("ConfigInvalid", f"{len(models)} models are named; name one to grade, or two to compare")
    endpoint = Endpoint(url, judge_name, _key(key_variable), judge_tokens)
    folder = out or Path("judged") / "-".join(_name(model) for model in models)
    judging = find_judging(
        [run_place(model, runs) for model in models],
        prompts,
        endpoint,
        folder,
        sampling=Sampling(*sampling),
        prices=_prices(*prices),
        tokenizer=tokenizer,
        limit=limit,
        runs=runs,
    )
    if judging.estimate.requests:
        _confirm(judging, yes)
    found = judge(judging, parallel=parallel, progress=bar)
    for line in (*table(HEADER, list(rows(found))), *notes(found)):
        write(line)
    write(f"{short(folder.absolute())}: {FILE}, {PAGE}")


def _key(variable: str | None) -> str | None:
    """The key in an environment variable. What is given as its name is not shown: it may be the key itself."""
    if variable is None:
        return None
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", variable) or not (key := os.environ.get(variable, "").strip()):
        raise WindlassError(
            "ConfigInvalid", "--key-variable names no environment variable that is set; export the key in one first"
        )
    return key


def _prices(tokens_in: float | None, tokens_out: float | None) -> Prices | None:
    if tokens_in is None and tokens_out is None:
        return None
    if tokens_in is None or tokens_out is None:
        raise WindlassError("ConfigInvalid", "--price-in and --price-out are given together, or neither is")
    return Prices(tokens_in, tokens_out)


def _name(model: str) -> str:
    path = Path(model)
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", path.stem if path.is_file() else path.name)


def _confirm(judging: Judging, yes: bool) -> None:
    """Say what it takes and ask; where nobody can answer, --yes is the answer."""
    cost = judging.estimate
    dollars = (
        "; --price-in and --price-out say what that costs" if cost.dollars is None else f": {in_dollars(cost.dollars)}"
    )
    kept = f", beside {cost.kept:,} that are kept" if cost.kept else ""
    what = (
        f"{cost.requests:,} judgements by {judging.endpoint.model} at {judging.endpoint.url}{kept}: about "
        f"{cost.tokens_in:,} tokens in and at most {cost.tokens_out:,} out{dollars}."
    )
    write(what)
    if yes:
        return
    if not sys.stdin.isatty():
        warn("Nobody is there to agree; add --yes to go on.")
        raise typer.Exit(BAD_INPUT)
    if not typer.confirm("Go on?"):
        raise typer.Exit(DONE)


@contextmanager
def bar(task: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal; nothing elsewhere."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        number = progress.add_task(task, total=total)
        yield lambda done: progress.update(number, completed=done)
