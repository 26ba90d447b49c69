"""Progress and the record of failures in the status."""

from datetime import timedelta

from tests.operator.lifecycle.simulation import Cluster, checkpoint, failure


def step_of(cluster: Cluster) -> int | None:
    return cluster.status.progress.step if cluster.status.progress else None


def test_progress_alone_is_written_every_ten_seconds_at_most() -> None:
    cluster = Cluster()
    cluster.train(step=0)
    writes = cluster.writes
    for second in range(1, 61):
        cluster.say("Running", step=second)
        cluster.wait(1)
    assert 5 <= cluster.writes - writes <= 6
    cluster.wait(10)
    assert step_of(cluster) == 60


def test_progress_comes_at_once_with_a_phase() -> None:
    cluster = Cluster()
    cluster.train(step=10)
    cluster.say("Recovering", step=12)
    cluster.reconcile()
    assert (cluster.phase, step_of(cluster)) == ("Recovering", 12)


def test_a_head_that_says_the_same_is_not_written_down_again() -> None:
    cluster = Cluster()
    cluster.train(step=10)
    writes = cluster.writes
    for _ in range(10):
        cluster.wait(30)
        cluster.say("Running", step=10, productive_seconds=99.0)
        cluster.reconcile()
    assert cluster.writes == writes


def test_checkpoint_and_goodput_come_with_progress() -> None:
    cluster = Cluster()
    cluster.train(step=10)
    cluster.now += timedelta(seconds=100)
    cluster.say("Running", step=20, checkpoint=checkpoint(20), productive_seconds=80.0)
    cluster.reconcile()
    assert cluster.status.checkpoint == checkpoint(20)
    assert cluster.status.goodput
    assert (cluster.status.goodput.productive_seconds, cluster.status.goodput.ratio) == (80.0, 0.8)
    assert cluster.status.columns
    assert cluster.status.columns.goodput == "80%"


def test_the_last_ten_failures_are_kept_in_order_and_each_once() -> None:
    cluster = Cluster()
    cluster.train()
    all_of_them = tuple(failure("RankFailed", rank=rank, time=f"2026-01-31T12:01:{rank:02}Z") for rank in range(14))
    for count in (3, 8, 14, 14):
        cluster.say("Running", failures=all_of_them[:count])
        cluster.reconcile()
    assert [item.rank for item in cluster.status.failures] == list(range(4, 14))
    assert cluster.events.count("RankFailed") == 14


def test_who_died_may_be_told_after_the_failure() -> None:
    cluster = Cluster()
    cluster.train(step=10)
    cluster.say("Recovering", step=10, failures=(failure("RankFailed"),))
    cluster.reconcile()
    heard = failure("RankFailed", rank=1, pod="play-worker-1", exit_code=-9)
    cluster.say("Running", step=20, failures=(heard,))
    cluster.reconcile()
    assert cluster.status.failures == [heard.model_copy(update={"step": 10})]
    assert cluster.events.count("RankFailed") == 1


def test_the_rank_that_died_first_may_be_heard_of_last() -> None:
    cluster = Cluster()
    cluster.train(step=10)
    bystander = failure("RankFailed", rank=1, pod="play-worker-1", exit_code=1)
    killed = failure("RankFailed", rank=0, pod="play-worker-0", exit_code=-9)
    for heard in (bystander, killed):
        cluster.say("Recovering", step=10, failures=(heard,))
        cluster.reconcile()
    assert cluster.status.failures == [killed.model_copy(update={"step": 10})]
    assert cluster.events.count("RankFailed") == 1


def test_many_failures_of_one_second_come_to_rest() -> None:
    cluster = Cluster()
    cluster.train()
    pods = (f"play-worker-{number}" for number in range(16))
    cluster.say("Recovering", failures=tuple(failure("Evicted", pod=pod) for pod in pods))
    cluster.reconcile()
    writes = cluster.writes
    cluster.wait(5)
    assert (cluster.writes, len(cluster.status.failures)) == (writes, 10)


def test_more_workers_in_trouble_than_failures_are_kept_come_to_rest() -> None:
    cluster = Cluster(workers={"replicas": 16})
    cluster.train()
    for number in range(16):
        asked = cluster.now + timedelta(seconds=number % 3)
        cluster.set(f"play-worker-{number}", deleting=True, disrupted=asked)
    cluster.reconcile()
    writes, told = cluster.writes, cluster.events.count("Evicted")
    for _ in range(100):
        cluster.wait(1)
    assert cluster.writes <= writes + 1  # after half a minute: which pods are waited for
    assert (cluster.events.count("Evicted"), len(cluster.status.failures)) == (told, 10)


def test_what_no_head_should_tell_is_cut_to_what_can_be_stored() -> None:
    cluster = Cluster()
    cluster.train()
    long = failure("UserError", kind="User", message="x" * 10**6, last_log_lines=["y" * 10**6])
    new = failure("MeteorStrike", time="2026-01-31T12:01:00Z", message="hit")
    cluster.say("Running", failures=(long, new))
    cluster.reconcile()
    kept, renamed = cluster.status.failures
    assert (len(kept.message), [len(line) for line in kept.last_log_lines]) == (4096, [500])
    assert (renamed.reason, renamed.message) == ("RankFailed", "MeteorStrike: hit")
