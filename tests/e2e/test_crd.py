"""The CRD in a real API server: it takes every sample, and refuses what `windlass validate` does, by the same field."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from windlass.spec.document import parse
from windlass.spec.loading import InvalidJob, dump_job, load_job_text
from windlass.spec.overrides import apply

ROOT = Path(__file__).parents[2]
CRD = ROOT / "manifests/crd/llmtrainingjobs.windlass.dev.yaml"
SAMPLES = sorted((ROOT / "manifests/samples").glob("*.yaml"))
NAMESPACE = "windlass-crd-test"
GOOD = """\
apiVersion: windlass.dev/v1alpha1
kind: LLMTrainingJob
metadata: {name: shakespeare}
spec:
  model: {preset: gpt2-tiny}
  data: {train: [{uri: corpora/plays}]}
  training: {maxSteps: 100}
  workers: {replicas: 2, maxReplicas: 4}
"""

pytestmark = pytest.mark.skipif(
    not (os.environ.get("KUBECONFIG") and shutil.which("kubectl")),
    reason="needs a Kubernetes cluster: set KUBECONFIG, and have kubectl on the PATH",
)


def kubectl(*arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    command = ["kubectl", "--namespace", NAMESPACE, *arguments]
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=False)


def applied(text: str) -> subprocess.CompletedProcess[str]:
    return kubectl("apply", "--filename", "-", text=text)


@pytest.fixture(scope="module", autouse=True)
def namespace() -> Iterator[None]:
    applied_crd = kubectl("apply", "--server-side", "--force-conflicts", "--filename", str(CRD))
    assert applied_crd.returncode == 0, applied_crd.stderr
    kubectl("wait", "--for=condition=Established", "crd/llmtrainingjobs.windlass.dev", "--timeout=30s")
    kubectl("create", "namespace", NAMESPACE)
    yield
    kubectl("delete", "namespace", NAMESPACE, "--wait=false")


@pytest.mark.parametrize("sample", SAMPLES, ids=[path.name for path in SAMPLES])
def test_every_sample_is_accepted(sample: Path) -> None:
    result = kubectl("apply", "--filename", str(sample))
    assert result.returncode == 0, result.stderr


def test_a_job_with_every_default_written_out_is_accepted_and_comes_back_equal() -> None:
    job = load_job_text(GOOD)
    result = applied(dump_job(job))
    assert result.returncode == 0, result.stderr
    stored = json.loads(kubectl("get", "llmjobs", "shakespeare", "--output", "json").stdout)
    assert (
        load_job_text(
            json.dumps(
                {
                    "apiVersion": stored["apiVersion"],
                    "kind": stored["kind"],
                    "metadata": {"name": "shakespeare"},
                    "spec": stored["spec"],
                }
            )
        )
        == job
    )


@pytest.mark.parametrize(
    ("overrides", "field"),
    [
        (["training.globalBatchSize=0"], "spec.training.globalBatchSize"),
        (["training.precision=bf16"], "spec.training.precision"),
        (["training.seed=x"], "spec.training.seed"),
        (["training.microBatchSize=0"], "spec.training.microBatchSize"),
        (["training.microBatchSize=auto"], "spec.training.microBatchSize"),
        (["training.optimizer.betas=[0.9]"], "spec.training.optimizer.betas"),
        (["training.epochs=1"], "spec.training"),
        (["training={}"], "spec.training"),
        (["training.schedule.warmupSteps=101"], "spec.training.schedule.warmupSteps"),
        (["training.globalBatchSize=33"], "spec.training.globalBatchSize"),
        (["training.microBatchSize=32"], "spec.training.globalBatchSize"),
        (["training.preference={}"], "spec.training.preference"),
        (["model.preset=gpt2-smal"], "spec.model.preset"),
        (["model.from=run://a"], "spec.model"),
        (["model={from: run://a, config: {layers: 2}}"], "spec.model.config"),
        (["model.config.heads=5"], "spec.model.config.heads"),
        (["model.config.kvHeads=3"], "spec.model.config.kvHeads"),
        (["model.trainable={scope: LastBlocks, blocks: 5}"], "spec.model.trainable.blocks"),
        (["model.trainable.scope=Matching"], "spec.model.trainable.patterns"),
        (["model.head.labels=[a, b]"], "spec.model.head"),
        (["task=Classify"], "spec.model.head"),
        (["task=Classify", "model.head.labels=[a, a]"], "spec.model.head.labels"),
        (["tokenizer=gpt-2"], "spec.tokenizer"),
        (["data.sequenceLength=512"], "spec.data.sequenceLength"),
        (["data={}"], "spec.data"),
        (["data.prepare.sources.0.uri=a", "data.train.1.uri=b"], "spec.data.train"),
        (["data={train: [{uri: a}], documentMask: true, packing: false}"], "spec.data.documentMask"),
        (["data.train.0.uri="], "spec.data.train"),
        (["data.template=Alpaca"], "spec.data.template"),
        (["workers.minReplicas=4"], "spec.workers.minReplicas"),
        (["workers.maxReplicas=1"], "spec.workers.maxReplicas"),
        (["workers.resources.limits.memory=16 GB"], "spec.workers.resources.limits"),
        (["lifecycle.restarts.maxBackoffSeconds=5"], "spec.lifecycle.restarts.maxBackoffSeconds"),
        (["metadata.name=Shakespeare"], "metadata.name"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_wrong_is_refused_here_and_there_by_the_same_field(overrides: list[str], field: str) -> None:
    with pytest.raises(InvalidJob) as caught:
        load_job_text(GOOD, overrides=overrides)
    assert any(problem.path.startswith(field) for problem in caught.value.problems), caught.value

    result = applied(json.dumps(overridden(overrides)))
    assert result.returncode != 0
    assert field in result.stderr, result.stderr


def overridden(overrides: list[str]) -> Any:
    """The good job with changes, as plain values: what `kubectl apply` would be given."""
    document = parse(GOOD, "job.yaml")
    for override in overrides:
        assert apply(document, override) == []
    return document.value


def test_unknown_fields_are_refused() -> None:
    result = applied(GOOD.replace("maxSteps", "maxStep"))
    assert result.returncode != 0
    assert 'unknown field "spec.training.maxStep"' in result.stderr


def test_once_started_only_lifecycle_and_replicas_within_bounds_can_change() -> None:
    text = GOOD.replace("shakespeare", "started").replace("replicas: 2", "replicas: 2, template: {spec: {a: 1}}")
    assert applied(text).returncode == 0
    change = {"metadata": {"labels": {"team": "a"}}, "spec": {"training": {"maxSteps": 50}}}
    assert patched(change).returncode == 0, "before the start anything may change"

    status = {"status": {"attempt": 1, "phase": "Running", "progress": {"step": 3}}}
    started = patched(status, "--subresource=status")
    assert started.returncode == 0, started.stderr

    fixed: dict[str, Any] = {
        "task": "Instruct",
        "model": {"preset": "gpt2-nano"},
        "tokenizer": "gpt2",
        "data": {"packing": False},
        "training": {"maxSteps": 51},
        "checkpoints": {"keep": 5},
        "evaluation": {"prompts": ["a"]},
        "logging": {"everySteps": 5},
        "head": {"template": {"spec": {}}},
    }
    for field, new in fixed.items():
        refused = patched({"spec": {field: new}})
        assert f"spec.{field} cannot change once the job has started" in refused.stderr
    for field, new in {"maxReplicas": 8, "minReplicas": 1, "image": "a", "template": {"spec": {"a": 2}}}.items():
        refused = patched({"spec": {"workers": {field: new}}})
        assert f"spec.workers.{field} cannot change once the job has started" in refused.stderr
    assert "maxReplicas is less than replicas" in patched({"spec": {"workers": {"replicas": 8}}}).stderr

    assert patched({"spec": {"workers": {"replicas": 4}}}).returncode == 0
    assert patched({"spec": {"lifecycle": {"suspend": True}}}).returncode == 0
    assert patched({"metadata": {"labels": {"team": "b"}}}).returncode == 0


def patched(change: dict[str, Any], *arguments: str) -> subprocess.CompletedProcess[str]:
    return kubectl("patch", "llmjob", "started", "--type=merge", f"--patch={json.dumps(change)}", *arguments)


def test_a_wrong_status_is_refused() -> None:
    assert applied(GOOD).returncode == 0
    change = json.dumps({"status": {"phase": "Dancing"}})
    result = kubectl("patch", "llmjob", "shakespeare", "--type=merge", f"--patch={change}", "--subresource=status")
    assert result.returncode != 0
    assert "status.phase" in result.stderr


def test_kubectl_get_prints_the_columns() -> None:
    assert applied(GOOD).returncode == 0
    header, *_ = kubectl("get", "llmjobs", "--output", "wide").stdout.splitlines()
    assert header.split() == [
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
        "ETA",
        "MFU",
        "GOODPUT",
    ]
