"""What is made of pods and nodes: reasons and words as the scheduler, the kubelet and heads really give them."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from windlass_operator.lifecycle.failures import pod_trouble
from windlass_operator.lifecycle.observed import HeadReport
from windlass_operator.observe import (
    is_blind,
    is_creating,
    is_silent,
    observe_pod,
    owned_by,
    still_trains,
    trim_node,
    trim_pod,
)

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


def pod(role: str = "worker", status: dict[str, Any] | None = None, **metadata: Any) -> dict[str, Any]:
    labels = {"windlass.dev/job": "plays", "app.kubernetes.io/component": role, "team": "a"}
    labels |= {"windlass.dev/worker-index": "1"} if role == "worker" else {"windlass.dev/attempt": "3"}
    return {
        "metadata": {
            "name": f"plays-{role}",
            "namespace": "team-a",
            "uid": "u-1",
            "resourceVersion": "7",
            "creationTimestamp": "2026-01-31T12:00:00Z",
            "labels": labels,
            "ownerReferences": [{"uid": "job-uid"}],
            "managedFields": [{}],
            **metadata,
        },
        "spec": {"nodeName": "node1", "containers": [{"name": role, "env": [{"name": "SECRET", "value": "x"}]}]},
        "status": status or {"phase": "Pending"},
    }


def waiting(reason: str, message: str) -> dict[str, Any]:
    state = {"waiting": {"reason": reason, "message": message}}
    return {"phase": "Pending", "containerStatuses": [{"name": "worker", "state": state}]}


def observed(item: dict[str, Any], **options: Any) -> Any:
    return observe_pod(trim_pod(item), **{"node_lost": False, "mount_failures": {}, **options})


def test_a_running_worker_is_seen_with_its_seat_and_node() -> None:
    ready = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    found = observed(pod(status=ready))
    assert (found.role, found.worker, found.phase, found.ready, found.node) == ("worker", 1, "Running", True, "node1")
    assert not found.deleting
    assert observed(pod(status=ready, deletionTimestamp="2026-01-31T12:00:05Z")).deleting


@pytest.mark.parametrize(
    ("status", "reason", "words"),
    [
        (
            {
                "phase": "Pending",
                "conditions": [
                    {
                        "type": "PodScheduled",
                        "status": "False",
                        "reason": "Unschedulable",
                        "message": "0/2 nodes are available: 2 Insufficient nvidia.com/gpu.",
                    }
                ],
            },
            "Unschedulable",
            "0/2 nodes are available: 2 Insufficient nvidia.com/gpu.",
        ),
        (waiting("ErrImagePull", "not found"), "ImagePullFailed", "not found"),
        (waiting("ImagePullBackOff", "Back-off pulling image"), "ImagePullFailed", "Back-off pulling image"),
        (waiting("InvalidImageName", "couldn't parse image"), "ImagePullFailed", "couldn't parse image"),
        (waiting("CreateContainerConfigError", 'secret "a" not found'), "ReferenceMissing", 'secret "a" not found'),
    ],
)
def test_a_pod_that_waits_says_why_in_the_words_it_was_told(status: dict[str, Any], reason: str, words: str) -> None:
    found = observed(pod(status=status))
    assert (found.waiting.reason, found.waiting.message) == (reason, words)


@pytest.mark.parametrize(
    ("cause", "words", "reason"),
    [
        ("PreemptionByScheduler", "default-scheduler: preempting to accommodate a higher priority pod", "Preempted"),
        ("EvictionByEvictionAPI", "Eviction API: evicting", "Evicted"),
        ("DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint", "Evicted"),
    ],
)
def test_why_kubernetes_ends_a_pod_is_told_in_its_words(cause: str, words: str, reason: str) -> None:
    disrupted = {"type": "DisruptionTarget", "status": "True", "reason": cause, "message": words}
    killed = {"name": "worker", "state": {"terminated": {"exitCode": 143, "reason": "Error"}}}
    status = {"phase": "Running", "conditions": [disrupted], "containerStatuses": [killed]}
    trouble = pod_trouble(observed(pod(status=status, deletionTimestamp="2026-01-31T12:00:05Z")))
    assert trouble is not None
    assert trouble[0] == reason
    assert trouble[1].endswith(f" Kubernetes says: {words}")


def test_when_a_pod_s_end_was_asked_for_does_not_change_with_its_grace() -> None:
    asked = datetime(2026, 1, 31, 12, 0, 5, tzinfo=UTC)
    for seconds in (0, 30, 120):
        ends = (asked + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
        deleted: dict[str, Any] = {"deletionTimestamp": ends, "deletionGracePeriodSeconds": seconds}
        assert observed(pod(**deleted)).disrupted == asked
        target = {"type": "DisruptionTarget", "status": "True", "lastTransitionTime": "2026-01-31T12:00:04Z"}
        evicted = pod(status={"phase": "Running", "conditions": [target]}, **deleted)
        assert observed(evicted).disrupted == asked - timedelta(seconds=1)
    assert observed(pod()).disrupted is None


def test_a_missing_volume_is_told_by_the_kubelet_s_event_alone() -> None:
    creating = pod(status=waiting("ContainerCreating", ""))
    assert is_creating(trim_pod(creating))
    assert observed(creating).waiting is None
    found = observed(creating, mount_failures={"u-1": 'configmap "absent" not found'})
    assert (found.waiting.reason, found.waiting.message) == ("ReferenceMissing", 'configmap "absent" not found')


def ended(exit_code: int, message: str | None = None, reason: str = "Error") -> dict[str, Any]:
    terminated = {"exitCode": exit_code, "reason": reason, "finishedAt": "2026-01-31T12:00:05Z"}
    state = {"terminated": terminated | ({"message": message} if message else {})}
    return {"phase": "Failed", "containerStatuses": [{"name": "head", "state": state}]}


def test_a_head_s_last_word_is_its_verdict() -> None:
    word = {
        "status": "Failed",
        "reason": "DataNotFound",
        "message": "There is no s3://raw/plays.txt",
        "restarts": 2,
        "failures": [
            {
                "time": "2026-01-31T12:00:00Z",
                "attempt": 1,
                "kind": "User",
                "reason": "DataNotFound",
                "message": "There is no s3://raw/plays.txt",
            }
        ],
    }
    found = observed(pod("head", ended(2, json.dumps(word))))
    assert (found.attempt, found.exit_code) == (3, 2)
    assert found.finished == datetime(2026, 1, 31, 12, 0, 5, tzinfo=UTC)
    assert (found.verdict.status, found.verdict.reason, found.verdict.restarts) == ("Failed", "DataNotFound", 2)
    assert found.verdict.failures[0].message == "There is no s3://raw/plays.txt"


@pytest.mark.parametrize("message", [None, "", "Killed", '{"status": "Perhaps"}', '{"status": 1}', "[]"])
def test_what_is_no_verdict_is_none(message: str | None) -> None:
    found = observed(pod("head", ended(137, message, "OOMKilled")))
    assert found.verdict is None
    assert (found.exit_code, found.reason) == (137, "OOMKilled")


def test_only_pods_of_this_very_job_are_its_own() -> None:
    assert owned_by(pod(), "job-uid")
    assert not owned_by(pod(), "an earlier job of the same name")


def node(ready: str | None) -> dict[str, Any]:
    conditions = [{"type": "Ready", "status": ready, "message": "m"}] if ready else []
    metadata = {"name": "node1", "uid": "n", "resourceVersion": "1", "labels": {"a": "b"}}
    return {"metadata": metadata, "status": {"conditions": [{"type": "DiskPressure", "status": "False"}, *conditions]}}


@pytest.mark.parametrize(("ready", "silent"), [("True", False), ("False", False), ("Unknown", True), (None, False)])
def test_a_node_is_silent_when_nothing_is_heard_of_it_and_not_when_it_is_ill(ready: str | None, silent: bool) -> None:
    assert is_silent(trim_node(node(ready))) is silent


@pytest.mark.parametrize(
    ("silent", "nodes", "blind"), [(1, 1, False), (2, 2, False), (3, 3, True), (54, 100, False), (55, 100, True)]
)
def test_most_nodes_at_once_are_not_lost_but_out_of_sight(silent: int, nodes: int, blind: bool) -> None:
    assert is_blind(silent, nodes) is blind


@pytest.mark.parametrize(
    ("changes", "trains"),
    [
        ({}, True),
        ({"phase": "Recovering"}, False),
        ({"workers": 1}, False),
        ({"vouched_until": None}, False),
        ({"vouched_until": NOW}, False),
    ],
)
def test_a_step_a_moment_ago_speaks_for_the_nodes_of_all_workers(changes: dict[str, Any], trains: bool) -> None:
    report = HeadReport(1, "Running", "", NOW, NOW, workers=2, vouched_until=NOW + timedelta(seconds=1))
    assert still_trains(replace(report, **changes), 2, NOW) is trains


def test_no_more_is_kept_of_a_pod_than_is_looked_at() -> None:
    kept = trim_pod(pod())
    assert "managedFields" not in kept["metadata"]
    assert "containers" not in kept["spec"]
    assert "team" not in kept["metadata"]["labels"]
