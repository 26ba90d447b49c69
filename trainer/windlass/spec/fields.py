"""The tree of a job's fields, by the names they have in YAML: what may stand at a path."""

from collections.abc import Iterator
from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from windlass.spec.job import LLMTrainingJob

Keys = tuple[str | int, ...]


@cache
def fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """A model's fields by their YAML names."""
    return {info.alias or name: info for name, info in model.model_fields.items()}


def alternatives(annotation: Any) -> tuple[Any, ...]:
    """The members of a union, without None and without the constraints around them."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return alternatives(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return tuple(choice for part in get_args(annotation) for choice in alternatives(part))
    return () if annotation is type(None) else (annotation,)


def choices(annotation: Any) -> list[str]:
    """The words that a field takes, for those that take words from a list."""
    literals = [part for part in alternatives(annotation) if get_origin(part) is Literal]
    return [str(word) for literal in literals for word in get_args(literal)]


def child(annotation: Any, key: str | int) -> Any:
    """The type of what stands under `key`: Any below free mappings, None where nothing may stand."""
    for part in alternatives(annotation):
        if part is Any:
            return Any
        if isinstance(part, type) and issubclass(part, BaseModel) and key in fields(part):
            return fields(part)[str(key)].annotation
        if get_origin(part) is dict and isinstance(key, str):
            return get_args(part)[1]
        if get_origin(part) is list and isinstance(key, int):
            return get_args(part)[0]
    return None


def type_at(keys: Keys) -> Any:
    """The type at a path of the job, or None where nothing may stand."""
    annotation: Any = LLMTrainingJob
    for key in keys:
        annotation = child(annotation, key)
    return annotation


def model_at(keys: Keys) -> type[BaseModel] | None:
    """The model at a path of the job, where there is one."""
    for part in alternatives(type_at(keys)):
        if isinstance(part, type) and issubclass(part, BaseModel):
            return part
    return None


def describe(keys: Keys) -> str:
    """The description of the field at a path, on one line; empty where there is none."""
    model = model_at(keys[:-1])
    info = fields(model).get(str(keys[-1])) if model else None
    return " ".join((info.description or "").split()) if info else ""


def walk(model: type[BaseModel] = LLMTrainingJob, above: Keys = ()) -> Iterator[tuple[Keys, FieldInfo]]:
    """Every field of a job with its path, from the top; the items of a list have the index 0."""
    for name, info in fields(model).items():
        keys: Keys = (*above, name)
        yield keys, info
        for part in alternatives(info.annotation):
            if get_origin(part) is list:
                part, keys = get_args(part)[0], (*keys, 0)
            if isinstance(part, type) and issubclass(part, BaseModel):
                yield from walk(part, keys)
