"""evaluation.json: what an evaluation found, and how its numbers look to people."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from windlass.evaluation.scores import Score
from windlass.intervals import Interval
from windlass.storage import shown

if TYPE_CHECKING:  # the report needs no PyTorch
    from windlass.evaluation.memorisation import Recall
    from windlass.evaluation.overlap import Overlap
    from windlass.evaluation.perplexity import TextScore

FILE = "evaluation.json"
METRICS = ("perplexity", "bits_per_byte")
"""Of texts."""

SHOWN = 200
"""Characters of an item that is in training data."""
CONTROL = dict.fromkeys((*range(9), *range(11, 32), *range(127, 160)), "\N{REPLACEMENT CHARACTER}")
"""A model that has learned nothing writes control characters, which have no place in HTML or on a terminal."""

Record = dict[str, Any]


class Row(NamedTuple):
    """A line of a table without comparisons."""

    what: str
    metric: str
    score: str
    interval: str
    """95 %, or empty."""
    of: str


HEADER = Row("WHAT", "METRIC", "SCORE", "95 % INTERVAL", "OF")


class Columns(NamedTuple):
    """A line of the table of an evaluation."""

    what: str
    """Text or task."""
    metric: str
    score: str
    interval: str
    """95 %, or empty."""
    base: str
    """Score of the model it began with, or is compared with; or empty."""
    above_base: str
    """How much the score is above that, with the 95 % interval of the difference."""
    bigram: str
    above_bigram: str
    of: str
    """How much was measured."""


COLUMNS = Columns("WHAT", "METRIC", "SCORE", "95 % INTERVAL", "BASE", "ABOVE BASE", "BIGRAM", "ABOVE BIGRAM", "OF")


def texts(
    found: "Sequence[TextScore]",
    base: "Sequence[TextScore] | None" = None,
    bigram: "Sequence[TextScore] | None" = None,
    *,
    same_tokens: bool = True,
) -> list[Record]:
    """Texts as in evaluation.json; a base of other tokens is compared by bits per byte alone."""
    compared = {"base": base, "bigram": bigram}
    return [
        {"text": text.text, "tokens": text.tokens, "bytes": text.bytes, "windows": text.windows}
        | {"loss": text.loss, "stderr": text.stderr}
        | _numbers(text)
        | {
            "compared": {
                name: _compared(text, others[number], same_tokens or name == "bigram")
                for name, others in compared.items()
                if others is not None
            }
        }
        for number, text in enumerate(found)
    ]


def _numbers(text: "TextScore", metrics: Sequence[str] = METRICS) -> Record:
    return {name: getattr(text, name) for metric in metrics for name in (metric, f"{metric}_interval")}


def _compared(text: "TextScore", other: "TextScore", same_tokens: bool) -> Record:
    metrics = METRICS if same_tokens else METRICS[1:]
    above = {metric: text.above(other, metric) for metric in metrics}
    if not same_tokens:
        above = {metric: difference._replace(interval=None) for metric, difference in above.items()}
    return _numbers(other, metrics) | {
        name: value
        for metric, difference in above.items()
        for name, value in (
            (f"{metric}_above", difference.value),
            (f"{metric}_above_interval", difference.interval),
        )
    }


def suites(found: Sequence[Score], base: Sequence[Score] | None = None) -> list[Record]:
    """Scores of suites as in evaluation.json."""
    others: Sequence[Score | None] = base if base is not None else [None] * len(found)
    return [
        plain(score) | {"compared": {"base": _above(score, other)} if other else {}}
        for score, other in zip(found, others, strict=True)
    ]


def plain(score: Score) -> Record:
    """A score without its items."""
    found = asdict(replace(score, values={}))
    del found["values"]
    return found | {"interval": score.interval}


def _above(score: Score, other: Score) -> Record:
    value, interval = score.above(other)
    return {"value": other.value, "interval": other.interval, "value_above": value, "value_above_interval": interval}


def memorisation(recalls: "Mapping[str, Sequence[Recall]]") -> list[Record]:
    """Of each corpus, how much of its passages is reproduced."""
    return [
        {"corpus": shown(corpus), **asdict(recall), "interval": recall.interval}
        for corpus, found in recalls.items()
        for recall in found
    ]


def contamination(overlap: "Overlap") -> Record:
    """Which items are in a corpus."""
    found = [
        {
            "task": item[0],
            "item": item[1],
            "documents": names,
            "share": overlap.near.get(item),
            "text": overlap.texts[item][:SHOWN],
        }
        for item, names in overlap.found.items()
    ]
    return {
        "corpus": overlap.corpus,
        "documents": overlap.documents,
        "items_known": overlap.known,
        "items_too_short": overlap.too_short,
        "items_found": len(found),
        "items_near": len(overlap.near),
        "items": found,
    }


def notes(record: Record) -> Iterator[str]:
    """What to know beside the numbers, a sentence each."""
    if base := record["base"]:
        yield f"Base: {base['name']}{', ' + base['checkpoint'] if base['checkpoint'] else ''}, from {base['place']}."
    if corpora := record["baseline"]["corpora"]:
        yield f"Bigram: a count of adjacent tokens in {', '.join(corpora)}, smoothed; it is what is to be beaten."
    if missing := record["baseline"]["missing"]:
        yield f"There is no bigram baseline: {missing}."
    for found in record["contamination"]:
        exact = found["items_found"] - found["items_near"]
        yield (
            f"{exact:,} of {found['items_known']:,} items share 13 words in a row, or all they have, with "
            f"{found['corpus']} ({found['documents']:,} documents), and {found['items_near']:,} more are nearly there; "
            f"clean items are all others, with {found['items_too_short']:,} that are too short to tell."
        )


def known_items(record: Record) -> Iterator[tuple[str, str]]:
    """Each item that is in training data: its name, and how much of it is where."""
    for found in record["contamination"]:
        for item in found["items"]:
            how = "word for word" if item["share"] is None else f"{item['share']:.0%} of its words, three in a row,"
            yield f"{item['task']} {item['item']}", f"{item['text']} - {how} in {', '.join(item['documents'])}"


def visible(text: str) -> str:
    """Text that a model wrote, without control characters."""
    return text.translate(CONTROL)


def samples(record: Record) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Each prompt, and what which model continues it with: the base, then the model."""
    how = "the likeliest tokens" if record["temperature"] == 0 else f"temperature {record['temperature']:g}"
    for sample in record["samples"]:
        base = [(f"{record['base']['name']}, {how}", sample["base"])] if record["base"] else []
        yield sample["prompt"], [*base, (f"{record['model']['name']}, {how}", sample["text"])]


def table(record: Record, *, parts: bool = False) -> tuple[list[str], list[list[str]]]:
    """Header and lines, without columns that are empty; those of a group's tasks only if `parts` are asked for."""
    found = list(_rows(record, parts))
    kept = [number for number, cells in enumerate(zip(*found, strict=True)) if number < 4 or any(cells)]
    return [COLUMNS[number] for number in kept], [[row[number] for number in kept] for row in found]


def _rows(record: Record, parts: bool) -> Iterator[Columns]:
    for text in record["texts"]:
        of = f"{text['tokens']:,} tokens, {text['bytes']:,} bytes"
        for metric, digits in zip(METRICS, (2, 4), strict=True):
            yield _row(text["text"], metric.replace("_", " "), text, metric, of, digits)
    for score in record["suites"]:
        if parts or not score["is_part"]:
            shots = f", {score['few_shot']} examples before each" if score["few_shot"] else ""
            of = f"{score['items']:,} items{shots}"
            metric = f"{score['metric']}, clean items" if score["is_clean"] else score["metric"]
            yield _row(score["task"], metric, score | {"value_interval": score["interval"]}, "value", of, 4)
    for recall in record["memorisation"]:
        of = (
            f"{recall['passages']:,} continuations of {recall['tokens']} tokens, {recall['whole']:,} of them to the end"
        )
        found = {"value": recall["share"], "value_interval": recall["interval"], "compared": {}}
        yield _row(recall["corpus"], f"reproduced, {recall['text']}", found, "value", of, 4)


def _row(what: str, metric: str, found: Record, name: str, of: str, digits: int) -> Columns:
    base, bigram = (_beside(found["compared"].get(other, {}), name, digits) for other in ("base", "bigram"))
    return Columns(
        what,
        metric,
        f"{found[name]:.{digits}f}",
        _between(found[f"{name}_interval"], f".{digits}f"),
        *base,
        *bigram,
        of,
    )


def _beside(other: Record, name: str, digits: int) -> tuple[str, str]:
    """Another model's score, and how much this one's is above it."""
    if name not in other:
        return "", ""
    between = _between(other[f"{name}_above_interval"], f"+.{digits}f")
    return f"{other[name]:.{digits}f}", f"{other[f'{name}_above']:+.{digits}f}" + (f" ({between})" if between else "")


def _between(interval: Interval | None, form: str) -> str:
    return "" if interval is None else f"{interval[0]:{form}} to {interval[1]:{form}}"
