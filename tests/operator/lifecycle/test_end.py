"""After the end: pods stay for their logs, and nothing else goes on."""

import pytest
from tests.operator.lifecycle.simulation import NAME, Cluster

from windlass.spec.status import JobResult
from windlass_operator.lifecycle.decision import DeleteJob, DeletePod
from windlass_operator.lifecycle.observed import Verdict


def succeeded(**lifecycle: object) -> Cluster:
    cluster = Cluster(lifecycle=lifecycle)
    cluster.train()
    result = JobResult(uri="s3://runs/play/export", metrics={"validationLoss": 1.5})
    cluster.end_head(Verdict("Succeeded", result=result), exit_code=0)
    cluster.reconcile()
    return cluster


def test_the_result_is_in_the_status() -> None:
    status = succeeded().status
    assert status.result
    assert status.result.uri == "s3://runs/play/export"
    assert status.completion_time


def test_workers_that_still_run_after_the_end_are_deleted_and_ended_pods_stay() -> None:
    cluster = succeeded()
    cluster.set(f"{NAME}-worker-0", phase="Succeeded", ready=False)
    assert cluster.wait(29) == []
    assert cluster.wait(2) == [DeletePod(f"{NAME}-worker-1", "uid-3")]
    assert f"{NAME}-head" in cluster.pods
    assert f"{NAME}-worker-0" in cluster.pods


def test_a_job_is_deleted_when_its_time_after_the_end_is_over() -> None:
    cluster = succeeded(ttlSecondsAfterFinished=3600)
    cluster.wait(3599)
    assert cluster.job is not None
    assert cluster.wait(2) == [DeleteJob()]
    assert cluster.job is None


@pytest.mark.parametrize("event", ["suspend", "pod lost", "report"])
def test_the_end_is_final(event: str) -> None:
    cluster = succeeded()
    if event == "suspend":
        cluster.edit("lifecycle", suspend=True)
    elif event == "pod lost":
        cluster.vanish(f"{NAME}-head")
    else:
        cluster.say("Running", step=2)
    assert cluster.reconcile() == []
    assert cluster.phase == "Succeeded"
