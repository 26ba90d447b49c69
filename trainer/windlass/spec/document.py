"""A YAML document as plain values, with the line of every field.

YAML 1.2: 6e-4 is a number and yes is text. Keys are text, as in JSON. What the YAML library would only report one at a
time, or drop, is collected as problems: duplicate keys, tags, keys that are no scalars.
"""

from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from windlass.spec.problems import InvalidJob, Problem, field_path

Path = tuple[str | int, ...]
_STANDARD = "tag:yaml.org,2002:"
_CONVERTED = tuple(_STANDARD + name for name in ("null", "bool", "int", "float"))


@dataclass
class Document:
    """Plain values, where each stands, and what was wrong with the text."""

    source: str
    value: Any = None
    lines: dict[str, int] = field(default_factory=dict)
    """Line of each field, by its written path."""
    overridden: dict[str, str] = field(default_factory=dict)
    """The --set option that gave a field its value, by its written path."""
    problems: list[Problem] = field(default_factory=list)


def parse(text: str, source: str) -> Document:
    """Read one YAML document.

    Raises:
        InvalidJob: when the text is not YAML, or holds no document or several.
    """
    documents = parse_all(text, source)
    if len(documents) > 1:
        message = f"holds {len(documents)} documents; write each job into a file of its own"
        raise InvalidJob([Problem("", message, source=source, line=documents[1].lines[""])])
    return documents[0]


def parse_all(text: str, source: str) -> list[Document]:
    """Read the YAML documents of a text, one or several.

    Raises:
        InvalidJob: when the text is not YAML, or holds no document.
    """
    yaml = YAML(typ="safe", pure=True)
    documents = []
    try:
        for node in yaml.compose_all(text):
            if node is not None:
                document = Document(source)
                document.value = _value(node, (), document, yaml)
                documents.append(document)
    except MarkedYAMLError as error:
        raise InvalidJob([_syntax_problem(error, source)]) from error
    except ReaderError as error:
        message = f"not YAML: character {chr(error.character)!r} at position {error.position} is not allowed"
        raise InvalidJob([Problem("", message, source=source)]) from error
    except YAMLError as error:
        raise InvalidJob([Problem("", f"not YAML: {error}", source=source)]) from error
    except RecursionError as error:
        raise InvalidJob([Problem("", "nested too deeply, or refers to itself", source=source)]) from error
    if not documents:
        raise InvalidJob([Problem("", "empty; a job has apiVersion, kind, metadata and spec", source=source)])
    return documents


def _syntax_problem(error: MarkedYAMLError, source: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    message = ", ".join(part for part in (error.context, error.problem) if part)
    if "'\\t'" in message:
        message += "; indent with spaces"
    if mark is None:
        return Problem("", f"not YAML: {message}", source=source)
    return Problem("", f"not YAML: {message}", source=source, line=mark.line + 1, column=mark.column + 1)


def _value(node: Node, path: Path, document: Document, yaml: YAML) -> Any:
    document.lines.setdefault(field_path(path), node.start_mark.line + 1)
    if isinstance(node, MappingNode):
        return _mapping(node, path, document, yaml)
    if isinstance(node, SequenceNode):
        return [_value(item, (*path, index), document, yaml) for index, item in enumerate(node.value)]
    tag = node.tag or ""
    if tag in _CONVERTED:
        try:
            return yaml.constructor.construct_object(node)
        except (ValueError, KeyError):
            _report(document, path, node, f"{node.value!r} is not of the type {tag.removeprefix(_STANDARD)}")
    elif not tag.startswith(_STANDARD):
        _report(document, path, node, f"the tag {tag} is not supported; write the value itself")
    return node.value


def _mapping(node: MappingNode, path: Path, document: Document, yaml: YAML) -> dict[str, Any]:
    result: dict[str, Any] = {}
    merged: dict[str, Any] = {}
    for key, value in node.value:
        if not isinstance(key, ScalarNode):
            _report(document, path, key, "a key must be text")
        elif key.tag == _STANDARD + "merge":
            for source in value.value if isinstance(value, SequenceNode) else [value]:
                if isinstance(source, MappingNode):
                    merged = _mapping(source, path, document, yaml) | merged
        elif key.value in result:
            first = document.lines[field_path((*path, key.value))]
            _report(document, (*path, key.value), key, f"given twice; first in line {first}")
        else:
            document.lines[field_path((*path, key.value))] = key.start_mark.line + 1
            result[key.value] = _value(value, (*path, key.value), document, yaml)
    return merged | result


def _report(document: Document, path: Path, node: Node, message: str) -> None:
    line = node.start_mark.line + 1
    document.problems.append(Problem(field_path(path), message, source=document.source, line=line))
