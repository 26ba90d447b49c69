"""Tables of the documentation that are made from the code when it is built, so that they can't be out of date.

A page asks for one with a line such as {{ job }}.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import typer.main

from windlass.cli.main import app
from windlass.cli.show import count
from windlass.planning.compute import count_parameters
from windlass.spec.job import LLMTrainingJob
from windlass.spec.presets import PRESETS
from windlass.spec.reasons import REASONS

Schema = dict[str, Any]
DECISIONS = Path(__file__).parent / "decisions"
VALUES = Path(__file__).parents[1] / "charts/windlass/values.yaml"
BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
    "minLength": "length at least {}",
    "maxLength": "length at most {}",
    "minItems": "{} or more",
}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """MkDocs calls this for each page."""
    return re.sub(r"^\{\{ (\w+) \}\}$", lambda match: "\n".join(TABLES[match[1]]()), markdown, flags=re.MULTILINE)


def job() -> Iterator[str]:
    """A table for each part of the job: its fields, their types, defaults and meanings."""
    schema = LLMTrainingJob.model_json_schema(by_alias=True)
    yield from _model("", schema, schema["$defs"])


def _model(path: str, model: Schema, models: dict[str, Schema]) -> Iterator[str]:
    yield from ["", f"## {path or model['title']}", "", model["description"], ""]
    yield from ["| field | type | default | meaning |", "| --- | --- | --- | --- |"]
    inner = []
    for name, field in model["properties"].items():
        where = f"{path}.{name}".lstrip(".")
        kind, refers_to = _type(field, models)
        if refers_to:
            inner.append((where, models[refers_to]))
            kind = f"[{kind}](#{_anchor(where)})"
        meaning = " ".join((field.get("description") or models[refers_to or ""]["description"]).split())
        yield f"| `{name}` | {_cell(kind)} | {_cell(_default(name, field, model, refers_to))} | {_cell(meaning)} |"
    for where, part in inner:
        yield from _model(where, part, models)


def _type(field: Schema, models: dict[str, Schema]) -> tuple[str, str | None]:
    """A field's type in words, and the model it is or holds, if any."""
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return name, name
    if "anyOf" in field:
        kinds = [_type(choice, models) for choice in field["anyOf"] if choice.get("type") != "null"]
        return " or ".join(kind for kind, _ in kinds), next((model for _, model in kinds if model), None)
    if "enum" in field or "const" in field:
        return ", ".join(f"`{value}`" for value in field.get("enum", [field.get("const")])), None
    bounds = ", ".join(text.format(field[key]) for key, text in BOUNDS.items() if key in field)
    if field.get("type") == "array":
        kind, model = _type(field["items"], models)
        return f"list of {kind}" + f" ({bounds})" * bool(bounds), model
    if field.get("type") == "object":
        return "object" if field.get("additionalProperties") is True else "object of strings", None
    return field["type"] + f", {bounds}" * bool(bounds), None


def _default(name: str, field: Schema, model: Schema, refers_to: str | None) -> str:
    if name in model.get("required", []):
        return "required"
    value = field.get("default")
    if value is None or (refers_to and isinstance(value, dict)):
        return ""
    return f"`{json.dumps(value)}`"


def presets() -> Iterator[str]:
    """A row for each named architecture."""
    yield "| preset | parameters | layers | heads (kv) | width | context | vocabulary | tokenizer | source |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    for name, preset in PRESETS.items():
        config = preset.config
        heads = f"{config.heads} ({config.kv_heads})" if config.kv_heads != config.heads else str(config.heads)
        yield (
            f"| `{name}` | {count(count_parameters(config))} | {config.layers} | {heads} | {config.hidden_size} "
            f"| {config.context_length} | {config.vocab_size} | `{preset.tokenizer}` | {_cell(preset.source)} |"
        )


def reasons() -> Iterator[str]:
    """A table for each kind of reason."""
    for kind in dict.fromkeys(reason.kind for reason in REASONS.values()):
        yield from [
            "",
            f"## {kind}",
            "",
            "| reason | what it means | what to do | exit code |",
            "| --- | --- | --- | --- |",
        ]
        for name, reason in REASONS.items():
            if reason.kind == kind:
                yield f"| `{name}` | {reason.meaning} | {reason.remedy} | {2 if reason.bad_input else 3} |"


def commands() -> Iterator[str]:
    """The help of every command."""
    yield from _command(typer.main.get_command(app), None, "windlass")


def _command(command: Any, parent: click.Context | None, name: str) -> Iterator[str]:
    context = click.Context(command, parent, info_name=name, terminal_width=90, max_content_width=90)
    yield from ["", f"## {context.command_path}", "", "```text", command.get_help(context).strip(), "```"]
    for sub in getattr(command, "commands", {}).values():
        yield from _command(sub, context, sub.name)


def decisions() -> Iterator[str]:
    """A line for each note."""
    for note in sorted(DECISIONS.glob("[0-9]*.md")):
        title = note.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
        yield f"- [{title}]({note.name})"


def values() -> Iterator[str]:
    """A row for each of the chart's values, with the comment above it."""
    yield from ["| value | default | meaning |", "| --- | --- | --- |"]
    path: list[str] = []
    comment: list[str] = []
    for line in VALUES.read_text(encoding="utf-8").splitlines():
        text = line.strip()
        if text.startswith("# "):
            comment.append(text[2:])
            continue
        name, _, default = text.partition(":")
        path[(len(line) - len(text)) // 2 :] = [name]
        if text and comment:
            shown = f"`{default.strip()}`" if default else ""
            yield f"| `{'.'.join(path)}` | {_cell(shown)} | {_cell(' '.join(comment))} |"
        comment = []


def _anchor(heading: str) -> str:
    return heading.lower().replace(".", "")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


TABLES: dict[str, Callable[[], Iterator[str]]] = {
    table.__name__: table for table in (job, presets, reasons, commands, decisions, values)
}
