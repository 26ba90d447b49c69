"""Heads that end: which are followed by another attempt, when, and at whose expense."""

from datetime import timedelta
from typing import Any

import pytest
from tests.operator.lifecycle.simulation import NAME, Cluster, checkpoint, failure

from windlass.spec.job import Restarts
from windlass_operator.job import Job
from windlass_operator.lifecycle.attempts import UNSEEN, backoff
from windlass_operator.lifecycle.decision import CreateHead, DeletePod
from windlass_operator.lifecycle.machine import decide
from windlass_operator.lifecycle.observed import Verdict

HEAD = f"{NAME}-head"


@pytest.mark.parametrize(
    ("story", "end", "reason"),
    [
        ("killed", {"verdict": None, "exit_code": 137}, "HeadLost"),
        ("storage away", {"verdict": Verdict("Failed", "StorageUnavailable", "no answer")}, "StorageUnavailable"),
        ("told to stop by an eviction", {"verdict": Verdict("Stopped"), "exit_code": 130}, "Evicted"),
        ("node out of memory", {"verdict": None, "reason": "Evicted", "message": "low on memory"}, "Evicted"),
        ("preempted", {"verdict": None, "reason": "Preempting"}, "Preempted"),
    ],
)
def test_a_head_that_is_lost_to_its_machine_is_followed_by_another(story: str, end: Any, reason: str) -> None:
    cluster = Cluster()
    cluster.train()
    workers = {name: pod.uid for name, pod in cluster.pods.items() if pod.role == "worker"}
    cluster.end_head(**end)
    done = cluster.reconcile()
    assert CreateHead(attempt=2, restarts=1) in done
    assert (cluster.phase, cluster.condition("Training")) == ("Recovering", ("False", reason))
    assert [item.reason for item in cluster.status.failures] == [reason]
    assert cluster.status.restarts.infrastructure == 1
    assert workers.items() <= {name: pod.uid for name, pod in cluster.pods.items()}.items()


def test_a_head_on_a_lost_node_is_deleted_by_force_and_told_of_at_once() -> None:
    cluster = Cluster()
    cluster.train()
    head = cluster.pods[HEAD]
    cluster.set(HEAD, node_lost=True, ready=False)
    done = cluster.reconcile()
    assert done[0] == DeletePod(HEAD, head.uid, force=True)
    assert CreateHead(2, 1) in done
    assert [item.reason for item in cluster.status.failures] == ["NodeLost"]
    assert cluster.status.failures[0].node == "node1"
    assert cluster.events[2:4] == ["NodeLost", "Recovering"]


def test_a_head_that_is_being_evicted_no_longer_runs_and_counts_once() -> None:
    cluster = Cluster()
    cluster.train()
    cluster.delete(HEAD)
    cluster.reconcile()
    assert (cluster.phase, cluster.condition("Training")) == ("Recovering", ("False", "Evicted"))
    assert cluster.status.attempt == 1
    cluster.vanish(HEAD)
    cluster.reconcile()
    assert (cluster.status.attempt, cluster.status.restarts.infrastructure) == (2, 1)
    assert [item.reason for item in cluster.status.failures] == ["Evicted"]


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        ({"verdict": Verdict("Failed", "DataNotFound", "s3://corpora/shakespeare is not there")}, "DataNotFound"),
        ({"verdict": Verdict("Failed", "Nonsense", "who knows")}, "UserError"),
        ({"verdict": None, "exit_code": 137, "reason": "OOMKilled"}, "OutOfMemory"),
    ],
)
def test_the_users_own_failure_is_not_tried_again(end: Any, reason: str) -> None:
    cluster = Cluster()
    cluster.train()
    cluster.end_head(**end)
    assert cluster.reconcile() == []
    assert (cluster.phase, cluster.condition("Failed")) == ("Failed", ("True", reason))
    assert cluster.status.restarts.user == 0
    assert cluster.events[-2:] == [reason, "Failed"]


def test_the_users_own_budget_is_used_when_there_is_one() -> None:
    cluster = Cluster(lifecycle={"restarts": {"user": 1}})
    cluster.train()
    cluster.end_head(Verdict("Failed", "UserError", "KeyError: 'x'"))
    cluster.reconcile()
    assert (cluster.status.attempt, cluster.status.restarts.user) == (2, 1)
    cluster.run()
    cluster.end_head(Verdict("Failed", "UserError", "KeyError: 'x'"))
    cluster.reconcile()
    assert cluster.condition("Failed") == ("True", "UserError")
    assert "KeyError" in cluster.message("Failed")


def test_the_end_of_the_budget_names_the_last_failure() -> None:
    cluster = Cluster(lifecycle={"restarts": {"infrastructure": 1}})
    cluster.train()
    for _ in range(2):
        cluster.end_head(None, exit_code=139)
        cluster.reconcile()
        if cluster.phase != "Failed":
            cluster.run()
            cluster.reconcile()
    assert cluster.condition("Failed") == ("True", "RestartsExhausted")
    assert "HeadLost: Pod play-head ended with exit code 139" in cluster.message("Failed")
    assert cluster.status.restarts.infrastructure == 1


def test_a_budget_that_was_raised_counts_for_a_head_that_was_born_with_less() -> None:
    cluster = Cluster(lifecycle={"restarts": {"infrastructure": 2}})
    cluster.train()
    cluster.edit("lifecycle", restarts={"infrastructure": 5})
    exhausted = failure("RestartsExhausted", message="Restarted 2 times")
    cluster.end_head(Verdict("Failed", "RestartsExhausted", "Restarted 2 times", restarts=2, failures=(exhausted,)))
    assert CreateHead(attempt=2, restarts=3) in cluster.reconcile()
    assert cluster.status.restarts.infrastructure == 3


def test_restarts_within_an_attempt_and_between_attempts_share_a_budget() -> None:
    cluster = Cluster()
    cluster.train()
    cluster.say("Running", restarts=2, failures=(failure("RankFailed", rank=1),))
    cluster.reconcile()
    assert cluster.status.restarts.infrastructure == 2
    cluster.end_head(Verdict("Failed", "HeadLost", "the driver died", restarts=3))
    assert CreateHead(attempt=2, restarts=4) in cluster.reconcile()
    cluster.run()
    cluster.say("Running", restarts=1)
    cluster.reconcile()
    assert cluster.status.restarts.infrastructure == 5


def test_attempts_without_progress_wait_longer_each_time_and_keep_the_logs_meanwhile() -> None:
    cluster = Cluster()
    cluster.train(step=10)
    waits = []
    for _ in range(4):
        cluster.run()
        cluster.reconcile()
        cluster.end_head(None)
        ended, attempt = cluster.now, cluster.status.attempt
        cluster.reconcile()
        assert cluster.status.attempt == attempt + 1
        while not any(action == CreateHead(attempt + 1, attempt) for action in cluster.done):
            assert HEAD in cluster.pods
            cluster.wait(1)
        waits.append((cluster.now - ended) // timedelta(seconds=1))
    assert waits == [0, 10, 20, 40]


def test_backoff_forgets_when_training_went_further_and_has_a_limit() -> None:
    budget = Restarts(backoff_seconds=10, max_backoff_seconds=25)
    stuck = [failure("HeadLost", attempt=attempt, step=100) for attempt in range(1, 6)]
    assert [backoff(budget, stuck[:count]) for count in range(1, 6)] == [0, 10, 20, 25, 25]
    assert backoff(budget, [*stuck, failure("HeadLost", attempt=6, step=101)]) == 0


def refused() -> Cluster:
    """A job whose first attempt is on record, and has no head."""
    cluster = Cluster()
    assert cluster.job
    seen = Job(cluster.job)
    cluster.carry_out(decide(seen, cluster.observed, cluster.now), seen, writes=1)
    assert (cluster.status.attempt, cluster.pods) == (1, {})
    return cluster


def test_a_head_that_could_not_be_created_is_created_again_under_the_same_number() -> None:
    assert CreateHead(1, 0) in refused().reconcile()


def test_a_head_that_may_have_run_unseen_is_never_followed_by_one_of_the_same_number() -> None:
    cluster = refused()
    cluster.now += UNSEEN + timedelta(seconds=1)
    assert CreateHead(2, 0) in cluster.reconcile()
    cluster.vanish(HEAD)
    assert CreateHead(3, 1) in cluster.reconcile()


def test_a_head_of_an_earlier_attempt_makes_room_before_the_next_is_created() -> None:
    cluster = Cluster()
    cluster.train()
    cluster.update(status=cluster.job["status"] | {"attempt": 2, "head": {"startTime": "2026-01-31T12:00:00Z"}})  # type: ignore[index]
    done = cluster.reconcile()
    assert [type(action) for action in done] == [DeletePod]
    cluster.vanish(HEAD)
    assert CreateHead(2, 0) in cluster.reconcile()


def test_the_last_word_brings_checkpoint_and_progress_with_it() -> None:
    cluster = Cluster()
    cluster.train()
    cluster.end_head(Verdict("Failed", "UserError", "x", checkpoint=checkpoint(500)))
    cluster.reconcile()
    assert cluster.status.checkpoint is not None
    assert cluster.status.checkpoint.step == 500


def test_a_failure_that_the_last_word_tells_in_full_is_recorded_once() -> None:
    cluster = Cluster()
    cluster.train()
    told = failure("NonFiniteLoss", kind="User", message="step 12", last_log_lines=["a", "b"])
    cluster.end_head(Verdict("Failed", "NonFiniteLoss", "step 12", failures=(told,)))
    cluster.reconcile()
    assert cluster.status.failures == [told.model_copy(update={"step": 10})]
