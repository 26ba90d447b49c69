import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass.errors import WindlassError
from windlass.spec.job import Training
from windlass.spec.loading import InvalidJob, dump_job, load_job, load_job_text, load_stages_text
from windlass.spec.validation import validate

GOOD = """\
apiVersion: windlass.dev/v1alpha1
kind: LLMTrainingJob
metadata: {name: shakespeare}
spec:
  model: {preset: gpt2-tiny}
  data:
    train:
      - {uri: corpora/plays}
  training:
    maxSteps: 100
    optimizer: {learningRate: 6e-4}
"""


def refused(text: str, *overrides: str) -> list[str]:
    with pytest.raises(InvalidJob) as caught:
        load_job_text(text, "job.yaml", overrides)
    return str(caught.value).splitlines()


def test_a_good_file_gives_a_job_with_defaults() -> None:
    job = load_job_text(GOOD)
    assert job.spec.training.optimizer.learning_rate == 6e-4
    assert job.spec.training.global_batch_size == 32


def test_yaml_is_read_as_version_1_2() -> None:
    job = load_job_text(GOOD + "  evaluation: {prompts: [yes, off, 2024-01-01]}\n")
    assert job.spec.evaluation.prompts == ["yes", "off", "2024-01-01"]


def test_every_problem_is_reported_at_once_with_its_line() -> None:
    text = """\
apiVersion: windlass.dev/v1
kind: LLMTrainingjob
metadata: {name: Plays_1}
spec:
  maxSteps: 3
  model:
    preset: gpt2-smal
    config: {layers: 6.0, heads: "6", dropout: yes}
  data:
    train:
      - {uri: s3://a}
      - {url: s3://b, weight: 0}
    documentMask: true
    packing: false
  training:
    maxStep: 10
    microBatchSize: auto
    precision: bf16
    optimizer: {learningRate: .nan}
    optimizer: {}
    schedule:
  workers: {resources: {requests: {cpu: true}}}
  evaluation: [a]
"""
    assert [line.partition("; there are")[0] for line in refused(text)] == [
        "job.yaml:1: apiVersion: must be windlass.dev/v1alpha1, got 'windlass.dev/v1'; "
        "did you mean windlass.dev/v1alpha1?",
        "job.yaml:2: kind: must be LLMTrainingJob, got 'LLMTrainingjob'; did you mean LLMTrainingJob?",
        "job.yaml:3: metadata.name: must be text that matches ^[a-z]([-a-z0-9]*[a-z0-9])?$ (Name of the job and of "
        "its run folder: a lower-case letter, then such, digits and dashes, at most 52), got 'Plays_1'",
        "job.yaml:5: spec.maxSteps: unknown field; did you mean spec.training.maxSteps?",
        "job.yaml:7: spec.model.preset: no preset 'gpt2-smal'",
        "job.yaml:8: spec.model.config.layers: must be a whole number, got 6.0; write 6",
        "job.yaml:8: spec.model.config.heads: must be a whole number, got '6'; write it without quotes",
        "job.yaml:8: spec.model.config.dropout: must be a number, got 'yes'",
        "job.yaml:12: spec.data.train[1].weight: must be above 0, got 0",
        "job.yaml:12: spec.data.train[1].url: unknown field; did you mean uri?",
        "job.yaml:13: spec.data.documentMask: needs packing: true",
        "job.yaml:16: spec.training.maxStep: unknown field; did you mean maxSteps?",
        "job.yaml:17: spec.training.microBatchSize: must be a whole number or Auto, got 'auto'; did you mean Auto?",
        "job.yaml:18: spec.training.precision: must be one of Auto, BF16, FP16, FP32, FP8, got 'bf16'; "
        "did you mean BF16?",
        "job.yaml:19: spec.training.optimizer.learningRate: must be a finite number, got nan",
        "job.yaml:20: spec.training.optimizer: given twice; first in line 19",
        "job.yaml:21: spec.training.schedule: must be a mapping, got nothing",
        "job.yaml:22: spec.workers.resources.requests.cpu: must be a whole number or text, got true; "
        "write it in quotes",
        "job.yaml:23: spec.evaluation: must be a mapping, got a list of 1",
    ]


def test_a_rule_between_fields_stands_beside_a_field_error() -> None:
    lines = refused(GOOD.replace("optimizer: {learningRate: 6e-4}", "seed: x\n    schedule: {warmupSteps: 200}"))
    assert len(lines) == 2
    assert lines[0].startswith("job.yaml:11: spec.training.seed: must be a whole number, got 'x'")
    assert lines[1].startswith("job.yaml:12: spec.training.schedule.warmupSteps: 200 is more than maxSteps, 100")


def test_a_rule_about_a_wrong_field_stays_silent() -> None:
    (line,) = refused(GOOD.replace("maxSteps: 100", "maxSteps: many"))
    assert line == "job.yaml:10: spec.training.maxSteps: must be a whole number, got 'many'"
    (line,) = refused(GOOD.replace("maxSteps", "maxStep"))
    assert line == "job.yaml:10: spec.training.maxStep: unknown field; did you mean maxSteps?"
    (line,) = refused(GOOD.replace("{uri: corpora/plays}", "{uri: 5}"))
    assert line == "job.yaml:8: spec.data.train[0].uri: must be text, got 5; write it in quotes"


def stages(*names_and_models: tuple[str, str]) -> str:
    return "---\n".join(
        GOOD.replace("shakespeare", name).replace("{preset: gpt2-tiny}", model) for name, model in names_and_models
    )


def test_a_file_of_several_jobs_is_read_in_its_order_and_changed_as_a_whole() -> None:
    text = stages(("a", "{preset: gpt2-tiny}"), ("b", "{from: run://a}"), ("c", "{from: run://b/}"))
    jobs = load_stages_text(text, overrides=["training.maxSteps=7"])
    assert [job.metadata.name for job in jobs] == ["a", "b", "c"]
    assert [job.spec.training.max_steps for job in jobs] == [7, 7, 7]


def test_the_problems_of_all_jobs_of_a_file_are_said_with_their_lines() -> None:
    tiny = "{preset: gpt2-tiny}"
    text = stages(("a", "{from: run://b}"), ("b", tiny), ("a", tiny), ("c", "{preset: gpt2-tin}"))
    with pytest.raises(InvalidJob) as raised:
        load_stages_text(text)
    first, second, third = str(raised.value).splitlines()
    assert first == "job.yaml:3: metadata.name: 'a' is the name of a later job of this file, too; each has its own run"
    assert second == "job.yaml:5: spec.model.from: run://b comes later in this file; write that job before this one"
    assert third.startswith("job.yaml:41: spec.model.preset: ")


def test_snake_case_is_pythons_spelling_only() -> None:
    (line,) = refused(GOOD.replace("maxSteps", "max_steps"))
    assert line == "job.yaml:10: spec.training.max_steps: unknown field; did you mean maxSteps?"
    assert Training(max_steps=1) == Training.model_validate({"maxSteps": 1})


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "job.yaml: empty; a job has apiVersion, kind, metadata and spec"),
        ("# nothing\n", "job.yaml: empty; a job has apiVersion, kind, metadata and spec"),
        ("---\n", "job.yaml:2: empty; a job is one mapping with apiVersion, kind, metadata and spec"),
        ("- a\n- b\n", "job.yaml:1: a list of 2; a job is one mapping with apiVersion, kind, metadata and spec"),
        ("hello", "job.yaml:1: 'hello'; a job is one mapping with apiVersion, kind, metadata and spec"),
        ("a: 1\n---\nb: 1\n", "job.yaml:3: holds 2 documents; write each job into a file of its own"),
        ("a: b: c", "job.yaml:1:5: not YAML: mapping values are not allowed here"),
        (
            "a:\n\tb: 1",
            "job.yaml:2:1: not YAML: while scanning for the next token, found character '\\t' that cannot start any "
            "token; indent with spaces",
        ),
        ("a: *b", "job.yaml:1:4: not YAML: found undefined alias 'b'"),
        ("a: \x00", "job.yaml: not YAML: character '\\x00' at position 3 is not allowed"),
        ("&a [*a]", "job.yaml: nested too deeply, or refers to itself"),
        ("[" * 500, "job.yaml: nested too deeply, or refers to itself"),
        (
            "apiVersion: apps/v1\nkind: Deployment\nspec: {replicas: 1}",
            "job.yaml:2: kind: this is 'Deployment', and Windlass reads kind: LLMTrainingJob",
        ),
    ],
)
def test_what_is_no_job_at_all_is_told_in_one_line(text: str, line: str) -> None:
    assert refused(text) == [line]


def test_what_yaml_would_drop_is_a_problem() -> None:
    lines = refused(GOOD.replace("{uri: corpora/plays}", "{uri: !include plays, [a]: 1, uri: b}"))
    assert lines[0] == "job.yaml:8: spec.data.train[0].uri: the tag !include is not supported; write the value itself"
    assert lines[1] == "job.yaml:8: spec.data.train[0]: a key must be text"
    assert lines[2] == "job.yaml:8: spec.data.train[0].uri: given twice; first in line 8"


def test_anchors_and_merge_keys_work() -> None:
    text = GOOD + ("  workers: {resources: {requests: &size {cpu: 2}, limits: {<<: *size, memory: 16Gi}}}\n")
    assert load_job_text(text).spec.workers.resources.limits == {"cpu": 2, "memory": "16Gi"}


def test_missing_fields_say_what_they_are() -> None:
    lines = refused(
        "apiVersion: windlass.dev/v1alpha1\nmetadata: {}\nspec: {model: {preset: gpt2-tiny}, training: {epochs: 1}}"
    )
    assert lines == [
        "job.yaml:1: kind: missing; write kind: LLMTrainingJob",
        "job.yaml:2: metadata.name: missing; what it is: Name of the job and of its run folder: a lower-case letter, "
        "then such, digits and dashes, at most 52.",
        "job.yaml:3: spec.data: missing; what it is: What it learns from.",
    ]


def test_overrides_replace_values_of_the_file() -> None:
    job = load_job_text(
        GOOD,
        overrides=[
            "spec.training.maxSteps=null",
            "training.maxTokens=1000000",
            "data.train.0.weight=2",
            "data.train[1].uri=s3://more",
            "training.optimizer={learningRate: 3e-4, betas: [0.9, 0.99]}",
            "evaluation.prompts.0='First: a'",
            "checkpoints.everyMinutes=null",
            "metadata.labels.team=a=b",
            "metadata.name=other",
            "workers.template.spec.nodeSelector.zone=a",
        ],
    )
    assert (job.spec.training.max_steps, job.spec.training.max_tokens) == (None, 1_000_000)
    assert [(corpus.uri, corpus.weight) for corpus in job.spec.data.train] == [("corpora/plays", 2), ("s3://more", 1)]
    assert job.spec.training.optimizer.betas == [0.9, 0.99]
    assert job.spec.evaluation.prompts == ["First: a"]
    assert job.spec.checkpoints.every_minutes is None
    assert job.metadata.labels == {"team": "a=b"}
    assert job.metadata.name == "other"
    assert job.spec.workers.template == {"spec": {"nodeSelector": {"zone": "a"}}}


def test_a_wrong_override_is_named_as_such() -> None:
    assert refused(
        GOOD,
        "training.maxStep=5",
        "trainng.seed=1",
        "data.train.3.uri=x",
        "training.maxSteps",
        "training.seed=[1",
        "training.maxSteps.x=1",
        "workers.replicas=0",
        "workers.replicas.0=1",
    ) == [
        "--set training.maxStep=5: spec.training.maxStep: unknown field; did you mean maxSteps?",
        "--set trainng.seed=1: spec.trainng: unknown field; did you mean training?",
        "--set data.train.3.uri=x: spec.data.train[3]: no item 3; the list has 1, and 1 would add one",
        "--set training.maxSteps: write path=value, such as training.maxSteps=100",
        "--set training.seed=[1: not YAML: while parsing a flow sequence, expected ',' or ']', but got '<stream end>'",
        "--set training.maxSteps.x=1: spec.training.maxSteps.x: unknown field; nothing may stand below this field",
        "--set workers.replicas.0=1: spec.workers.replicas.0: unknown field; nothing may stand below this field",
        "--set workers.replicas=0: spec.workers.replicas: must be at least 1, got 0",
    ]


def test_files_that_cannot_be_read_are_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(WindlassError, match=r"gone\.yaml: no such file"):
        load_job(tmp_path / "gone.yaml")
    with pytest.raises(WindlassError, match="cannot be read: Is a directory"):
        load_job(tmp_path)
    (tmp_path / "latin.yaml").write_bytes("metadata: {name: Müller}".encode("latin-1"))
    with pytest.raises(WindlassError, match=r"latin\.yaml: not a text file in UTF-8"):
        load_job(tmp_path / "latin.yaml")


def test_a_byte_order_mark_and_windows_line_ends_are_fine(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert load_job(file) == load_job_text(GOOD)


def test_a_job_written_out_reads_back_equal() -> None:
    text = (
        GOOD
        + "  checkpoints: {everyMinutes: null}\n  evaluation: {prompts: ['a: b', '', ' x', 1e3x, 'é😀', \"\\t\\n\"]}\n"
    )
    job = load_job_text(text)
    written = dump_job(job)
    assert load_job_text(written) == job
    assert "everyMinutes: null" in written
    assert "globalBatchSize: 32" in written


def test_the_error_survives_pickling() -> None:
    with pytest.raises(InvalidJob) as caught:
        load_job_text("[]")
    error = pickle.loads(pickle.dumps(caught.value))
    assert (str(error), error.problems, error.reason) == (str(caught.value), caught.value.problems, "ConfigInvalid")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8) | st.sampled_from(["uri", "name"]), inner)
    ),
    max_leaves=6,
)


def full_job(*overrides: str) -> dict[str, Any]:
    job = load_job_text(
        GOOD
        + "  tokenizer: bytes\n  logging: {wandb: {project: a}}\n  evaluation: {suites: [{name: a}]}\n"
        + "  workers: {template: {a: 1}, resources: {limits: {cpu: 1}}}\n",
        overrides=["model.lora={}", "training.maxSteps=64", *overrides],
    )
    value: dict[str, Any] = job.model_dump(exclude_none=True)
    return value


FULL_JOBS = [
    full_job("data.prepare.sources.0.uri=x", "evaluation.prompts=[b]"),
    full_job(
        "task=Classify", "model.head.labels=[a, b]", "data={examples: {sources: [{uri: x}]}}", "evaluation.suites=[]"
    ),
]


def places(value: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [above] * bool(above) + [place for key, item in items for place in places(item, (*above, key))]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(FULL_JOBS), st.data())
def test_any_value_anywhere_gives_a_job_or_problems(job_before: dict[str, Any], data: st.DataObject) -> None:
    value = copy.deepcopy(job_before)
    one = st.tuples(st.sampled_from(places(value)), json_values, st.booleans())
    for place, new, beside in data.draw(st.lists(one, min_size=1, max_size=3)):
        holder: Any = value
        for key in place[:-1]:
            holder = holder[key] if isinstance(holder, dict) and key in holder else copy.copy({})
        if isinstance(holder, dict):
            holder["extra" if beside else place[-1]] = new
    job, problems = validate(value)
    assert job is not None or problems
    if not problems:
        assert job is not None
        assert load_job_text(dump_job(job)) == job
