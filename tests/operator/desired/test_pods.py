"""What a job's pods are whatever its template says, and what the template and the resources change."""

import base64
from copy import deepcopy
from typing import Any

import pytest
from tests.operator.desired.cases import NAMES, SETTINGS, job_of, objects_of

from windlass.errors import WindlassError
from windlass.spec.job import LLMTrainingJob
from windlass_operator.desired.pods import cleanup_pod, head_pod, worker_pod
from windlass_operator.job import Object


def worker(**workers: Any) -> Object:
    return worker_pod(job_of(workers=workers), SETTINGS, index=0)


def container(pod: Object) -> Object:
    found: Object = pod["spec"]["containers"][0]
    return found


def variables(pod: Object) -> dict[str, Any]:
    return {entry["name"]: entry.get("value") for entry in container(pod)["env"]}


def template(**container: Any) -> dict[str, Any]:
    return {"spec": {"containers": [{"name": "worker", **container}]}}


def test_the_same_job_gives_the_same_objects_and_is_not_changed() -> None:
    for name in NAMES:
        job = job_of(name)
        before = deepcopy(job.resource)
        assert objects_of(job) == objects_of(job_of(name))
        assert job.resource == before


def test_no_template_changes_what_the_operator_depends_on() -> None:
    plain = worker()
    own = [name for name in variables(plain) if name.startswith(("WINDLASS", "RAY_AUTH", "POD_", "NODE_"))]
    env = [{"name": name, "valueFrom": {"secretKeyRef": {"name": "x", "key": "y"}}} for name in own]
    mount = {"name": "theirs", "mountPath": "/var/run/windlass"}
    forged = template(env=env, volumeMounts=[mount])
    forged["spec"]["volumes"] = [{"name": "token", "emptyDir": {}}]
    labels = {name: "forged" for name in plain["metadata"]["labels"] if not name.startswith("windlass.dev/")}
    forged["metadata"] = {"name": "x", "namespace": "y", "labels": labels, "ownerReferences": []}
    assert worker(template=forged) == plain


def test_a_templates_variables_come_after_windlasss_so_that_they_may_refer_to_them() -> None:
    entries = container(worker(template=template(env=[{"name": "MINE", "value": "$(POD_IP)"}])))["env"]
    assert entries[-1] == {"name": "MINE", "value": "$(POD_IP)"}


def test_a_template_replaces_the_service_account_and_a_volume_by_its_name() -> None:
    claim = {"name": "tmp", "persistentVolumeClaim": {"claimName": "scratch"}}
    spec = worker(template={"spec": {"serviceAccountName": "mine", "volumes": [claim]}})["spec"]
    assert spec["serviceAccountName"] == "mine"
    assert claim in spec["volumes"]
    assert [volume["name"] for volume in spec["volumes"]] == ["token", "tmp", "shared-memory"]


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"spec": {"volumes": {"name": "data"}}}, "spec.workers.template.spec.volumes: must be a list"),
        ({"spec": {"volumes": ["data"]}}, "spec.workers.template.spec.volumes[0]: must be a mapping with name"),
        (
            {"spec": {"containers": [{"name": "worker", "ports": [{}]}]}},
            "containers[0].ports[0]: must be a mapping with",
        ),
        ({"spec": {"securityContext": {"$patch": "remove"}}}, "spec.securityContext.$patch: 'remove'; allowed are"),
    ],
)
def test_a_template_that_is_no_fragment_of_a_pod_is_refused_with_its_path(given: dict[str, Any], field: str) -> None:
    with pytest.raises(WindlassError) as refused:
        worker(template=given)
    assert refused.value.reason == "ConfigInvalid"
    assert field in refused.value.message


def test_the_head_reads_the_very_job_from_its_environment() -> None:
    job = job_of("gpus")
    text = variables(head_pod(job, SETTINGS, attempt=1, restarts=0))["WINDLASS_JOB"]
    assert "$$(HOME)" in text  # else Kubernetes would fill in the variable
    assert LLMTrainingJob.model_validate_json(text.replace("$$", "$")) == job.document


def test_gpus_are_requested_as_they_are_limited_and_each_has_a_rank() -> None:
    pod = worker(replicas=2, gpusPerWorker=4, resources={"limits": {"cpu": 16}})
    resources = container(pod)["resources"]
    assert resources["requests"]["nvidia.com/gpu"] == resources["limits"]["nvidia.com/gpu"] == "4"
    found = variables(pod)
    assert (found["WINDLASS_GPUS"], found["WINDLASS_CPUS"], found["OMP_NUM_THREADS"]) == ("4", "4", "4")


def test_a_gpu_in_the_resources_alone_is_given_to_the_one_rank() -> None:
    found = variables(worker(resources={"limits": {"nvidia.com/gpu": 1}}))
    assert (found["WINDLASS_GPUS"], found["WINDLASS_CPUS"]) == ("1", "1")


def test_threads_follow_the_cpu_limit_and_only_it() -> None:
    assert variables(worker(resources={"limits": {"cpu": "2500m"}}))["OMP_NUM_THREADS"] == "2"
    assert variables(worker(resources={"limits": {"cpu": "500m"}}))["OMP_NUM_THREADS"] == "1"
    assert "OMP_NUM_THREADS" not in variables(worker(resources={"requests": {"cpu": 4}}))


def test_default_requests_yield_to_requests_and_to_limits() -> None:
    assert container(worker())["resources"] == {"requests": {"cpu": "500m", "memory": "1Gi"}}
    asked = container(worker(resources={"requests": {"cpu": 3}, "limits": {"memory": "512Mi"}}))["resources"]
    assert asked == {"requests": {"cpu": "3"}, "limits": {"memory": "512Mi"}}


@pytest.mark.parametrize(
    ("limits", "size"), [({}, "1024Mi"), ({"memory": "8Gi"}, "4096Mi"), ({"memory": "3G"}, "1430Mi")]
)
def test_shared_memory_is_half_of_the_memory_limit(limits: dict[str, str], size: str) -> None:
    volumes = worker(resources={"limits": limits})["spec"]["volumes"]
    assert {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": size}} in volumes


def test_the_cleanup_reaches_storage_as_the_head_does_and_needs_nothing_that_is_deleted_with_the_job() -> None:
    pod = cleanup_pod(job_of("gpus"), SETTINGS)
    assert container(pod)["name"] == "cleanup"
    assert container(pod)["envFrom"] == [{"secretRef": {"name": "storage"}}]
    assert pod["spec"]["serviceAccountName"] == "storage-reader"
    assert "llama-1b-token" not in str(pod)
    assert pod["metadata"]["ownerReferences"][0]["blockOwnerDeletion"] is False


def test_the_token_is_in_its_secret_only() -> None:
    job = job_of()
    token = SETTINGS.token(job.uid)
    written = {token, base64.b64encode(token.encode()).decode()}
    assert [item["kind"] for item in objects_of(job) if any(word in str(item) for word in written)] == ["Secret"]
