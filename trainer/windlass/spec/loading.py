"""Reading a job file, and writing a job as one."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from windlass.errors import WindlassError
from windlass.spec import overrides as command_line
from windlass.spec.document import Document, parse
from windlass.spec.job import LLMTrainingJob, SpecModel
from windlass.spec.problems import InvalidJob, Problem
from windlass.spec.validation import validate

__all__ = ["InvalidJob", "Problem", "dump_job", "load_job", "load_job_text"]


def load_job(path: str | Path, overrides: Sequence[str] = ()) -> LLMTrainingJob:
    """Read and validate a job file; `overrides` are path=value, and "spec." may be left out.

    Raises:
        InvalidJob: with every problem, its line in the file, and what would be right.
        WindlassError: ConfigInvalid, when the file can't be read.
    """
    return load_document(path, overrides)[1]


def load_document(
    path: str | Path, overrides: Sequence[str] = (), *, cluster: bool = False
) -> tuple[Document, LLMTrainingJob]:
    """A job as it is written, overrides applied and defaults left out, and as it is meant. Raises as `load_job`.

    With `cluster`, it is held to the rules of jobs on a cluster, too.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise WindlassError("ConfigInvalid", f"{path}: no such file") from error
    except UnicodeDecodeError as error:
        raise WindlassError("ConfigInvalid", f"{path}: not a text file in UTF-8 ({error.reason})") from error
    except OSError as error:
        raise WindlassError("ConfigInvalid", f"{path}: cannot be read: {error.strerror}") from error
    return _load(text, str(path), overrides, cluster=cluster)


def load_job_text(
    text: str, source: str = "job.yaml", overrides: Sequence[str] = (), *, cluster: bool = False
) -> LLMTrainingJob:
    """The job in a YAML text; `source` is what messages call it. Raises as `load_job`."""
    return _load(text, source, overrides, cluster=cluster)[1]


def _load(text: str, source: str, overrides: Sequence[str], *, cluster: bool) -> tuple[Document, LLMTrainingJob]:
    document = parse(text, source)
    problems = list(document.problems)
    if isinstance(document.value, dict):
        problems += [problem for override in overrides for problem in command_line.apply(document, override)]
    job, found = validate(document.value, cluster=cluster)
    problems += [locate(problem, document) for problem in found]
    if problems or job is None:
        raise InvalidJob(sorted(problems, key=lambda problem: (problem.line is not None, problem.line)))
    return document, job


def dump_job(job: LLMTrainingJob) -> str:
    """The job as YAML with every default written out; `load_job_text` gives an equal job."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # declared None, documented bool
    yaml.width = 120
    text = StringIO()
    yaml.dump(_plain(job), text)
    return text.getvalue()


def _plain(value: Any) -> Any:
    """Values by their YAML names, without fields that are unset and unset by default."""
    if isinstance(value, SpecModel):
        return {
            info.alias or name: _plain(item)
            for name, info in type(value).model_fields.items()
            if (item := getattr(value, name)) is not None or info.default is not None
        }
    return [_plain(item) for item in value] if isinstance(value, list) else value


def locate(problem: Problem, document: Document) -> Problem:
    """The problem with the file and line, or the --set option, that it comes from."""
    for path in _upwards(problem.path):
        if path in document.overridden:
            return replace(problem, source=document.overridden[path])
    candidates = [problem.path, *problem.about, *_upwards(problem.path)]
    line = next((document.lines[path] for path in candidates if path in document.lines), None)
    return replace(problem, source=document.source, line=line)


def _upwards(path: str) -> Iterator[str]:
    """A written path and those above it: a.b[0], a.b, a, and the empty one of the whole file."""
    while path:
        yield path
        path = path[: max(path.rfind("."), path.rfind("["), 0)]
    yield ""
