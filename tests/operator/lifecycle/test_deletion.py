"""Deletion in every phase, with storage and without."""

from typing import Any

import pytest
from tests.operator.lifecycle.simulation import NAME, Cluster

from windlass_operator.lifecycle.decision import CreateCleanup, DeletePod, SetFinalizer
from windlass_operator.lifecycle.observed import Verdict

CLEANUP = f"{NAME}-cleanup"


def with_storage(**spec: Any) -> Cluster:
    return Cluster(checkpoints={"uri": "s3://runs/play", "onDelete": "Delete"}, **spec)


def test_the_finalizer_is_there_before_the_first_pod() -> None:
    cluster = with_storage()
    done = cluster.reconcile()
    assert done[0] == SetFinalizer(True)
    assert cluster.job
    assert cluster.job["metadata"]["finalizers"]
    assert len(cluster.pods) == 3


def test_a_job_that_keeps_its_storage_is_left_to_garbage_collection() -> None:
    cluster = Cluster()
    cluster.train()
    cluster.update(metadata={"finalizers": ["foregroundDeletion"]})
    cluster.delete_job()
    assert cluster.wait(600) == []
    assert cluster.message("Training") == "Saving a checkpoint."
    cluster.pods.clear()
    cluster.reconcile()
    assert (cluster.phase, cluster.condition("Training")) == ("Suspended", ("False", "Deleting"))


@pytest.mark.parametrize("phase", ["Starting", "Running", "Recovering", "Suspended", "Succeeded", "Failed"])
def test_storage_is_deleted_after_the_pods_that_write_to_it(phase: str) -> None:
    cluster = in_phase(phase)
    cluster.delete_job()
    cluster.reconcile()
    if f"{NAME}-head" in cluster.pods and not cluster.pods[f"{NAME}-head"].ended:
        assert CLEANUP not in cluster.pods
        assert not any(pod.deleting for pod in cluster.pods.values() if pod.role == "worker")
        cluster.vanish(f"{NAME}-head")
        cluster.reconcile()
    for name in [name for name, pod in cluster.pods.items() if pod.deleting]:
        assert CLEANUP not in cluster.pods
        cluster.vanish(name)
    cluster.reconcile()
    assert cluster.done.count(CreateCleanup()) == 1
    cluster.run(CLEANUP)
    cluster.reconcile()
    assert cluster.job is not None
    cluster.set(CLEANUP, phase="Succeeded", exit_code=0)
    cluster.reconcile()
    assert cluster.job is None


def test_a_job_that_never_started_has_no_storage_to_delete() -> None:
    cluster = with_storage(lifecycle={"suspend": True})
    cluster.reconcile()
    cluster.update(metadata={"finalizers": ["windlass.dev/storage"]})
    cluster.delete_job()
    assert cluster.reconcile() == [SetFinalizer(False)]


def test_a_cleanup_that_fails_is_tried_three_times_and_then_the_job_goes_with_a_warning() -> None:
    cluster = deleted()
    for attempt in range(1, 4):
        assert cluster.done.count(CreateCleanup()) == attempt
        cluster.wait(5)
        cluster.set(CLEANUP, phase="Failed", exit_code=3, verdict=Verdict("Failed", message="403 Forbidden"))
        cluster.reconcile()
        if attempt < 3:
            assert len(cluster.status.failures) == attempt
            cluster.wait(11)
    assert cluster.job is None
    assert cluster.events[-1] == "StorageKept"


def test_a_cleanup_that_does_not_start_is_not_waited_for_for_ever() -> None:
    cluster = deleted()
    cluster.wait(3600)
    assert cluster.job is None
    assert cluster.done.count(CreateCleanup()) == 3


def test_a_cleanup_on_a_lost_node_is_tried_again() -> None:
    cluster = deleted()
    cluster.run(CLEANUP)
    cluster.wait(5)
    uid = cluster.pods[CLEANUP].uid
    cluster.set(CLEANUP, node_lost=True)
    assert DeletePod(CLEANUP, uid, force=True) in cluster.reconcile()
    cluster.wait(11)
    assert cluster.done.count(CreateCleanup()) == 2


def test_a_namespace_that_is_being_deleted_is_not_held_for_ever() -> None:
    cluster = deleted()
    cluster.pods.clear()
    cluster.refuses = "the namespace is being terminated"
    for _ in range(70):
        cluster.wait(10)
        if cluster.job is None:
            break
    assert cluster.job is None
    assert cluster.events[-1] == "StorageKept"


def test_storage_is_deleted_however_long_the_pods_took_to_go() -> None:
    cluster = in_phase("Running")
    cluster.refuses = "a quota"
    cluster.vanish(f"{NAME}-worker-1")
    cluster.reconcile()  # refused, which says nothing of the cleanup
    cluster.refuses = ""
    cluster.delete_job()
    cluster.wait(3600)
    assert CreateCleanup() not in cluster.done
    for name in list(cluster.pods):
        cluster.vanish(name)
    cluster.reconcile()
    assert cluster.done.count(CreateCleanup()) == 1
    cluster.run(CLEANUP)
    cluster.set(CLEANUP, phase="Succeeded", exit_code=0)
    cluster.reconcile()
    assert cluster.job is None
    assert "StorageKept" not in cluster.events


def in_phase(phase: str) -> Cluster:
    cluster = with_storage()
    if phase == "Starting":
        cluster.reconcile()
        return cluster
    cluster.train()
    if phase == "Recovering":
        cluster.vanish(f"{NAME}-worker-0")
    elif phase == "Suspended":
        cluster.edit("lifecycle", suspend=True)
        cluster.reconcile()
        cluster.vanish(f"{NAME}-head")
    elif phase in ("Succeeded", "Failed"):
        cluster.end_head(Verdict(phase, "UserError"))  # type: ignore[arg-type]
    cluster.reconcile()
    assert cluster.phase == phase
    return cluster


def deleted() -> Cluster:
    """A job that is deleted, and has nothing left but its cleanup."""
    cluster = in_phase("Running")
    cluster.delete_job()
    cluster.reconcile()
    cluster.vanish(f"{NAME}-head")
    cluster.reconcile()
    for index in (0, 1):
        cluster.vanish(f"{NAME}-worker-{index}")
    cluster.reconcile()
    assert CLEANUP in cluster.pods
    return cluster
