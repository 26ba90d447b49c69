"""From the start to suspension, deadline and on."""

import pytest
from tests.operator.lifecycle.simulation import NAME, Cluster

from windlass_operator.job import Job
from windlass_operator.lifecycle.decision import CreateHead, CreateWorker, DeletePod
from windlass_operator.lifecycle.machine import decide
from windlass_operator.lifecycle.observed import Verdict


def test_a_new_job_gets_all_its_pods_in_one_decision() -> None:
    cluster = Cluster()
    assert cluster.job
    decision = decide(Job(cluster.job), cluster.observed, cluster.now)
    assert decision.actions == (CreateHead(1, 0), CreateWorker(0), CreateWorker(1))
    assert (decision.status.phase, decision.status.attempt) == ("Starting", 1)
    assert decision.status.observed_generation == 1


def test_a_job_that_cannot_run_fails_with_the_words_that_mend_it_and_gets_no_pods() -> None:
    cluster = Cluster(model={"preset": "gpt2-smal"})
    cluster.reconcile()
    assert (cluster.phase, cluster.condition("Failed")) == ("Failed", ("True", "ConfigInvalid"))
    assert "did you mean gpt2-small?" in cluster.message("Failed")
    assert cluster.status.attempt == 0
    assert not cluster.done
    assert cluster.events == ["Failed"]


def test_a_job_that_runs_goes_on_when_a_rule_between_fields_becomes_stricter() -> None:
    cluster = Cluster()
    cluster.reconcile()
    cluster.run()
    cluster.say("Running")
    cluster.edit("training", globalBatchSize=3)  # stands for what was allowed when the job started
    cluster.reconcile()
    assert cluster.phase == "Running"


def test_a_job_goes_from_nothing_to_its_result() -> None:
    cluster = Cluster()
    cluster.reconcile()
    assert cluster.condition("PodsReady") == ("False", "NotReady")
    cluster.run()
    cluster.say("Preparing", message="Making the corpus")
    cluster.reconcile()
    assert (cluster.phase, cluster.condition("Training")) == ("Preparing", ("False", "Preparing"))
    cluster.say("Starting")
    cluster.reconcile()
    assert cluster.phase == "Starting"
    cluster.say("Running", step=10)
    cluster.reconcile()
    assert (cluster.phase, cluster.condition("Training")) == ("Running", ("True", "Running"))
    assert cluster.condition("PodsReady") == ("True", "Ready")
    cluster.end_head(Verdict("Succeeded"), exit_code=0)
    cluster.reconcile()
    assert (cluster.phase, cluster.condition("Complete")) == ("Succeeded", ("True", "Succeeded"))
    assert cluster.events == ["Started", "Preparing", "Running", "Succeeded"]


def test_a_job_that_starts_suspended_waits_without_pods() -> None:
    cluster = Cluster(lifecycle={"suspend": True})
    assert cluster.reconcile() == []
    assert (cluster.phase, cluster.status.attempt) == ("Suspended", 0)
    cluster.edit("lifecycle", suspend=False)
    cluster.reconcile()
    assert (cluster.phase, cluster.status.attempt) == ("Starting", 1)
    assert cluster.status.suspended_seconds == 0  # it had not started


def test_suspension_saves_first_and_releases_the_workers_after() -> None:
    cluster = Cluster()
    cluster.train()
    cluster.edit("lifecycle", suspend=True)
    head = cluster.pods[f"{NAME}-head"]
    assert cluster.reconcile() == [DeletePod(head.name, head.uid)]
    assert (cluster.phase, cluster.message("Training")) == ("Running", "Saving a checkpoint.")
    cluster.end_head(Verdict("Stopped"), exit_code=130)
    cluster.reconcile()
    assert (cluster.phase, cluster.condition("Suspended")) == ("Suspended", ("True", "Suspended"))
    assert all(pod.deleting for pod in cluster.pods.values())
    assert (cluster.status.workers.desired, cluster.status.attempt) == (0, 1)
    assert not cluster.status.failures


def test_a_resumed_job_is_a_new_attempt_and_costs_no_restart() -> None:
    cluster = suspended()
    cluster.wait(3600)
    cluster.edit("lifecycle", suspend=False)
    assert CreateHead(2, 0) in cluster.reconcile()
    assert (cluster.phase, cluster.condition("Suspended")) == ("Starting", ("False", "Resumed"))
    assert cluster.status.restarts.infrastructure == 0
    assert 3600 <= cluster.status.suspended_seconds <= 3601
    assert cluster.events[-2:] == ["Resumed", "Started"]


def test_a_suspension_that_is_taken_back_is_seen_through_and_costs_no_restart() -> None:
    cluster = Cluster()
    cluster.train()
    cluster.edit("lifecycle", suspend=True)
    cluster.reconcile()
    cluster.edit("lifecycle", suspend=False)
    cluster.reconcile()
    cluster.vanish(f"{NAME}-head")
    cluster.reconcile()
    assert (cluster.status.attempt, cluster.status.restarts.infrastructure) == (2, 0)
    for name in [name for name, pod in cluster.pods.items() if pod.deleting]:
        cluster.vanish(name)
    cluster.reconcile()
    cluster.run()
    cluster.say("Running")
    cluster.reconcile()
    assert cluster.phase == "Running"
    assert not cluster.status.failures


def test_a_head_that_ends_well_while_it_is_stopped_has_succeeded() -> None:
    cluster = Cluster()
    cluster.train()
    cluster.edit("lifecycle", suspend=True)
    cluster.reconcile()
    cluster.end_head(Verdict("Succeeded"), exit_code=0)
    cluster.reconcile()
    assert cluster.phase == "Succeeded"


def test_the_deadline_stops_with_a_checkpoint_and_fails_the_job() -> None:
    cluster = Cluster(lifecycle={"activeDeadlineSeconds": 600})
    cluster.train()
    cluster.wait(599)
    assert cluster.phase == "Running"
    assert [type(action) for action in cluster.wait(2)] == [DeletePod]
    assert cluster.message("Training") == "Saving a checkpoint."
    cluster.end_head(Verdict("Stopped"), exit_code=130)
    cluster.reconcile()
    assert cluster.condition("Failed") == ("True", "DeadlineExceeded")


def test_time_suspended_does_not_count_for_the_deadline() -> None:
    cluster = suspended(activeDeadlineSeconds=600)
    cluster.wait(3600)
    assert cluster.phase == "Suspended"
    cluster.edit("lifecycle", suspend=False)
    cluster.reconcile()
    cluster.wait(590)
    assert f"{NAME}-head" in cluster.pods
    cluster.wait(11)
    assert cluster.condition("Failed") == ("True", "DeadlineExceeded")


def test_a_queue_name_is_answered_by_a_condition() -> None:
    cluster = Cluster(lifecycle={"queueName": "team-a"})
    cluster.reconcile()
    assert cluster.condition("QuotaReserved") == ("True", "NotQueued")


@pytest.mark.parametrize("when", ["Starting", "Running", "Suspended", "Succeeded"])
def test_a_second_look_at_the_same_state_changes_nothing(when: str) -> None:
    cluster = suspended() if when == "Suspended" else Cluster()
    if when in ("Running", "Succeeded"):
        cluster.train()
    if when == "Succeeded":
        cluster.end_head(Verdict("Succeeded"), exit_code=0)
    cluster.reconcile()
    assert cluster.phase == when
    writes = cluster.writes
    for _ in range(5):
        cluster.now += cluster.now.resolution * 1_500_000
        assert cluster.reconcile() == []
    assert cluster.writes == writes


def test_an_operator_that_starts_again_writes_nothing_while_it_has_asked_no_head_yet() -> None:
    cluster = Cluster()
    cluster.train()
    writes, cluster.report = cluster.writes, None
    assert cluster.wait(60) == []
    assert (cluster.writes, cluster.phase) == (writes, "Running")


def suspended(**lifecycle: object) -> Cluster:
    """A job that trained, and was suspended."""
    cluster = Cluster(lifecycle=lifecycle)
    cluster.train()
    cluster.edit("lifecycle", suspend=True)
    cluster.reconcile()
    cluster.vanish(f"{NAME}-head")
    cluster.reconcile()
    for name in tuple(cluster.pods):
        cluster.vanish(name)
    cluster.reconcile()
    assert cluster.phase == "Suspended"
    return cluster
