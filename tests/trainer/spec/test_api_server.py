"""The CRD in a real API server: it takes what is right, and refuses what `windlass submit` does, by the same field."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.trainer.jobs import APPLY, STATUS, Jobs, Refused, ask

from windlass.spec.cluster import cluster_rules
from windlass.spec.document import parse, parse_all
from windlass.spec.loading import InvalidJob, dump_job, load_job_text, load_stages_text
from windlass.spec.overrides import apply
from windlass.spec.rules import rules
from windlass.spec.status import JobStatus

ROOT = Path(__file__).parents[3]
SAMPLES = sorted((ROOT / "manifests/samples").glob("*.yaml"))
GOOD = """\
apiVersion: windlass.dev/v1alpha1
kind: LLMTrainingJob
metadata: {name: shakespeare}
spec:
  model: {preset: gpt2-tiny}
  data: {train: [{uri: "s3://corpora/plays"}]}
  training: {maxSteps: 100}
  checkpoints: {uri: "s3://runs/shakespeare"}
  workers: {replicas: 2, maxReplicas: 4}
"""
DRY_RUN = "&dryRun=All"
Program = Callable[[str], Path]
Changed = Callable[..., str]
PREPARE = "data={prepare: {sources: [{uri: 's3://raw/*.txt'}]}, train: [{uri: 's3://corpora/new'}]}"


def overridden(*overrides: str) -> Any:
    """The good job with changes, as plain values: what `kubectl apply` would be given."""
    document = parse(GOOD, "job.yaml")
    for override in overrides:
        assert apply(document, override) == []
    return document.value


@pytest.mark.parametrize("sample", SAMPLES, ids=[path.name for path in SAMPLES])
def test_a_sample_is_accepted_where_it_is_one_for_clusters(sample: Path, jobs: Jobs) -> None:
    documents = [document.value for document in parse_all(sample.read_text(), sample.name)]
    try:
        load_stages_text(sample.read_text(), cluster=True)
    except InvalidJob:
        for document in documents:
            with pytest.raises(Refused, match="its pods see no folder of yours"):
                jobs.create(document, DRY_RUN)
    else:
        for document in documents:
            jobs.create(document, DRY_RUN)


def test_defaults_written_out_and_left_out_come_back_equal(jobs: Jobs) -> None:
    job = load_job_text(GOOD, cluster=True)
    for document in (parse(dump_job(job), "").value, overridden()):
        stored = jobs.create(document, DRY_RUN)
        assert load_job_text(json.dumps(stored | {"metadata": document["metadata"]})) == job


CLASSIFY = ["task=Classify", "model.head.labels=[a, b]", "data={examples: {sources: [{uri: s3://a/b.tsv}]}}"]

MISTAKES = [
    # overrides, the field that is named, and of a rule of ours its words
    (["training.globalBatchSize=0"], "spec.training.globalBatchSize", ""),
    (["training.precision=bf16"], "spec.training.precision", ""),
    (["training.seed=x"], "spec.training.seed", ""),
    (["training.microBatchSize=0"], "spec.training.microBatchSize", "at least 1, or Auto"),
    (["training.microBatchSize=auto"], "spec.training.microBatchSize", "at least 1, or Auto"),
    (["training.optimizer.betas=[0.9]"], "spec.training.optimizer.betas", ""),
    (["training.optimizer.learningRate=0"], "spec.training.optimizer.learningRate", ""),
    (["training.epochs=1"], "spec.training", "give exactly one of maxSteps, maxTokens, epochs"),
    (["training={}"], "spec.training", "give exactly one of maxSteps, maxTokens, epochs"),
    (["training.schedule.warmupSteps=101"], "spec.training.schedule.warmupSteps", "lower it, or train longer"),
    (["training.globalBatchSize=33"], "spec.training.globalBatchSize", "a multiple of workers.replicas"),
    (["training.microBatchSize=32"], "spec.training.globalBatchSize", "a multiple of workers.replicas"),
    (["training.globalBatchSize=10"], "spec.", "a multiple of workers.maxReplicas"),
    (["training.globalBatchSize=4", "workers={replicas: 4, minReplicas: 3}"], "spec.", "workers.minReplicas"),
    (["training.preference={}"], "spec.training.preference", "goes with task Preference only"),
    (["model.preset=gpt2-smal"], "spec.model.preset", ""),
    (["model.from=run://a"], "spec.model", "give exactly one of preset, from, custom"),
    (["model={from: run://a, config: {layers: 2}}"], "spec.model.config", "give preset as well"),
    (["model.custom=build"], "spec.model.custom", ""),
    (["model.config.heads=5"], "spec.model.config.heads", "must divide config.hiddenSize"),
    (["model.config.kvHeads=3"], "spec.model.config.kvHeads", "must divide config.heads"),
    (["model.trainable={scope: LastBlocks, blocks: 5}"], "spec.model.trainable.blocks", "lower it"),
    (["model.trainable={scope: LastBlocks}"], "spec.model.trainable.blocks", "goes with scope LastBlocks"),
    (["model.trainable.scope=Matching"], "spec.model.trainable.patterns", "goes with scope Matching"),
    (["model.lora={quantize: NF4}"], "spec.model.lora.quantize", "quantises the weights of model.from"),
    (
        ["model={from: s3://a/b, lora: {quantize: NF4}}", "training.parallelism.strategy=FSDP"],
        "spec.training.parallelism.strategy",
        "quantised weights are not sharded",
    ),
    (["model.head.labels=[a, b]"], "spec.model.head", "goes with no other task"),
    (["task=Classify"], "spec.model.head", "holds the labels of task Classify"),
    (
        ["task=Classify", "model.head.labels=[a, b]"],
        "spec.data.examples",
        "holds what all tasks but Pretrain learn from",
    ),
    ([*CLASSIFY, "data.examples.sources.0.uri=a.tsv"], "spec.data.examples.sources[0].uri", "such as s3://bucket/raw/"),
    ([*CLASSIFY, "model.head.labels=[a, a]"], "spec.model.head.labels", ""),
    (["tokenizer=gpt-2"], "spec.tokenizer", "none of bytes, gpt2"),
    (["data.sequenceLength=512"], "spec.data.sequenceLength", "lower it, or raise model.config.contextLength"),
    (["data={}"], "spec.data", "give train, or prepare"),
    ([PREPARE, "data.train.1.uri=s3://b/c"], "spec.data.train", "at most one URI with prepare"),
    (["data={train: [{uri: s3://a}], documentMask: true, packing: false}"], "spec.data.documentMask", "packing: true"),
    (["data.train.0.uri="], "spec.data.train", ""),
    (["data.train.0.weight=0"], "spec.data.train[0].weight", ""),
    (["data.template=Alpaca"], "spec.data.template", "goes with tasks Instruct and Preference"),
    (["workers.minReplicas=4"], "spec.workers.minReplicas", "is more than replicas; lower it"),
    (["workers.maxReplicas=1"], "spec.workers.maxReplicas", "is less than replicas; raise it"),
    (["workers.resources.limits.memory=16 GB"], "spec.workers.resources.limits", ""),
    (["lifecycle.restarts.maxBackoffSeconds=5"], "spec.lifecycle.restarts.maxBackoffSeconds", "raise it"),
    (["lifecycle.activeDeadlineSeconds=0"], "spec.lifecycle.activeDeadlineSeconds", ""),
    (["metadata.name=Shakespeare"], "metadata.name", ""),
    (["metadata.name=3b-base"], "metadata.name", ""),
    ([f"metadata.name={'a' * 53}"], "metadata.name", ""),
    # Those that only a cluster has.
    (
        ["checkpoints.uri=null"],
        "spec.checkpoints.uri",
        "is missing; its pods see no folder of yours: give a URI such as",
    ),
    (["checkpoints={}"], "spec.checkpoints.uri", "give a URI such as s3://bucket/runs/NAME"),
    (["checkpoints.uri=runs/a"], "spec.checkpoints.uri", "checkpoints.uri is a place on one machine"),
    (["checkpoints.uri=file:///runs/a"], "spec.checkpoints.uri", "or an absolute path on a volume of theirs"),
    (["checkpoints.uri=https://runs/a"], "spec.checkpoints.uri", "checkpoints.uri cannot be written to; give one"),
    (["data.train.0.uri=corpora/plays"], "spec.data.train[0].uri", "uri is a place on one machine; its pods"),
    (["data.validation.0.uri=../b"], "spec.data.validation[0].uri", "such as s3://bucket/corpora/NAME"),
    ([PREPARE, "data.train=[]"], "spec.data.train", "where the corpus goes: [{uri: s3://bucket/corpora/NAME}]"),
    ([PREPARE, "data.train.0.uri=https://a/b"], "spec.data.train", "the corpus cannot be written to train's URI"),
    ([PREPARE, "data.prepare.sources.0.uri=a.txt"], "spec.data.prepare.sources[0].uri", "such as s3://bucket/raw/"),
    (
        [PREPARE, "data.prepare.decontaminate.against=[{uri: a}]"],
        "spec.data.prepare.decontaminate.against[0].uri",
        "such as s3://bucket/raw/*.txt",
    ),
    (["model={from: 'run://a'}"], "spec.model.from", "from is a place on one machine; its pods see no folder of yours"),
    (["model={from: models/a}"], "spec.model.from", "give the spec.checkpoints.uri of that run"),
    (["tokenizer=./tokenizer.json"], "spec.tokenizer", "tokenizer is a place on one machine"),
    (
        ["workers.template={spec: {restartPolicy: Never}}"],
        "spec.workers.template.spec.restartPolicy",
        "restartPolicy is",
    ),
    (["head.template={spec: {restartPolicy: Never}}"], "spec.head.template.spec.restartPolicy", "lifecycle.restarts"),
    (
        ["workers.template={spec: {containers: [{name: worker, command: [sh]}]}}"],
        "spec.workers.template.spec.containers",
        "the command of container worker is Windlass's own; run what comes before it in an init container",
    ),
    (
        ["head.template={spec: {containers: [{name: head, args: [sh]}]}}"],
        "spec.head.template.spec.containers",
        "the command of container head is Windlass's own",
    ),
    (
        ["head.template={metadata: {labels: {windlass.dev/job: other}}}"],
        "spec.head.template.metadata.labels",
        "labels with windlass.dev/ are Windlass's own; choose another prefix",
    ),
    (
        ["workers.template={spec: {containers: [{command: [sh]}]}}"],
        "spec.workers.template.spec.containers[0].name",
        "",
    ),
]


@pytest.mark.parametrize(("overrides", "field", "words"), MISTAKES, ids=[" ".join(m[0]) for m in MISTAKES])
def test_what_is_wrong_is_refused_here_and_there_by_the_same_field(
    overrides: list[str], field: str, words: str, jobs: Jobs
) -> None:
    with pytest.raises(InvalidJob) as caught:
        load_job_text(GOOD, overrides=overrides, cluster=True)
    holder = field.rpartition(".containers")[0] or field
    assert any(problem.path.startswith(holder) for problem in caught.value.problems), caught.value

    with pytest.raises(Refused) as refused:
        jobs.create(overridden(*overrides), DRY_RUN)
    assert field in str(refused.value)
    assert words in str(refused.value)


def test_every_rule_of_ours_has_a_mistake_that_breaks_it() -> None:
    told = [words for _, _, words in MISTAKES if words]
    ours = [rule for found in (rules(), cluster_rules()) for path, listed in found.items() if path for rule in listed]
    unbroken = [rule.message for rule in ours if not any(words in rule.message for words in told)]
    assert unbroken == []


@pytest.mark.parametrize(
    "overrides",
    [
        ["checkpoints.uri=gs://runs/a"],
        ["checkpoints.uri=abfs://runs/a"],
        ["checkpoints.uri=/mnt/runs/a"],
        ["data.train.0.uri=/mnt/corpora/a", "tokenizer=/mnt/tokenizer.json"],
        ["data.train.0.uri=https://corpora/a"],
        ["model={from: 's3://runs/a'}"],
        CLASSIFY,
        ["model={from: 'hf://org/name'}"],
        [PREPARE, "data.prepare.sources.0.uri=python://stdlib"],
        [
            "workers.template={spec: {nodeSelector: {gpu: h100}, initContainers: [{name: warm, command: [sh]}], "
            "containers: [{name: worker, env: [{name: A, value: b}]}, {name: side, image: a, command: [sh]}]}}"
        ],
    ],
    ids=lambda overrides: overrides[0],
)
def test_what_pods_reach_and_may_hold_is_accepted(overrides: list[str], jobs: Jobs) -> None:
    load_job_text(GOOD, overrides=overrides, cluster=True)
    jobs.create(overridden(*overrides), DRY_RUN)


def test_unknown_fields_are_refused_by_kubectl(jobs: Jobs, program: Program) -> None:
    said = jobs.kubectl(program("hyperkube"), "apply", "--filename", "-", text=GOOD.replace("maxSteps", "maxStep"))
    assert 'unknown field "spec.training.maxStep"' in said


@pytest.fixture
def started(jobs: Jobs) -> Callable[..., str]:
    """A job that has started: a function that says what is said to a change, and nothing where it is accepted."""
    template = "workers.template={spec: {hostname: a}}"
    jobs.create(overridden("metadata.name=started", template, "workers.minReplicas=1"))
    jobs.patch("started", {"spec": {"training": {"maxSteps": 50}}})  # before the start anything may change
    jobs.report("started", attempt=1, phase="Running")

    def change(spec: dict[str, Any], **more: Any) -> str:
        try:
            jobs.patch("started", {"spec": spec} | more)
        except Refused as error:
            return str(error)
        return ""

    return change


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("task", "Instruct"),
        ("model", {"preset": "gpt2-nano"}),
        ("tokenizer", "gpt2"),
        ("data", {"packing": False}),
        ("training", {"maxSteps": 51}),
        ("checkpoints", {"keep": 5}),
        ("evaluation", {"prompts": ["a"]}),
        ("logging", {"everySteps": 5}),
        ("head", {"template": {"spec": {}}}),
    ],
)
def test_once_started_what_is_trained_stays(field: str, value: Any, started: Changed) -> None:
    assert f"spec.{field} cannot change once the job has started; make a new job" in started({field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("maxReplicas", 8),
        ("maxReplicas", None),
        ("minReplicas", 2),
        ("minReplicas", None),
        ("gpusPerWorker", 1),
        ("image", "a"),
        ("resources", {"limits": {"cpu": 1}}),
        ("template", {"spec": {"hostname": "b"}}),
    ],
)
def test_once_started_the_workers_stay_as_they_are(field: str, value: Any, started: Changed) -> None:
    said = started({"workers": {field: value}})
    assert f"spec.workers.{field} cannot change once the job has started; make a new job" in said


def test_once_started_lifecycle_labels_and_replicas_within_bounds_can_change(started: Changed) -> None:
    assert started({"workers": {"replicas": 4}}) == ""
    assert started({"workers": {"replicas": 1}}) == ""
    assert "maxReplicas is less than replicas" in started({"workers": {"replicas": 8}})
    lifecycle = {"suspend": True, "queueName": "a", "activeDeadlineSeconds": 5, "ttlSecondsAfterFinished": 5}
    lifecycle |= {"restarts": {"infrastructure": 1, "user": 1}, "hangTimeoutSeconds": 5, "onNonFiniteLoss": "Skip"}
    assert started({"lifecycle": lifecycle}) == ""
    assert started({}, metadata={"labels": {"team": "b"}, "annotations": {"a": "b"}}) == ""


def test_without_bounds_the_replicas_of_a_started_job_stay(jobs: Jobs) -> None:
    jobs.create(overridden("workers={replicas: 2}"))
    jobs.report("shakespeare", attempt=1)
    with pytest.raises(Refused, match="can change only within minReplicas and maxReplicas"):
        jobs.patch("shakespeare", {"spec": {"workers": {"replicas": 4}}})


def test_a_wrong_status_is_refused(jobs: Jobs) -> None:
    jobs.create(overridden())
    with pytest.raises(Refused, match=r"status\.phase"):
        jobs.report("shakespeare", phase="Dancing")


def test_a_status_with_every_field_comes_back_as_the_operator_wrote_it_and_fills_the_columns(
    jobs: Jobs, program: Program
) -> None:
    assert unset(STATUS) == [], "the example should have every field"
    written = STATUS.model_dump(mode="json", exclude_none=True)
    job = overridden()
    jobs.create(job)
    header = {"apiVersion": job["apiVersion"], "kind": job["kind"], "metadata": job["metadata"]}
    path = f"{jobs.path('shakespeare')}/status?fieldManager=windlass-operator&fieldValidation=Strict"
    ask(jobs.server, "PATCH", path, header | {"status": written}, APPLY)
    stored = jobs.get("shakespeare")["status"]
    assert stored == written
    assert JobStatus.model_validate(stored) == STATUS

    names, values = jobs.kubectl(program("hyperkube"), "get", "llmjobs").splitlines()
    assert names.split() == [
        "NAME",
        "TASK",
        "PHASE",
        "STEP",
        "PROGRESS",
        "LOSS",
        "TOKENS/S",
        "WORKERS",
        "RESTARTS",
        "AGE",
    ]
    assert values.split()[:-1] == ["shakespeare", "Pretrain", "Running", "42", "42%", "3.25", "1.2M", "3/4", "2"]
    names, values = jobs.kubectl(program("hyperkube"), "get", "llmjobs", "--output", "wide").splitlines()
    assert names.split()[-3:] == ["ETA", "MFU", "GOODPUT"]
    assert values.split()[-3:] == ["6s", "41%", "97%"]


def unset(model: Any, path: str = "status") -> list[str]:
    """Fields of a model, and of the models in it, that have no value."""
    found = []
    for name in type(model).model_fields:
        value = getattr(model, name)
        if value is None or value == []:
            found.append(f"{path}.{name}")
        for item in value if isinstance(value, list) else [value]:
            found += unset(item, f"{path}.{name}") if hasattr(type(item), "model_fields") else []
    return found


def test_kubectl_explain_reads_like_the_documentation(jobs: Jobs, program: Program) -> None:
    said = " ".join(jobs.kubectl(program("hyperkube"), "explain", "llmjob.spec.workers").split())
    assert "The processes that train." in said
    assert "The job grows up to this many." in said
