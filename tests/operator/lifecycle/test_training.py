"""Phase and conditions say what is true."""

from typing import Any

import pytest
from tests.operator.lifecycle.simulation import NAME, Cluster, failure

from windlass_operator.lifecycle.observed import Waiting

HEAD, WORKER = f"{NAME}-head", f"{NAME}-worker-1"


@pytest.mark.parametrize("pod", [HEAD, WORKER])
@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("Unschedulable", "0/2 nodes are available: 2 Insufficient nvidia.com/gpu."),
        ("ImagePullFailed", 'Back-off pulling image "trainer:nope"'),
        ("ReferenceMissing", 'secret "keys" not found'),
    ],
)
def test_a_pod_that_cannot_start_is_told_of_in_the_clusters_words_until_it_can(
    pod: str, reason: str, words: str
) -> None:
    cluster = Cluster()
    cluster.reconcile()
    cluster.set(pod, waiting=Waiting(reason, words))  # type: ignore[arg-type]
    cluster.reconcile()
    assert cluster.phase == "Starting"
    assert cluster.condition("PodsReady") == cluster.condition("Training") == ("False", reason)
    assert cluster.message("PodsReady") == f"{pod}: {words}"
    assert cluster.events.count(reason) == 1
    assert cluster.wait(3600) == []
    cluster.set(pod, waiting=None)
    cluster.run()
    cluster.say("Running")
    cluster.reconcile()
    assert cluster.phase == "Running"
    assert (cluster.status.attempt, cluster.status.restarts.infrastructure) == (1, 0)


def test_a_replacement_that_finds_no_node_says_so_while_the_job_recovers() -> None:
    cluster = Cluster()
    cluster.train()
    cluster.set(WORKER, node_lost=True)
    cluster.reconcile()
    cluster.set(WORKER, waiting=Waiting("Unschedulable", "0/1 nodes are available"))
    cluster.reconcile()
    assert (cluster.phase, cluster.condition("Training")) == ("Recovering", ("False", "NodeLost"))
    assert cluster.condition("PodsReady") == ("False", "Unschedulable")


def test_a_worker_that_its_head_does_not_hear_is_on_a_lost_node_before_the_control_plane_knows() -> None:
    cluster = Cluster()
    cluster.train()
    cluster.set(WORKER, node="node2")
    cluster.say("Running", lost=frozenset({1}))
    cluster.reconcile()
    assert (cluster.phase, cluster.status.failures) == ("Running", []), "its ranks train, whatever their pod says"
    cluster.say("Recovering", restarts=1, failures=(failure("RankFailed"),), lost=frozenset({1}))
    assert cluster.reconcile() == [], "only the control plane knows that it is dead"
    assert (cluster.phase, cluster.condition("Training")) == ("Recovering", ("False", "NodeLost"))
    assert cluster.message("Training") == f"Pod {WORKER} on node node2 has stopped answering its head."
    cluster.set(WORKER, node_lost=True, ready=False)
    assert cluster.reconcile() != []
    lost = [failure for failure in cluster.status.failures if failure.reason == "NodeLost"]
    assert [(failure.pod, failure.node) for failure in lost] == [(WORKER, "node2")]


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"ready": False}, "RankFailed"), ({"deleting": True}, "Evicted"), ({"phase": "Failed"}, "RankFailed")],
)
def test_a_worker_of_which_a_kubelet_tells_is_on_no_lost_node(change: dict[str, Any], reason: str) -> None:
    cluster = Cluster()
    cluster.train()
    cluster.set(WORKER, **change)
    cluster.say("Recovering", restarts=1, failures=(failure("RankFailed"),), lost=frozenset({1}))
    cluster.reconcile()
    assert (cluster.phase, cluster.condition("Training")) == ("Recovering", ("False", reason))


@pytest.mark.parametrize("ready", [True, False])  # of a node that died, the pod says for long that it is
def test_a_head_is_believed_while_it_answers_whatever_its_pod_says(ready: bool) -> None:
    cluster = Cluster()
    cluster.train()
    cluster.set(HEAD, ready=ready)
    cluster.wait(60)
    assert cluster.phase == "Running"
    cluster.fall_silent()
    cluster.reconcile()
    assert (cluster.phase, cluster.condition("Training")) == ("Recovering", ("False", "HeadLost"))
    assert cluster.status.attempt == 1
    cluster.say("Running", step=20)
    cluster.reconcile()
    assert cluster.phase == "Running"


def test_an_operator_that_starts_believes_a_ready_head_until_it_does_not_answer() -> None:
    cluster = Cluster()
    cluster.train()
    cluster.report = None
    cluster.wait(5)
    assert cluster.phase == "Running"
    cluster.fall_silent()
    cluster.reconcile()
    assert (cluster.phase, cluster.condition("Training")) == ("Recovering", ("False", "HeadLost"))


def test_a_head_that_does_not_know_yet_that_a_worker_was_replaced_is_not_believed() -> None:
    cluster = Cluster()
    cluster.train()
    cluster.wait(120)
    cluster.vanish(WORKER)
    cluster.reconcile()
    cluster.run()
    cluster.say("Running", step=11)
    cluster.reconcile()
    assert cluster.phase == "Recovering"
    cluster.wait(600)
    cluster.say("Running", step=11)
    cluster.reconcile()
    assert cluster.phase == "Recovering"
    cluster.say("Recovering", failures=(failure("RankFailed", rank=1),))
    cluster.reconcile()
    cluster.say("Running", step=11)
    cluster.reconcile()
    assert cluster.phase == "Running"


def test_clocks_that_differ_do_not_keep_a_job_from_running() -> None:
    cluster = Cluster()
    cluster.reconcile()
    cluster.run()
    cluster.now -= cluster.now.resolution * 30_000_000
    cluster.say("Running", step=1)  # by the clock of the head's node, before its workers were created
    cluster.now += cluster.now.resolution * 40_000_000
    cluster.wait(60)
    cluster.say("Running", step=1)
    cluster.reconcile()
    assert cluster.phase == "Running"


def test_a_rank_that_dies_is_told_of_by_the_heads_words() -> None:
    cluster = Cluster()
    cluster.train()
    dead = failure("RankFailed", rank=1, message="Rank 1 was killed by SIGKILL.")
    cluster.say("Recovering", restarts=1, failures=(dead,))
    cluster.reconcile()
    assert (cluster.phase, cluster.condition("Training")) == ("Recovering", ("False", "RankFailed"))
    assert cluster.message("Training") == dead.message
    cluster.say("Running", restarts=1, failures=(dead,))
    cluster.reconcile()
    assert cluster.status.failures == [dead.model_copy(update={"step": 10})]
    assert cluster.events == ["Started", "Running", "RankFailed", "Recovering", "Running"]


def test_the_report_of_another_attempt_is_not_believed() -> None:
    cluster = Cluster()
    cluster.train()
    late = cluster.report
    cluster.end_head(None)
    cluster.reconcile()
    cluster.run()
    cluster.report = late
    cluster.reconcile()
    assert cluster.phase == "Recovering"


def test_a_count_in_a_message_is_not_worth_a_write() -> None:
    cluster = Cluster()
    cluster.reconcile()
    cluster.run()
    cluster.say("Preparing", message="Tokenized 1 of 100 files")
    cluster.reconcile()
    writes = cluster.writes
    cluster.say("Preparing", message="Tokenized 23 of 100 files")
    cluster.reconcile()
    assert cluster.writes == writes


def test_the_time_of_a_transition_stays_while_the_status_of_a_condition_does() -> None:
    cluster = Cluster()
    cluster.reconcile()
    first = next(item for item in cluster.status.conditions if item.type == "PodsReady")
    cluster.wait(30)
    cluster.set(WORKER, waiting=Waiting("Unschedulable", "0/2 nodes are available"))
    cluster.reconcile()
    second = next(item for item in cluster.status.conditions if item.type == "PodsReady")
    assert second.reason == "Unschedulable"
    assert second.last_transition_time == first.last_transition_time
    cluster.run()
    cluster.set(WORKER, waiting=None)
    cluster.reconcile()
    third = next(item for item in cluster.status.conditions if item.type == "PodsReady")
    assert third.last_transition_time > first.last_transition_time


def test_a_start_that_takes_long_names_the_pods_it_waits_for() -> None:
    cluster = Cluster()
    cluster.reconcile()
    cluster.run(HEAD)
    cluster.say("Starting", message="Waiting for 2 workers")
    cluster.reconcile()
    assert cluster.message("PodsReady") == "Waiting for pods."
    cluster.wait(31)
    assert cluster.message("PodsReady") == "Waiting for play-worker-0, play-worker-1."
    assert cluster.message("Training") == "Waiting for 2 workers"
