"""What a job needs on a cluster only: places that all its pods reach, and pod templates that leave Windlass its own.

Each rule is here twice: in Python for `windlass submit` and `windlass validate --cluster`, with the value and its line,
and in CEL for the API server, whoever applies the job. `windlass run` knows none of them.
"""

import re
from collections.abc import Iterator
from typing import Any

from windlass.spec.job import JobSpec, PodTemplate
from windlass.spec.presets import TOKENIZERS
from windlass.spec.problems import Problem
from windlass.spec.rules import Rule

OWN_LABEL = "windlass.dev/"
_ANYWHERE = re.compile(r"^(?!file:)[a-z][a-z0-9+.-]*://|^/")
_READ_ONLY = re.compile(r"^(https?|python|hf)://")
_RUN = re.compile(r"^run:")
_RUN_REMEDY = (
    "its pods see no folder of yours: give the spec.checkpoints.uri of that run, such as s3://bucket/runs/NAME"
)
_WHERE = "its pods see no folder of yours: give a URI such as {example}, or an absolute path on a volume of theirs"


def cluster_problems(spec: JobSpec) -> Iterator[Problem]:
    """The rules that a job breaks."""
    data = spec.data
    if spec.checkpoints.uri is None:
        yield Problem("spec.checkpoints.uri", f"missing; {_WHERE.format(example='s3://bucket/runs/NAME')}")
    else:
        yield from _written("spec.checkpoints.uri", spec.checkpoints.uri, "s3://bucket/runs/NAME")
    if data.prepare is not None and not data.train:
        yield Problem(
            "spec.data.train",
            "missing; with prepare, say where the corpus goes: [{uri: s3://bucket/corpora/NAME}]",
            about=("spec.data.prepare",),
        )
    for index, corpus in enumerate(data.train):
        check = _written if data.prepare is not None else _seen
        yield from check(f"spec.data.train[{index}].uri", corpus.uri, "s3://bucket/corpora/NAME")
    for index, corpus in enumerate(data.validation):
        yield from _seen(f"spec.data.validation[{index}].uri", corpus.uri, "s3://bucket/corpora/NAME")
    if spec.model.from_ is not None and _RUN.match(spec.model.from_):
        yield Problem("spec.model.from", f"{spec.model.from_!r} is a run on one machine; {_RUN_REMEDY}")
    elif spec.model.from_ is not None:
        yield from _seen("spec.model.from", spec.model.from_, "s3://bucket/models/NAME")
    yield from _raw_data(spec)
    yield from _examples(spec)
    if spec.tokenizer is not None and spec.tokenizer not in TOKENIZERS:
        yield from _seen("spec.tokenizer", spec.tokenizer, "s3://bucket/tokenizer.json")
    yield from _template("spec.head.template", spec.head.template, "head")
    yield from _template("spec.workers.template", spec.workers.template, "worker")


def _raw_data(spec: JobSpec) -> Iterator[Problem]:
    prepare = spec.data.prepare
    against = prepare.decontaminate.against if prepare and prepare.decontaminate else []
    for path, listed in (("sources", prepare.sources if prepare else []), ("decontaminate.against", against)):
        for index, raw in enumerate(listed):
            yield from _seen(f"spec.data.prepare.{path}[{index}].uri", raw.uri, "s3://bucket/raw/*.txt")


def _examples(spec: JobSpec) -> Iterator[Problem]:
    for index, source in enumerate(spec.data.examples.sources if spec.data.examples else []):
        yield from _seen(f"spec.data.examples.sources[{index}].uri", source.uri, "s3://bucket/raw/*.txt")


def _seen(path: str, uri: str, example: str) -> Iterator[Problem]:
    if not _ANYWHERE.match(uri):
        yield Problem(path, f"{uri!r} is a place on one machine; {_WHERE.format(example=example)}")


def _written(path: str, uri: str, example: str) -> Iterator[Problem]:
    yield from _seen(path, uri, example)
    if _READ_ONLY.match(uri):
        yield Problem(path, f"{uri!r} cannot be written to; give a URI such as {example}")


def _template(path: str, template: PodTemplate | None, container: str) -> Iterator[Problem]:
    spec = _mapping((template or {}).get("spec"))
    if "restartPolicy" in spec:
        yield Problem(f"{path}.spec.restartPolicy", _RESTART_POLICY)
    for index, own in enumerate(_items(spec.get("containers"))):
        where = f"{path}.spec.containers[{index}]"
        if "name" not in own:
            yield Problem(f"{where}.name", f"missing; {container} for Windlass's own container, or another for yours")
        elif own["name"] == container:
            given = [field for field in ("command", "args") if field in own]
            yield from (Problem(f"{where}.{field}", _COMMAND.format(container=container)) for field in given)
    labels = _mapping(_mapping((template or {}).get("metadata")).get("labels"))
    if any(label.startswith(OWN_LABEL) for label in labels):
        yield Problem(f"{path}.metadata.labels", _LABELS)


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _items(value: Any) -> list[dict[str, Any]]:
    return [_mapping(item) for item in value] if isinstance(value, list) else []


_RESTART_POLICY = "is Windlass's own; how often what is started again is in spec.lifecycle.restarts"
_COMMAND = "the command of container {container} is Windlass's own; run what comes before it in an init container"
_LABELS = f"labels with {OWN_LABEL} are Windlass's own; choose another prefix"


def cluster_rules() -> dict[str, list[Rule]]:
    """The same in CEL, by the path of the object that holds them; [] is each item of a list."""
    names = list(TOKENIZERS)
    return {
        "spec": [
            Rule(
                f"!has(self.tokenizer) || self.tokenizer in {names} || {_cel('self.tokenizer')}",
                f"tokenizer is a place on one machine; {_WHERE.format(example='s3://bucket/tokenizer.json')}",
                ".tokenizer",
            ),
            # Not on spec.checkpoints, whose default must keep its rules.
            Rule(
                "has(self.checkpoints.uri)",
                f"checkpoints.uri is missing; {_WHERE.format(example='s3://bucket/runs/NAME')}",
                ".checkpoints.uri",
            ),
            Rule(
                f"!has(self.checkpoints.uri) || {_cel('self.checkpoints.uri')}",
                f"checkpoints.uri is a place on one machine; {_WHERE.format(example='s3://bucket/runs/NAME')}",
                ".checkpoints.uri",
            ),
            Rule(
                f"!has(self.checkpoints.uri) || !{_cel_read_only('self.checkpoints.uri')}",
                "checkpoints.uri cannot be written to; give one such as s3://bucket/runs/NAME",
                ".checkpoints.uri",
            ),
        ],
        "spec.model": [
            Rule(
                f"!has(self.from) || {_cel('self.from')} && !self.from.startsWith('run:')",
                f"from is a place on one machine; {_RUN_REMEDY}",
                ".from",
            ),
        ],
        "spec.data": [
            Rule(
                "!has(self.prepare) || self.train.size() == 1",
                "train needs one URI with prepare, where the corpus goes: [{uri: s3://bucket/corpora/NAME}]",
                ".train",
            ),
            Rule(
                f"!has(self.prepare) || self.train.size() != 1 || !{_cel_read_only('self.train[0].uri')}",
                "the corpus cannot be written to train's URI; give one such as s3://bucket/corpora/NAME",
                ".train",
            ),
        ],
        "spec.data.train[]": [_cel_seen("s3://bucket/corpora/NAME")],
        "spec.data.validation[]": [_cel_seen("s3://bucket/corpora/NAME")],
        "spec.data.examples.sources[]": [_cel_seen("s3://bucket/raw/*.txt")],
        "spec.data.prepare.sources[]": [_cel_seen("s3://bucket/raw/*.txt")],
        "spec.data.prepare.decontaminate.against[]": [_cel_seen("s3://bucket/raw/*.txt")],
        "spec.head.template": _cel_template("head"),
        "spec.workers.template": _cel_template("worker"),
    }


def _cel(uri: str) -> str:
    return f"({uri}.startsWith('/') || {uri}.contains('://') && !{uri}.startsWith('file:'))"


def _cel_read_only(uri: str) -> str:
    return f"['http:', 'https:', 'python:', 'hf:'].exists(scheme, {uri}.startsWith(scheme))"


def _cel_seen(example: str) -> Rule:
    return Rule(_cel("self.uri"), f"uri is a place on one machine; {_WHERE.format(example=example)}", ".uri")


def _cel_template(container: str) -> list[Rule]:
    own = f"!has(self.spec) || !has(self.spec.containers) || !self.spec.containers.exists(c, c.name == '{container}'"
    return [
        Rule(
            "!has(self.spec) || !has(self.spec.restartPolicy)",
            f"restartPolicy {_RESTART_POLICY}",
            ".spec.restartPolicy",
        ),
        Rule(f"{own} && (has(c.command) || has(c.args)))", _COMMAND.format(container=container), ".spec.containers"),
        Rule(
            f"!has(self.metadata) || !has(self.metadata.labels) "
            f"|| !self.metadata.labels.exists(label, label.startsWith('{OWN_LABEL}'))",
            _LABELS,
            ".metadata.labels",
        ),
    ]
