"""The model card: what a model is and how well it does, in Markdown."""

from collections.abc import Iterator

from windlass.evaluation.record import Record, known_items, notes, samples, table, visible

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
    header, rows = table(record, parts=True)
    if rows:
        yield f"| {' | '.join(name.capitalize() for name in header)} |"
        yield f"|{' --- |' * len(header)}"
        yield from (f"| {' | '.join(map(_cell, row))} |" for row in rows)
    yield from (f"\n{_cell(note)}" for note in notes(record))
    if known := list(known_items(record)):
        yield from ["", "## Test items in training data", "", "| item | where |", "| --- | --- |"]
        yield from (f"| {name} | {_cell(where)} |" for name, where in known)
    if record["samples"]:
        yield from ["", "## What the model writes", "", *_samples(record)]
    versions = ", ".join(f"{name} {version}" for name, version in record["environment"]["packages"].items())
    limit = f" The first {record['limit']:,} items of each task, and windows of each text." if record["limit"] else ""
    yield from ["", f"Measured {record['time'][:10]} with {versions}, on {record['environment']['device']}.{limit}"]
    yield "Intervals are normal approximations from the items' standard error; suites are lm_eval's tasks."


def _samples(record: Record) -> Iterator[str]:
    """Each prompt with what the models write; as code, so that nothing in it is Markdown."""
    for prompt, texts in samples(record):
        for name, text in texts:
            yield from [f"{_cell(name)}:", "", *(f"    {line}" for line in visible(prompt + text).splitlines()), ""]


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
