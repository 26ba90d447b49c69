"""evaluation.json: what an evaluation found, and how its numbers look to people."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

from windlass.evaluation.scores import Interval, Score

if TYPE_CHECKING:  # the report needs no PyTorch
    from windlass.evaluation.perplexity import TextScore

FILE = "evaluation.json"

Record = dict[str, Any]


class Row(NamedTuple):
    """A line of a table."""

    what: str
    """Text or task."""
    metric: str
    score: str
    interval: str
    """95 %, or empty."""
    of: str
    """How much was measured."""


HEADER = Row("WHAT", "METRIC", "SCORE", "95 % INTERVAL", "OF")


def results(texts: "Sequence[TextScore]", scores: Sequence[Score]) -> Record:
    """The part of evaluation.json that was measured."""
    measured = [
        asdict(text)
        | {
            "perplexity": text.perplexity,
            "perplexity_interval": text.perplexity_interval,
            "bits_per_byte": text.bits_per_byte,
            "bits_per_byte_interval": text.bits_interval,
        }
        for text in texts
    ]
    return {"texts": measured, "suites": [asdict(score) | {"interval": score.interval} for score in scores]}


def rows(record: Record, *, parts: bool = False) -> Iterator[Row]:
    """A line for each number of evaluation.json; those of a group's tasks only if `parts` are asked for."""
    for text in record["texts"]:
        of = f"{text['tokens']:,} tokens, {text['bytes']:,} bytes"
        yield _row(text["text"], "perplexity", text["perplexity"], text["perplexity_interval"], of, digits=2)
        yield _row(text["text"], "bits per byte", text["bits_per_byte"], text["bits_per_byte_interval"], of, digits=4)
    for score in record["suites"]:
        if parts or not score["is_part"]:
            shots = f", {score['few_shot']} examples before each" if score["few_shot"] else ""
            of = f"{score['items']:,} items{shots}"
            yield _row(score["task"], score["metric"], score["value"], score["interval"], of, digits=4)


def _row(what: str, metric: str, value: float, interval: Interval | None, of: str, *, digits: int) -> Row:
    between = "" if interval is None else f"{interval[0]:.{digits}f} to {interval[1]:.{digits}f}"
    return Row(what, metric, f"{value:.{digits}f}", between, of)
