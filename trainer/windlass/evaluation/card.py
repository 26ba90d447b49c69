"""The model card: what a model is and how well it does, in Markdown."""

from collections.abc import Iterator

from windlass.evaluation.record import HEADER, Record, notes, rows

FILE = "model-card.md"


def model_card(record: Record) -> str:
    """The card of an evaluation's record."""
    return "\n".join(_lines(record)) + "\n"


def _lines(record: Record) -> Iterator[str]:
    model = record["model"]
    yield from [f"# {model['name']}", "", "| | |", "| --- | --- |"]
    facts = {
        "From": model["place"],
        "Checkpoint": model["checkpoint"],
        "Parameters": f"{model['parameters']:,}",
        "Context": f"{model['context_length']:,} tokens",
        "Tokenizer": f"{model['tokenizer']}, {model['vocab_size']:,} tokens",
    }
    yield from (f"| {name} | {_cell(value)} |" for name, value in facts.items() if value is not None)
    yield from ["", "## Evaluation", ""]
    yield f"| {' | '.join(name.capitalize() for name in HEADER)} |"
    yield "| --- | --- | --- | --- | --- |"
    yield from (f"| {' | '.join(map(_cell, row))} |" for row in rows(record, parts=True))
    yield from (f"\n{_cell(note)}" for note in notes(record))
    versions = ", ".join(f"{name} {version}" for name, version in record["environment"]["packages"].items())
    limit = f" The first {record['limit']:,} items of each task, and windows of each text." if record["limit"] else ""
    yield from ["", f"Measured {record['time'][:10]} with {versions}, on {record['environment']['device']}.{limit}"]
    yield "Intervals are normal approximations from the items' standard error; suites are lm_eval's tasks."


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
