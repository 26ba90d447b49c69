"""Jobs that cannot start say so in their conditions, in the scheduler's or the kubelet's own words, and heal."""

import json
import time
from typing import Any

import pytest
from tests.e2e.cluster import Cluster, kubectl, small_job, wait_for

pytestmark = pytest.mark.timeout(600)


def broken(cluster: Cluster) -> dict[str, tuple[dict[str, Any], str, str]]:
    """Jobs by name, each with what is wrong with it: the reason and a part of the words."""
    image = small_job(cluster, "no-image", maxSteps=10)
    image["spec"]["workers"]["image"] = "localhost/there-is-none:1"
    gpus = small_job(cluster, "no-room", maxSteps=10)
    gpus["spec"]["workers"]["resources"]["requests"]["nvidia.com/gpu"] = 64
    gpus["spec"]["workers"]["resources"]["limits"]["nvidia.com/gpu"] = 64
    secret = small_job(cluster, "no-secret", maxSteps=10)
    secret["spec"]["workers"]["template"]["spec"]["containers"][0]["envFrom"] = [{"secretRef": {"name": "absent"}}]
    volume = small_job(cluster, "no-volume", maxSteps=10)
    volume["spec"]["workers"]["template"]["spec"]["volumes"] = [{"name": "extra", "configMap": {"name": "absent-map"}}]
    volume["spec"]["workers"]["template"]["spec"]["containers"][0]["volumeMounts"] = [
        {"name": "extra", "mountPath": "/extra"}
    ]
    return {
        "no-image": (image, "ImagePullFailed", "there-is-none"),
        "no-room": (gpus, "Unschedulable", "Insufficient nvidia.com/gpu"),
        "no-secret": (secret, "ReferenceMissing", 'secret "absent" not found'),
        "no-volume": (volume, "ReferenceMissing", 'configmap "absent-map" not found'),
    }


def test_what_keeps_pods_from_starting_is_in_a_condition(cluster: Cluster) -> None:
    jobs = broken(cluster)
    start = time.monotonic()
    for job, _, _ in jobs.values():
        cluster.apply(job)
    for name, (_, reason, words) in jobs.items():
        condition = wait_for(
            f"{name} says {reason}",
            lambda name=name, reason=reason: (c := cluster.condition(name, "PodsReady")).get("reason") == reason and c,  # type: ignore[misc]
            60,
        )
        print(f"{name}: {reason} {time.monotonic() - start:.1f} s after kubectl apply: {condition['message']}")
        assert words in condition["message"]
        assert condition["status"] == "False"
        assert cluster.status(name)["phase"] != "Running"
    for name in ("no-image", "no-room", "no-volume"):
        kubectl("delete", "llmjob", name, "--wait=false")


def test_a_job_heals_by_itself_when_what_was_missing_appears(cluster: Cluster) -> None:
    secret = json.loads(kubectl("get", "secret", "s3-credentials", "-o", "json"))
    secret["metadata"] = {"name": "absent"}
    kubectl("apply", "-f", "-", text=json.dumps(secret))
    status = cluster.wait_for_phase("no-secret", "Succeeded")
    assert status["restarts"] == {"infrastructure": 0, "user": 0}
    kubectl("delete", "llmjob", "no-secret", "--wait=false")


def test_an_error_of_the_user_s_own_fails_at_once_with_what_a_person_needs(cluster: Cluster) -> None:
    job = small_job(cluster, "typo", maxSteps=10)
    job["spec"]["data"]["prepare"]["sources"][0]["uri"] = f"{cluster.bucket}/rawr/*.txt"
    job["spec"]["data"]["train"][0]["uri"] = f"{cluster.bucket}/corpora/typo"
    job["spec"]["lifecycle"] = {"ttlSecondsAfterFinished": 10}
    cluster.apply(job)
    status = cluster.wait_for_phase("typo", "Failed", seconds=90)
    failed = next(item for item in status["conditions"] if item["type"] == "Failed")
    assert (failed["status"], failed["reason"]) == ("True", "DataNotFound")
    assert "rawr" in failed["message"]
    assert status["attempt"] == 1
    assert status["failures"][-1]["kind"] == "User"
    wait_for("the job is deleted, as its ttlSecondsAfterFinished asks", lambda: "typo" not in jobs(), 60)


def jobs() -> list[str]:
    return kubectl("get", "llmjobs", "-o", "jsonpath={.items[*].metadata.name}").split()
