"""From plain values to a job: every field error and every broken rule at once, in words.

pydantic finds the field errors. What is wrong is then left out, so that the rules between fields
(`windlass.spec.checks`) still run on the rest, except those about a field that is wrong already.
"""

import copy
from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from windlass.spec.checks import check
from windlass.spec.fields import Keys, child, choices, describe, fields, model_at, type_at, walk
from windlass.spec.job import API_VERSION, KIND, LLMTrainingJob
from windlass.spec.problems import Problem, did_you_mean, field_path, nearest

_KINDS = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
}
_BOUNDS = {
    "greater_than_equal": "at least {ge:g}",
    "greater_than": "above {gt:g}",
    "less_than_equal": "at most {le:g}",
    "less_than": "below {lt:g}",
    "too_short": "a list of at least {min_length}",
    "too_long": "a list of at most {max_length}",
    "string_too_short": "text of at least {min_length} characters",
    "string_too_long": "text of at most {max_length} characters",
}
_STAND_INS: dict[Keys, Any] = {
    ("metadata",): {"name": "job"},
    ("metadata", "name"): "job",
    ("spec",): {"model": {}, "data": {}, "training": {}},
    ("spec", "model"): {},
    ("spec", "data"): {},
    ("spec", "training"): {},
}
"""What takes the place of a required field that is wrong, so that the rules can run on the others."""


def validate(value: Any, *, cluster: bool = False, rules: bool = True) -> tuple[LLMTrainingJob | None, list[Problem]]:
    """The job that plain values describe, and all that is wrong with it; it is only good without problems.

    With `cluster`, the rules of jobs on a cluster count as well. Without `rules`, each field is looked at by itself.
    """
    if not isinstance(value, dict):
        shape = "empty" if value is None else _shown(value)
        return None, [Problem("", f"{shape}; a job is one mapping with apiVersion, kind, metadata and spec")]
    header = [
        Problem(key, f"missing; write {key}: {expected}")
        for key, expected in (("apiVersion", API_VERSION), ("kind", KIND))
        if key not in value
    ]
    kind = value.get("kind", KIND)
    if kind != KIND and not nearest(str(kind), [KIND]):
        return None, [Problem("kind", f"this is {_shown(kind)}, and Windlass reads kind: {KIND}")]
    job, errors = _parse(value)
    found = header + field_problems(errors)
    if errors:
        job, left_out = _salvage(value, errors)
        left_out.update(path for problem in found for path in (problem.path, *problem.about))
    else:
        left_out = set()
    if job is not None and rules:
        found += [problem for problem in check(job, cluster=cluster) if not _concerns(problem, left_out)]
    return job, found


def unknown_field(keys: Keys) -> Problem:
    """Says that there is no such field, and which was probably meant."""
    name = str(keys[-1])
    model = model_at(keys[:-1])
    siblings = list(fields(model)) if model else []
    guess = nearest(name, siblings)
    if guess:
        meant = field_path((*keys[:-1], guess))
        return Problem(field_path(keys), f"unknown field; did you mean {guess}?", about=(meant,))
    elsewhere = [field_path(path) for path, _ in walk() if path[-1] == name]
    if elsewhere:
        return Problem(
            field_path(keys), f"unknown field; did you mean {' or '.join(elsewhere)}?", about=tuple(elsewhere)
        )
    allowed = f"allowed here: {', '.join(siblings)}" if siblings else "nothing may stand below this field"
    return Problem(field_path(keys), f"unknown field; {allowed}")


def field_problems(errors: Iterable[ErrorDetails]) -> list[Problem]:
    """pydantic's errors in words, one problem for each field."""
    by_field: dict[Keys, list[ErrorDetails]] = {}
    for error in errors:
        by_field.setdefault(_keys(error), []).append(error)
    found = [_field_problem(keys, group) for keys, group in by_field.items()]
    misspelt = {meant for problem in found for meant in problem.about}
    return [problem for problem in found if problem.path not in misspelt]


def _parse(value: Any) -> tuple[LLMTrainingJob | None, list[ErrorDetails]]:
    try:
        return LLMTrainingJob.model_validate(value, by_alias=True, by_name=False), []
    except ValidationError as error:
        return None, error.errors()


def _keys(error: ErrorDetails) -> Keys:
    """The path of the field, without what pydantic adds: the member of a union, "[key]"."""
    location = error["loc"]
    annotation: Any = LLMTrainingJob
    for depth, key in enumerate(location):
        annotation = child(annotation, key)
        if annotation is None:
            return location[: depth + (error["type"] == "extra_forbidden")]
    return location


def _field_problem(keys: Keys, errors: list[ErrorDetails]) -> Problem:
    path, kind, value = field_path(keys), errors[0]["type"], errors[0]["input"]
    if kind == "extra_forbidden":
        return unknown_field(keys)
    if kind == "missing":
        return Problem(path, f"missing; what it is: {describe(keys)}")
    wanted = " or ".join(dict.fromkeys(_wanted(error, keys) for error in errors))
    return Problem(path, f"must be {wanted}, got {_shown(value)}{_hint(keys, errors, value)}")


def _wanted(error: ErrorDetails, keys: Keys) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind == "literal_error":
        words = choices(type_at(keys))
        return words[0] if len(words) == 1 else f"one of {', '.join(words)}"
    if kind == "string_pattern_mismatch":
        return f"text that matches {context['pattern']} ({describe(keys).rstrip('.')})"
    return _KINDS.get(kind) or _BOUNDS.get(kind, error["msg"]).format(**context)


def _hint(keys: Keys, errors: list[ErrorDetails], value: Any) -> str:
    kinds = {error["type"] for error in errors}
    if isinstance(value, str):
        guess = did_you_mean(value, choices(type_at(keys)))
        quoted = kinds & {"int_type", "float_type"} and value.replace(".", "", 1).isdigit()
        return guess or ("; write it without quotes" if quoted else "")
    if isinstance(value, float) and value.is_integer() and kinds & {"int_type", "int_from_float"}:
        return f"; write {int(value)}"
    if isinstance(value, bool | int | float) and "string_type" in kinds:
        return "; write it in quotes"
    return ""


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _salvage(value: Any, errors: list[ErrorDetails]) -> tuple[LLMTrainingJob | None, set[str]]:
    """The job without its wrong fields, and the paths of what was left out; None where nothing is left."""
    rest = copy.deepcopy(value)
    left_out: set[str] = set()
    job: LLMTrainingJob | None = None
    while errors and len(left_out) < 1000:
        for error in errors:
            left_out.add(field_path(_leave_out(rest, _keys(error), missing=error["type"] == "missing")))
        job, errors = _parse(rest)
    return job, left_out


def _leave_out(value: Any, keys: Keys, *, missing: bool) -> Keys:
    """Take a field out, or the whole list that it is in, so that other items keep their places; returns its path."""
    if missing and keys in _STAND_INS:
        _container(value, keys)[keys[-1]] = copy.deepcopy(_STAND_INS[keys])
        return keys
    if missing:
        keys = keys[:-1]
    first_index = next((depth for depth, key in enumerate(keys) if isinstance(key, int)), len(keys))
    keys = keys[:first_index]
    container = _container(value, keys)
    if isinstance(container, dict):
        container.pop(keys[-1], None)
    return keys


def _container(value: Any, keys: Keys) -> Any:
    for key in keys[:-1]:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _concerns(problem: Problem, paths: set[str]) -> bool:
    """True where a problem is about one of the paths, or about a field inside of one."""
    return any(
        about == path or about.startswith((f"{path}.", f"{path}["))
        for about in (problem.path, *problem.about)
        for path in paths
    )
