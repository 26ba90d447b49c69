"""evaluation.json: what an evaluation found, and how its numbers look to people."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

from windlass.evaluation.scores import Interval, Score
from windlass.storage import shown

if TYPE_CHECKING:  # the report needs no PyTorch
    from windlass.evaluation.memorisation import Recall
    from windlass.evaluation.overlap import Overlap
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


def results(
    texts: "Sequence[TextScore]",
    scores: Sequence[Score],
    overlaps: "Sequence[Overlap]",
    recalls: "Mapping[str, Sequence[Recall]]",
) -> Record:
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
    return {
        "texts": measured,
        "suites": [asdict(score) | {"interval": score.interval} for score in scores],
        "contamination": [_contamination(overlap) for overlap in overlaps],
        "memorisation": [
            {"corpus": shown(corpus), **asdict(recall), "interval": recall.interval}
            for corpus, found in recalls.items()
            for recall in found
        ],
    }


def _contamination(overlap: "Overlap") -> Record:
    found = [{"task": task, "item": number, "documents": names} for (task, number), names in overlap.found.items()]
    return {
        "corpus": overlap.corpus,
        "documents": overlap.documents,
        "items_known": overlap.known,
        "items_too_short": overlap.too_short,
        "items_found": len(found),
        "items": found,
    }


def notes(record: Record) -> Iterator[str]:
    """What to know beside the numbers, a sentence each."""
    for found in record["contamination"]:
        yield (
            f"{found['items_found']:,} of {found['items_known']:,} items share 13 words in a row, or all they have, "
            f"with {found['corpus']} ({found['documents']:,} documents); clean items are all others, with "
            f"{found['items_too_short']:,} that are too short to tell."
        )


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
            metric = f"{score['metric']}, clean items" if score["is_clean"] else score["metric"]
            yield _row(score["task"], metric, score["value"], score["interval"], of, digits=4)
    for recall in record["memorisation"]:
        of = (
            f"{recall['passages']:,} continuations of {recall['tokens']} tokens, {recall['whole']:,} of them to the end"
        )
        yield _row(recall["corpus"], f"reproduced, {recall['text']}", recall["share"], recall["interval"], of, digits=4)


def _row(what: str, metric: str, value: float, interval: Interval | None, of: str, *, digits: int) -> Row:
    between = "" if interval is None else f"{interval[0]:.{digits}f} to {interval[1]:.{digits}f}"
    return Row(what, metric, f"{value:.{digits}f}", between, of)
