"""judge.json and judge.md: what a judge said, for programs and for people."""

from collections.abc import Iterator, Sequence

from windlass.evaluation.journal import Record
from windlass.evaluation.judgement import POINTS
from windlass.evaluation.markdown import plain
from windlass.evaluation.record import HEADER, Row

FILE, PAGE = "judge.json", "judge.md"
SAMPLES = 3
"""Questions that the page shows of each outcome, or of the best and the worst grades."""


def in_dollars(cost: float) -> str:
    """A cost for people."""
    return "less than $0.01" if 0 < cost < 0.01 else f"${cost:,.2f}"


def rows(record: Record) -> Iterator[Row]:
    """A line for each number."""
    names = [model["name"] for model in record["models"]]
    if len(names) > 1:
        found = record["comparison"]
        of = f"{found['judged']:,} pairs: {found['win']:,} won, {found['tie']:,} tied, {found['loss']:,} lost"
        yield Row(
            " against ".join(names), "win rate", _number(found["win_rate"], 4), _between(found["interval"], 4), of
        )
    else:
        found = record["grades"]
        for part in ({"part": names[0]} | found, *found["parts"]):
            of = f"{part['grades']:,} answers to {part['questions']:,} questions"
            yield Row(part["part"], "grade, 1 to 10", _number(part["score"], 2), _between(part["interval"], 2), of)
    for model in record["models"]:
        of = f"{model['answers']:,} answers, in characters"
        yield Row(model["name"], "mean length", _number(model["mean_length"], 0), "", of)


def notes(record: Record) -> Iterator[str]:
    """What to know beside the numbers, a sentence each."""
    found = record.get("comparison") or record["grades"]
    if "comparison" in record:
        yield (
            f"{found['changed_mind']:,} ties are pairs in which the judge's choice went with the place. It preferred "
            f"what was shown first {found['prefers_first']:,} times, what was shown second "
            f"{found['prefers_second']:,} times, and the longer answer in {found['prefers_longer']:,} of "
            f"{found['of_unequal_length']:,} decided pairs."
        )
    if found["wrong_form"]:
        what = "verdict; their pairs are" if "comparison" in record else "grade; they are"
        yield (
            f"{found['wrong_form']:,} of {record['judge']['replies']:,} replies end without a {what} left out. "
            f"{record['judge']['cut']:,} were cut at {record['judge']['max_tokens']:,} tokens (--judge-tokens)."
        )
    paid = record["judge"]
    dollars = "" if paid["dollars"] is None else f", {in_dollars(paid['dollars'])}"
    yield (
        f"{paid['model']} judged, in {paid['replies']:,} replies: {paid['tokens_in']:,} tokens in, "
        f"{paid['tokens_out']:,} out{dollars}."
    )


def page(record: Record) -> str:
    """The report in Markdown: numbers, then answers side by side with the judge's reasons."""
    return "\n".join(_lines(record)) + "\n"


def _lines(record: Record) -> Iterator[str]:
    names = [model["name"] for model in record["models"]]
    yield from [f"# {plain(' against '.join(names))}", "", f"| {' | '.join(name.capitalize() for name in HEADER)} |"]
    yield "| --- | --- | --- | --- | --- |"
    yield from (f"| {' | '.join(map(plain, row))} |" for row in rows(record))
    yield from (f"\n{plain(note)}" for note in notes(record))
    yield f"\nJudged {record['time'][:10]}. Intervals are 95 %."
    for title, items in _samples(record):
        yield from ["", f"## {title}"]
        for item in items:
            yield from _sample(item, names)


def _samples(record: Record) -> Iterator[tuple[str, Sequence[Record]]]:
    if "comparison" in record:
        items = record["comparison"]["items"]
        titles = {"win": "Won", "tie": "Tied", "loss": "Lost"}
        for outcome in POINTS:
            if chosen := [item for item in items if item["outcome"] == outcome][:SAMPLES]:
                yield titles[outcome], chosen
        return
    given = [item for item in record["grades"]["items"] if any(item["scores"])]
    given.sort(key=lambda item: -sum(filter(None, item["scores"])) / len(item["scores"]))
    for title, chosen in (("Best grades", given[:SAMPLES]), ("Worst grades", given[SAMPLES:][-SAMPLES:])):
        if chosen:
            yield title, chosen


def _sample(item: Record, names: Sequence[str]) -> Iterator[str]:
    yield from ["", f"### {plain(item['question'])}", "", f"| | {' | '.join(map(plain, names))} |"]
    yield "| --- |" + " --- |" * len(names)
    for turn, question in enumerate(item["turns"]):
        answers = " | ".join(plain(answers[turn]) for answers in item["answers"])
        yield f"| {plain(question)} | {answers} |"
    places = [f"{names[0]} shown first", f"{names[0]} shown second"] if len(names) > 1 else []
    for number, said in enumerate(item["reasons"]):
        if len(names) > 1:
            verdict = {"first": names[number], "second": names[1 - number], "tie": "neither", None: "no verdict"}
            head = f"{places[number]}: {verdict[item['verdicts'][number]]}"
        else:
            head = f"Turn {number + 1}: {_number(item['scores'][number], 0)}"
        yield f"\n**{plain(head)}.** {plain(said)}"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _between(interval: Sequence[float] | None, digits: int) -> str:
    return "" if interval is None else f"{interval[0]:.{digits}f} to {interval[1]:.{digits}f}"
