"""Machines that are lost: a job goes on smaller and grows back, or elsewhere, and says what happened meanwhile."""

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
from tests.e2e.cluster import SCRIPT, Cluster, kubectl, now, small_job, wait_for
from tests.e2e.test_recovery import recovered

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(not SCRIPT, reason="needs nodes that can be killed: set WINDLASS_TEST_CLUSTER"),
]
APART = {
    "podAntiAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": [
            {
                "topologyKey": "kubernetes.io/hostname",
                "labelSelector": {
                    "matchLabels": {
                        "app.kubernetes.io/instance": "elastic",
                        "app.kubernetes.io/component": "worker",
                    }
                },
            }
        ]
    }
}


@pytest.fixture
def nodes(cluster: Cluster) -> Iterator[None]:
    """Whatever happens, both nodes are there afterwards, and no job of these tests."""
    yield
    kubectl("delete", "llmjobs", "elastic", "moved", "--ignore-not-found", "--wait=false")
    cluster.script("start", "node2")
    kubectl("wait", "--for=condition=Ready", "node/node2", "--timeout=90s")


def on_node(job: dict[str, Any], role: str, node: str) -> None:
    job["spec"][role]["template"]["spec"]["nodeSelector"] = {"kubernetes.io/hostname": node}


def _silent_after(moment: datetime) -> float:
    """Seconds from `moment` until node2's condition Ready became Unknown, which may be yet to come."""
    ready = '{.status.conditions[?(@.type=="Ready")]}'

    def unknown() -> dict[str, str] | None:
        condition: dict[str, str] = json.loads(kubectl("get", "node", "node2", "-o", f"jsonpath={ready}"))
        return condition if condition["status"] == "Unknown" else None

    condition = wait_for("Kubernetes notices", unknown, 60)
    return (datetime.fromisoformat(condition["lastTransitionTime"]) - moment).total_seconds()


def test_a_job_goes_on_smaller_without_a_node_and_grows_back(cluster: Cluster, nodes: None) -> None:
    job = small_job(cluster, "elastic", maxSteps=100000, globalBatchSize=64, microBatchSize=16)
    job["spec"]["workers"]["minReplicas"] = 1
    job["spec"]["workers"]["template"]["spec"]["affinity"] = APART
    on_node(job, "head", "node1")
    cluster.apply(job)
    cluster.wait_for_phase("elastic", "Running")
    wait_for("the first checkpoint", lambda: cluster.status("elastic").get("checkpoint"))  # to go on from
    moment = now()
    cluster.script("kill", "node2")
    wait_for(
        "the status says NodeLost",
        lambda: any(failure["reason"] == "NodeLost" for failure in cluster.status("elastic").get("failures", [])),
        40,
    )
    said, noticed = (now() - moment).total_seconds(), _silent_after(moment)
    print(f"a node is lost: the status says NodeLost after {said:.1f} s; Kubernetes noticed after {noticed:.0f} s")
    recovered(cluster, "elastic", "a node is lost, the job goes on smaller", moment)
    assert cluster.status("elastic")["workers"] == {"desired": 2, "ready": 1}

    moment = now()
    cluster.script("start", "node2")
    recovered(cluster, "elastic", "the node is back, the job grows", moment)
    wait_for("both workers are ready", lambda: cluster.status("elastic")["workers"]["ready"] == 2)
    steps = [step for _, step in cluster.steps("elastic")]
    assert steps == list(range(1, len(steps) + 1)), "each step once"


def test_a_job_whose_head_was_on_a_lost_node_goes_on_elsewhere(cluster: Cluster, nodes: None) -> None:
    job = small_job(cluster, "moved", maxSteps=100000)
    on_node(job, "workers", "node1")
    preference = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["node2"]}]}
    job["spec"]["head"]["template"]["spec"]["affinity"] = {
        "nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "preference": preference}]}
    }
    cluster.apply(job)
    cluster.wait_for_phase("moved", "Running")
    wait_for("the first checkpoint", lambda: cluster.status("moved").get("checkpoint"))  # to go on from
    moment = now()
    cluster.script("kill", "node2")
    wait_for("the status does not say Running", lambda: cluster.status("moved")["phase"] != "Running", 30)
    print(f"the head's node is lost: not Running after {(now() - moment).total_seconds():.1f} s")
    recovered(cluster, "moved", "the head's node is lost", moment)
    head = cluster.pod("moved-head")
    assert head is not None
    assert head["spec"]["nodeName"] == "node1"
    assert cluster.status("moved")["attempt"] == 2
