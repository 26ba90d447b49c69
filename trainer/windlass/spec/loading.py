"""Reading a job file, and writing a job as one."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from windlass.errors import WindlassError
from windlass.spec import overrides as command_line
from windlass.spec.document import Document, parse, parse_all
from windlass.spec.job import RUN, LLMTrainingJob, SpecModel
from windlass.spec.problems import InvalidJob, Problem
from windlass.spec.validation import validate

__all__ = ["InvalidJob", "Problem", "dump_job", "load_job", "load_job_text", "load_stages", "load_stages_text"]


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
    return _load(_read(path), str(path), overrides, cluster=cluster)


def load_stages(path: str | Path, overrides: Sequence[str] = (), *, cluster: bool = False) -> list[LLMTrainingJob]:
    """Read and validate a file of one job, or of several that run one after the other; overrides hold for all of them.

    Raises as `load_job`, with the problems of all jobs, and where two of them have the same name, or one starts from
    the run of a later one.
    """
    return load_stages_text(_read(path), str(path), overrides, cluster=cluster)


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise WindlassError("ConfigInvalid", f"{path}: no such file") from error
    except UnicodeDecodeError as error:
        raise WindlassError("ConfigInvalid", f"{path}: not a text file in UTF-8 ({error.reason})") from error
    except OSError as error:
        raise WindlassError("ConfigInvalid", f"{path}: cannot be read: {error.strerror}") from error


def load_job_text(
    text: str, source: str = "job.yaml", overrides: Sequence[str] = (), *, cluster: bool = False
) -> LLMTrainingJob:
    """The job in a YAML text; `source` is what messages call it. Raises as `load_job`."""
    return _load(text, source, overrides, cluster=cluster)[1]


def load_stages_text(
    text: str, source: str = "job.yaml", overrides: Sequence[str] = (), *, cluster: bool = False
) -> list[LLMTrainingJob]:
    """The jobs in a YAML text of one or several documents. Raises as `load_stages`."""
    jobs: dict[str, LLMTrainingJob] = {}
    problems: list[Problem] = []
    for document in reversed(parse_all(text, source)):  # what comes later in the file is known when a job refers to it
        try:
            job = _validated(document, overrides, cluster=cluster)
        except InvalidJob as error:
            problems = error.problems + problems
            continue
        name, base = job.metadata.name, job.spec.model.from_ or ""
        found = []
        if name in jobs:
            message = f"{name!r} is the name of a later job of this file, too; each has its own run"
            found.append(Problem("metadata.name", message))
        if base.startswith(RUN) and base.removeprefix(RUN).strip("/") in jobs:
            found.append(Problem("spec.model.from", f"{base} comes later in this file; write that job before this one"))
        problems = [locate(problem, document) for problem in found] + problems
        jobs[name] = job
    if problems:
        raise InvalidJob(problems)
    return list(reversed(jobs.values()))


def _load(text: str, source: str, overrides: Sequence[str], *, cluster: bool) -> tuple[Document, LLMTrainingJob]:
    document = parse(text, source)
    return document, _validated(document, overrides, cluster=cluster)


def _validated(document: Document, overrides: Sequence[str], *, cluster: bool) -> LLMTrainingJob:
    """The job of a document, overrides applied to it. Raises InvalidJob with every problem."""
    problems = list(document.problems)
    if isinstance(document.value, dict):
        problems += [problem for override in overrides for problem in command_line.apply(document, override)]
    job, found = validate(document.value, cluster=cluster)
    problems += [locate(problem, document) for problem in found]
    if problems or job is None:
        raise InvalidJob(sorted(problems, key=lambda problem: (problem.line is not None, problem.line)))
    return job


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
