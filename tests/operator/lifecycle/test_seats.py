"""Workers that are lost, replaced, added and taken away."""

import pytest
from tests.operator.lifecycle.simulation import NAME, Cluster

from windlass_operator.lifecycle.decision import CreateHead, CreateWorker, DeletePod

WORKER = f"{NAME}-worker-1"


def test_only_the_seat_that_was_lost_gets_a_new_pod() -> None:
    cluster = Cluster()
    cluster.train()
    cluster.vanish(WORKER)
    assert cluster.reconcile() == [CreateWorker(1)]
    assert (cluster.phase, cluster.condition("Training")) == ("Recovering", ("False", "RankFailed"))
    assert cluster.status.restarts.infrastructure == 0  # the head counts the restart of its ranks


def test_a_worker_on_a_lost_node_is_deleted_by_force_and_created_again() -> None:
    cluster = Cluster()
    cluster.train()
    uid = cluster.pods[WORKER].uid
    cluster.set(WORKER, node_lost=True, ready=False, node="node2")
    assert cluster.reconcile() == [DeletePod(WORKER, uid, force=True), CreateWorker(1)]
    assert (cluster.phase, cluster.condition("Training")) == ("Recovering", ("False", "NodeLost"))
    assert [(item.reason, item.pod, item.node) for item in cluster.status.failures] == [("NodeLost", WORKER, "node2")]


def test_a_worker_that_ends_gracefully_is_waited_for_and_told_of_once() -> None:
    cluster = Cluster()
    cluster.train()
    cluster.delete(WORKER)
    assert cluster.reconcile() == []
    assert cluster.condition("Training") == ("False", "Evicted")
    cluster.vanish(WORKER)
    assert cluster.reconcile() == [CreateWorker(1)]
    assert cluster.condition("Training") == ("False", "Evicted")
    assert [item.reason for item in cluster.status.failures] == ["Evicted"]
    assert cluster.events.count("Evicted") == 1


def test_a_seat_that_is_lost_twice_is_told_of_twice() -> None:
    cluster = Cluster()
    cluster.train()
    for _ in range(2):
        cluster.wait(30)
        cluster.run()
        cluster.set(WORKER, node_lost=True)
        cluster.reconcile()
    assert [item.reason for item in cluster.status.failures] == ["NodeLost", "NodeLost"]


def test_a_worker_that_is_made_in_the_second_of_the_resumption_can_be_lost() -> None:
    cluster = Cluster()
    cluster.train()
    cluster.edit("lifecycle", suspend=True)
    cluster.reconcile()
    cluster.pods.clear()
    cluster.wait(60)
    cluster.edit("lifecycle", suspend=False)
    cluster.reconcile()
    cluster.run()
    cluster.wait(600)
    cluster.set(WORKER, node_lost=True)
    cluster.reconcile()
    assert [item.reason for item in cluster.status.failures] == ["NodeLost"]


def test_a_worker_that_ends_well_keeps_its_seat_until_its_head_has_had_time_to_follow() -> None:
    cluster = Cluster()
    cluster.train()
    cluster.wait(60)
    cluster.set(WORKER, phase="Succeeded", ready=False, exit_code=0, finished=cluster.now)
    assert cluster.wait(19) == []
    assert cluster.phase == "Running"
    assert cluster.wait(2) == [DeletePod(WORKER, "uid-3"), CreateWorker(1)]


def test_pods_that_end_as_fast_as_they_are_made_are_not_made_as_fast_as_they_end() -> None:
    cluster = Cluster()
    cluster.train()
    for _ in range(60):
        if WORKER in cluster.pods:
            cluster.set(WORKER, phase="Failed", ready=False, reason="OutOfcpu")
        cluster.wait(1)
    assert cluster.done.count(CreateWorker(1)) <= 7


def test_a_worker_that_restarts_in_place_is_left_alone_while_the_head_says_that_training_goes_on() -> None:
    cluster = Cluster()
    cluster.train()
    cluster.set(WORKER, ready=False)
    assert cluster.reconcile() == []
    assert (cluster.phase, cluster.condition("PodsReady")) == ("Running", ("False", "NotReady"))
    cluster.say("Recovering")
    cluster.reconcile()
    assert cluster.phase == "Recovering"


@pytest.mark.parametrize(
    ("replicas", "expected"),
    [(4, [CreateWorker(2), CreateWorker(3)]), (1, [DeletePod(WORKER, "uid-3")])],
)
def test_replicas_follow_the_spec(replicas: int, expected: list[object]) -> None:
    cluster = Cluster(workers={"replicas": 2, "minReplicas": 1, "maxReplicas": 4})
    cluster.train()
    cluster.edit("workers", replicas=replicas)
    assert cluster.reconcile() == expected
    assert cluster.status.workers.desired == replicas
    assert not cluster.status.failures


def test_the_highest_seats_are_closed_first() -> None:
    cluster = Cluster(workers={"replicas": 4, "minReplicas": 1})
    cluster.train()
    cluster.edit("workers", replicas=1)
    names = [action.name for action in cluster.reconcile() if isinstance(action, DeletePod)]
    assert names == [f"{NAME}-worker-{index}" for index in (3, 2, 1)]


def test_a_job_that_goes_on_smaller_is_running_and_says_what_it_lacks() -> None:
    cluster = Cluster(workers={"replicas": 2, "minReplicas": 1})
    cluster.train()
    cluster.set(WORKER, node_lost=True)
    cluster.reconcile()
    cluster.now += cluster.now.resolution * 20_000_000
    cluster.say("Running", workers=1, step=20)
    cluster.reconcile()
    assert (cluster.phase, cluster.condition("PodsReady")) == ("Running", ("False", "NotReady"))
    assert (cluster.status.workers.ready, cluster.status.workers.desired) == (1, 2)
    assert cluster.status.columns
    assert cluster.status.columns.workers == "1/2"
    cluster.run()
    cluster.say("Recovering", workers=1, message="growing")
    cluster.reconcile()
    cluster.say("Running", workers=2)
    cluster.reconcile()
    assert (cluster.phase, cluster.condition("PodsReady")) == ("Running", ("True", "Ready"))


def test_workers_are_replaced_while_the_head_waits_for_its_next_attempt() -> None:
    cluster = Cluster()
    cluster.train()
    for _ in range(2):
        cluster.run()
        cluster.reconcile()
        cluster.end_head(None)
        cluster.reconcile()
    cluster.vanish(WORKER)
    assert cluster.reconcile() == [CreateWorker(1)]
    assert not any(action == CreateHead(3, 2) for action in cluster.done)
