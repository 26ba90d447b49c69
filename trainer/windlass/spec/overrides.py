"""Values given on the command line, path=value, in place of those in the job file."""

import re
from typing import Any, get_origin

from windlass.spec.document import Document, parse
from windlass.spec.fields import Keys, alternatives, child, fields
from windlass.spec.job import LLMTrainingJob
from windlass.spec.problems import InvalidJob, Problem, field_path
from windlass.spec.validation import unknown_field


def apply(document: Document, override: str) -> list[Problem]:
    """Set one value of the document, as in training.maxSteps=100 or data.train.0.uri=corpora/plays.

    The path may leave out "spec."; the value is YAML, and null takes the field away.

    Returns:
        What is wrong with the override, which then has no effect.
    """
    source = f"--set {override}"
    path, equals, text = override.partition("=")
    if not equals or not path.strip():
        return [Problem("", "write path=value, such as training.maxSteps=100", source=source)]
    segments = re.sub(r"\[(\d+)\]", r".\1", path.strip()).split(".")
    if segments[0] not in fields(LLMTrainingJob):
        segments.insert(0, "spec")
    try:
        value = parse(text, source).value if text.strip() else None
        keys = _resolve(segments)
        _set(document.value, keys, value)
    except InvalidJob as error:
        return [Problem(problem.path, problem.message, source=source) for problem in error.problems]
    document.overridden[field_path(keys)] = source
    return []


def _resolve(segments: list[str]) -> Keys:
    """The path as keys: numbers where lists are."""
    keys: Keys = ()
    annotation: Any = LLMTrainingJob
    for segment in segments:
        is_index = segment.isdigit() and any(get_origin(part) is list for part in alternatives(annotation))
        keys = (*keys, int(segment) if is_index else segment)
        annotation = child(annotation, keys[-1])
        if annotation is None:
            raise InvalidJob([unknown_field(keys)])
    return keys


def _set(container: Any, keys: tuple[Any, ...], value: Any) -> None:
    for depth, key in enumerate(keys):
        problem = _no_room(container, key)
        if problem:
            raise InvalidJob([Problem(field_path(keys[: depth + 1]), problem)])
        if isinstance(container, list) and key == len(container):
            container.append(None)
        if depth == len(keys) - 1:
            container[key] = value
        elif (container[key] if isinstance(container, list) else container.get(key)) is None:
            container[key] = [] if isinstance(keys[depth + 1], int) else {}
        container = container[key]


def _no_room(container: Any, key: str | int) -> str:
    """Why nothing can be set under `key`, or nothing where it can."""
    if not isinstance(container, list if isinstance(key, int) else dict):
        return "cannot be set: what holds it in the file is of another type"
    if isinstance(key, int) and key > len(container):
        return f"no item {key}; the list has {len(container)}, and {len(container)} would add one"
    return ""
