"""A job on a real cluster: from kubectl apply to an exported model, its life, and who can reach its pods."""

import json
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from tests.e2e.cluster import (
    NAMESPACE,
    RELEASE_NAMESPACE,
    ROOT,
    TRAINER_IMAGE,
    Cluster,
    kubectl,
    run,
    small_job,
    wait_for,
)

pytestmark = pytest.mark.timeout(900)
LABELS = {"app.kubernetes.io/instance": "shakespeare", "app.kubernetes.io/managed-by": "windlass-operator"}


@pytest.fixture(scope="module")
def finished(cluster: Cluster) -> dict[str, Any]:
    """The shakespeare sample, trained to its end; the bucket and the number of steps are this test's own."""
    data = os.environ.get("WINDLASS_TEST_DATA")
    if not data:
        pytest.skip("needs tinyshakespeare.txt: set WINDLASS_TEST_DATA")
    cluster.store.put_file(str(Path(data) / "tinyshakespeare.txt"), f"{cluster.bucket}/shakespeare/plays.txt")
    text = (ROOT / "manifests/samples/shakespeare.yaml").read_text()
    job = YAML(typ="safe").load(text)
    job["metadata"]["namespace"] = NAMESPACE
    spec = job["spec"]
    spec["data"]["prepare"]["sources"] = [{"uri": f"{cluster.bucket}/shakespeare/*.txt"}]
    spec["data"]["train"] = [{"uri": f"{cluster.bucket}/corpora/shakespeare"}]
    spec["checkpoints"]["uri"] = f"{cluster.bucket}/runs/shakespeare"
    spec["training"] |= {"maxSteps": 100}
    cluster.apply(job)
    start = time.monotonic()
    status = cluster.wait_for_phase("shakespeare", "Succeeded", seconds=300)
    loss = status["progress"]["validationLoss"]
    print(f"100 steps of the shakespeare sample: {time.monotonic() - start:.0f} s, validation loss {loss:.3f}")
    return status


def test_the_sample_trains_on_two_nodes_and_succeeds(cluster: Cluster, finished: dict[str, Any]) -> None:
    assert finished["attempt"] == 1
    assert finished["progress"]["step"] == 100
    assert finished["checkpoint"]["step"] == 100
    assert finished["restarts"] == {"infrastructure": 0, "user": 0}
    assert {c["type"]: c["status"] for c in finished["conditions"]}["Complete"] == "True"
    workers = [pod for pod in cluster.pods("shakespeare") if "worker" in pod["metadata"]["name"]]
    assert len({pod["spec"]["nodeName"] for pod in workers}) == 2
    assert {pod["status"]["phase"] for pod in cluster.pods("shakespeare")} <= {"Succeeded", "Running"}


def test_kubectl_shows_the_job_in_its_columns(cluster: Cluster, finished: dict[str, Any]) -> None:
    header, row = kubectl("get", "llmjobs", "shakespeare").splitlines()
    assert header.split()[:3] == ["NAME", "TASK", "PHASE"]
    assert row.split()[:5] == ["shakespeare", "Pretrain", "Succeeded", "100", "100%"]


def test_events_tell_the_job_s_story(cluster: Cluster, finished: dict[str, Any]) -> None:
    def reasons() -> list[str]:
        events = json.loads(
            kubectl("get", "events", "--field-selector", "involvedObject.name=shakespeare", "-o", "json")
        )
        return [event["reason"] for event in events["items"]]

    wait_for("the last event", lambda: "Succeeded" in reasons())
    assert {"Started", "Running", "Succeeded"} <= set(reasons())
    assert len(reasons()) == len(set(reasons())), "each transition is told once"


def test_the_logs_of_every_rank_are_in_the_pods(cluster: Cluster, finished: dict[str, Any]) -> None:
    for worker in (0, 1):
        wait_for(f"worker {worker}'s lines", partial(has_rank_lines, f"shakespeare-worker-{worker}"), 60)


def has_rank_lines(pod: str) -> bool:
    return "[rank " in kubectl("logs", pod)


def test_the_run_and_its_exported_model_are_in_the_bucket(
    cluster: Cluster, finished: dict[str, Any], tmp_path: Path
) -> None:
    uri = f"{cluster.bucket}/runs/shakespeare"
    assert finished["result"]["uri"].startswith(uri)
    for name in ("job.yaml", "result.json", "report.html", "metrics.jsonl", "export/model.safetensors"):
        assert cluster.store.exists(f"{uri}/{name}"), name
    text = run(*(sys.executable, "-m", "windlass", "generate", uri, "--prompt", "First Citizen:", "--max-tokens", "20"))
    assert len(text) > len("First Citizen:")


def test_a_second_job_of_the_same_name_starts_anew_after_the_first_is_deleted(
    cluster: Cluster, finished: dict[str, Any]
) -> None:
    kubectl("delete", "llmjob", "shakespeare", "--wait")
    wait_for("its pods are gone", lambda: not cluster.pods("shakespeare"), 60)
    assert cluster.store.exists(f"{cluster.bucket}/runs/shakespeare/job.yaml"), "onDelete: Keep"


@pytest.fixture(scope="module")
def steady(cluster: Cluster) -> None:
    """A job that trains until its test deletes it, and its storage goes with it."""
    job = small_job(cluster, "steady", maxSteps=100000)
    job["spec"]["checkpoints"]["onDelete"] = "Delete"
    cluster.apply(job)
    cluster.wait_for_phase("steady", "Running")


def test_other_pods_reach_nothing_of_a_job_and_prometheus_its_metrics_only(cluster: Cluster, steady: None) -> None:
    head = cluster.pod("steady-head")
    assert head is not None
    address = head["status"]["podIP"]
    run("kubectl", "create", "namespace", "monitoring")
    try:
        asked = {
            "stranger": _reach(NAMESPACE, "stranger", address),
            "prometheus": _reach("monitoring", "prometheus", address),
        }
    finally:
        run("kubectl", "delete", "namespace", "monitoring", "--wait=false")
    assert asked["stranger"] == {"6379": "closed", "8080/metrics": "closed", "8080/progress": "closed"}
    assert asked["prometheus"] == {"6379": "closed", "8080/metrics": "200", "8080/progress": "401"}


def _reach(namespace: str, name: str, address: str) -> dict[str, str]:
    """What a pod of that namespace gets from the head's ports."""
    program = (
        "import json, socket\nfrom urllib.error import HTTPError\nfrom urllib.request import urlopen\n"
        "found = {}\n"
        f"s = socket.socket(); s.settimeout(4)\n"
        f"try: s.connect(('{address}', 6379)); found['6379'] = 'open'\n"
        "except OSError: found['6379'] = 'closed'\n"
        "for path in ('metrics', 'progress'):\n"
        f"    try: found['8080/' + path] = str(urlopen('http://{address}:8080/' + path, timeout=4).status)\n"
        "    except HTTPError as error: found['8080/' + path] = str(error.code)\n"
        "    except OSError: found['8080/' + path] = 'closed'\n"
        "print(json.dumps(found))\n"
    )
    security = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "containers": [
                {
                    "name": "main",
                    "image": TRAINER_IMAGE,
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["python", "-c", program],
                    "securityContext": security,
                }
            ],
        },
    }
    kubectl("apply", "-f", "-", text=json.dumps(pod), namespace=namespace)
    kubectl("wait", "--for=jsonpath={.status.phase}=Succeeded", f"pod/{name}", "--timeout=60s", namespace=namespace)
    return dict(json.loads(kubectl("logs", name, namespace=namespace)))


def test_an_upgrade_of_the_chart_leaves_running_jobs_alone(cluster: Cluster, steady: None) -> None:
    before = {pod["metadata"]["uid"]: _restarts(pod) for pod in cluster.pods("steady")}
    run(
        *("helm", "upgrade", "windlass", ROOT / "charts/windlass", "--reuse-values", "--wait", "--timeout", "120s"),
        *("--namespace", RELEASE_NAMESPACE, "--set", "logLevel=DEBUG"),
    )
    step = wait_for("a step", lambda: cluster.steps("steady"))[-1][1]
    wait_for(
        "the new operator tells of steps after the upgrade",
        lambda: cluster.status("steady").get("progress", {}).get("step", 0) > step + 5,
    )
    assert {pod["metadata"]["uid"]: _restarts(pod) for pod in cluster.pods("steady")} == before


def _restarts(pod: dict[str, Any]) -> int:
    return int(pod["status"]["containerStatuses"][0]["restartCount"])


def test_deleting_a_job_with_on_delete_deletes_its_storage(cluster: Cluster, steady: None) -> None:
    wait_for("a checkpoint", lambda: cluster.status("steady").get("checkpoint"))
    assert cluster.store.find(f"{cluster.bucket}/runs/steady") != []
    kubectl("delete", "llmjob", "steady", "--wait", "--timeout=120s")
    assert cluster.store.find(f"{cluster.bucket}/runs/steady") == []
