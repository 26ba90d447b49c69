from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from tests.trainer.jobs import STATUS, Jobs, ask
from typer.testing import Result

from windlass.cli.cluster.status import job_lines, waits_for

Windlass = Callable[..., Result]
NOW = datetime(2026, 1, 31, 12, 0, 30, tzinfo=UTC)
HEADER = ["NAME", "TASK", "PHASE", "STEP", "PROGRESS", "LOSS", "TOKENS/S", "WORKERS", "RESTARTS", "AGE"]


def job(**status: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "plays", "namespace": "ml", "generation": 3, "creationTimestamp": "2026-01-31T10:00:00Z"},
        "spec": {
            "task": "Pretrain",
            "model": {"preset": "gpt2-tiny"},
            "lifecycle": {"restarts": {"infrastructure": 20, "user": 1}},
        },
        "status": status,
    }


def pod(name: str, **status: Any) -> dict[str, Any]:
    metadata = {"name": name, "creationTimestamp": "2026-01-31T12:00:00Z", "labels": {}}
    return {"metadata": metadata, "spec": {"nodeName": "node1"}, "status": {"phase": "Running"} | status}


def test_the_table_has_the_columns_of_kubectl(windlass: Windlass, jobs: Jobs) -> None:
    assert windlass("status").stdout == f"No jobs in namespace {jobs.namespace}.\n"
    windlass("submit", "job.yaml", "--no-watch")
    jobs.report("plays", **STATUS.model_dump(mode="json", exclude_none=True))
    header, row = windlass("status").stdout.splitlines()
    assert header.split() == HEADER
    assert row.split()[:-1] == ["plays", "Pretrain", "Running", "42", "42%", "3.25", "1.2M", "3/4", "2"]
    assert windlass("status", "--wide").stdout.splitlines()[0].split() == [*HEADER, "ETA", "MFU", "GOODPUT"]
    header, *rows = windlass("status", "--all-namespaces").stdout.splitlines()
    assert header.split() == ["NAMESPACE", *HEADER]
    assert [jobs.namespace, "plays"] in [row.split()[:2] for row in rows]


def test_one_job_is_shown_with_all_that_is_known_of_it(windlass: Windlass, jobs: Jobs) -> None:
    windlass("submit", "job.yaml", "--no-watch")
    jobs.report("plays", **STATUS.model_dump(mode="json", exclude_none=True))
    labels = {"windlass.dev/job": "plays", "app.kubernetes.io/component": "head"}
    head = {
        "metadata": {"name": "plays-head", "labels": labels},
        "spec": {"containers": [{"name": "head", "image": "a"}]},
    }
    ask(jobs.server, "POST", f"/api/v1/namespaces/{jobs.namespace}/pods", head)
    shown = windlass("status", "plays").stdout
    for part in ("plays  Running", "42/100, 6s left", "Unschedulable", "plays-head", "RankFailed", "| step 42"):
        assert part in shown, shown


def test_facts_are_said_in_the_units_of_people() -> None:
    written = STATUS.model_dump(mode="json", exclude_none=True)
    assert list(
        job_lines(job(**written), [pod("plays-head", conditions=[{"type": "Ready", "status": "True"}])], NOW)
    ) == [
        "plays  Running",
        "  Unschedulable: 0/2 nodes are available",
        "  What to do: Ask for less or add nodes.",
        "  namespace    ml",
        "  task         Pretrain gpt2-tiny",
        "  age          2h00m",
        "  attempt      2",
        "  step         42/100, 6s left",
        "  loss         3.2500, validation 3.5000",
        "  speed        1.2M tokens/s, MFU 41%",
        "  workers      3 of 4 ready",
        "  checkpoint   step 40, 30s ago, s3://runs/shakespeare/step-40",
        "  restarts     infrastructure 1 of 20, user 1 of 1",
        "  goodput      97% of 1m40s",
        "  model        s3://runs/shakespeare/export",
        "",
        "Conditions",
        "  TYPE       STATUS  REASON         SINCE    MESSAGE",
        "  PodsReady  False   Unschedulable  30s ago  0/2 nodes are available",
        "",
        "Pods",
        "  NAME        PHASE    READY  RESTARTS  NODE   AGE  WAITS FOR",
        "  plays-head  Running  yes    0         node1  30s",
        "",
        "Failures",
        "  1m30s ago, attempt 1: RankFailed on shakespeare-worker-1 (node2, rank 1, exit code -9): killed by signal 9",
        "    | step 41",
        "    | step 42",
    ]


def test_a_job_that_no_operator_has_seen_says_so() -> None:
    assert next(job_lines(job(), [], NOW)) == "plays  not seen by an operator yet"


def test_a_pod_says_what_it_waits_for_in_the_words_of_scheduler_and_kubelet() -> None:
    unscheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no GPU"}
    assert waits_for(pod("a", conditions=[unscheduled])) == "Unschedulable: no GPU"
    pulling = {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}
    assert waits_for(pod("a", containerStatuses=[{"state": pulling}])) == "ImagePullBackOff: not found"
    creating = {"waiting": {"reason": "ContainerCreating"}}
    assert waits_for(pod("a", containerStatuses=[{"state": creating}])) == ""
    killed = {"terminated": {"reason": "OOMKilled", "exitCode": 137}}
    assert waits_for(pod("a", containerStatuses=[{"state": killed}])) == "OOMKilled"
    completed = {"terminated": {"reason": "Completed", "exitCode": 0}}
    assert waits_for(pod("a", containerStatuses=[{"state": completed}])) == ""
