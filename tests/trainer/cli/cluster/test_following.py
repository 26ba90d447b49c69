from collections.abc import Iterator
from typing import Any

import pytest
from tests.trainer.jobs import STATUS

from windlass.cli.cluster import following, jobs
from windlass.cli.cluster.connection import Cluster
from windlass.cli.cluster.following import changes, failure_line, follow, phase, telling
from windlass.cli.progress import Progress
from windlass.errors import WindlassError


def job(generation: int = 1, **status: Any) -> dict[str, Any]:
    return {"metadata": {"name": "plays", "generation": generation}, "status": status}


def condition(kind: str, status: str, reason: str, second: int, message: str = "") -> dict[str, str]:
    moment = f"2026-01-31T12:00:{second:02}Z"
    return {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": moment}


def test_a_whole_status_becomes_the_panel_of_a_run() -> None:
    progress = Progress("plays", total_steps=100)
    for record in changes(None, job(**STATUS.model_dump(mode="json", exclude_none=True))):
        progress.take(record)
    assert progress.phase == "Running"
    assert progress.line() == (
        "step 42/100  loss 3.2500  validation 3.5000  1.2M tokens/s  MFU 41%  checkpoint 40  workers 3/4"
    )


def test_nothing_is_told_twice() -> None:
    status = STATUS.model_dump(mode="json", exclude_none=True)
    assert list(changes(job(**status), job(**status))) == []


def test_a_phase_has_a_line_with_why_and_each_failure_one() -> None:
    lost = condition("Training", "False", "NodeLost", 1, "node2 is gone")
    failure = {"reason": "NodeLost", "attempt": 1, "pod": "plays-worker-1", "node": "node2", "message": "node2 is gone"}
    told = list(changes(job(phase="Running"), job(phase="Recovering", conditions=[lost], failures=[failure])))
    assert [record["message"] for record in told] == [
        "",
        "Recovering: NodeLost: node2 is gone",
        "NodeLost on plays-worker-1 (node2): node2 is gone",
    ]


def test_the_telling_condition_is_the_failure_or_what_is_waited_for_or_the_newest() -> None:
    ready, waits = condition("PodsReady", "True", "Ready", 5), condition("PodsReady", "False", "Unschedulable", 1)
    failed, training = condition("Failed", "True", "UserError", 2), condition("Training", "True", "Running", 4)
    assert telling(job()) is None
    assert telling(job(conditions=[training, ready])) == ready
    assert telling(job(conditions=[training, waits])) == waits
    assert telling(job(conditions=[waits, failed, training])) == failed


def test_a_phase_counts_once_the_operator_has_seen_the_newest_change() -> None:
    assert phase(job(2, phase="Succeeded", observedGeneration=1)) == ""
    assert phase(job(2, phase="Succeeded", observedGeneration=2)) == "Succeeded"


def test_a_failure_of_the_first_rank_says_its_number() -> None:
    assert failure_line({"reason": "RankFailed", "rank": 0, "exitCode": 1}) == "RankFailed (rank 0, exit code 1): "


def test_an_operator_that_does_not_look_and_contact_that_is_lost_are_said_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def watch(cluster: Cluster, name: str) -> Iterator[Any]:
        yield job()
        yield job()
        yield job()
        yield job(phase="Running", observedGeneration=1)
        yield WindlassError("ClusterUnavailable", "the API server does not answer")
        yield job(phase="Succeeded", observedGeneration=1)

    monkeypatch.setattr(jobs, "watch", watch)
    cluster: Any = None
    ended = follow(cluster, "plays", until=following.ENDS)
    assert ended is not None
    assert phase(ended) == "Succeeded"
    assert capsys.readouterr().out.splitlines() == [
        "Warning: no operator has taken notice of the job yet; does one run?",
        "Running",
        "Warning: ClusterUnavailable: the API server does not answer",
    ]
