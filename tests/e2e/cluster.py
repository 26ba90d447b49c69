"""What end-to-end tests ask of a real cluster, and do to it."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import s3fs

ROOT = Path(__file__).parents[2]
RELEASE_NAMESPACE = "windlass-system"
NAMESPACE = "windlass-e2e"
OPERATOR_IMAGE = "localhost/windlass-operator:e2e"
TRAINER_IMAGE = "localhost/windlass-trainer:e2e"
CREDENTIALS = "s3-credentials"
PLAY = "".join(f"Citizen {n}: Speak, speak, for line {n * n} of the play is mine.\n" for n in range(4000)).encode()
SCRIPT = os.environ.get("WINDLASS_TEST_CLUSTER")


def run(*command: str | Path, text: str | None = None, timeout: float = 900) -> str:
    """The output of a command that must succeed."""
    done = subprocess.run(
        [str(part) for part in command], input=text, capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}"
    return done.stdout


def _output(*command: str) -> str:
    """Of a command that may fail, or never end: a node that hangs answers nothing."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=False).stdout
    except subprocess.TimeoutExpired:
        return ""


def kubectl(*arguments: str, text: str | None = None, namespace: str = NAMESPACE) -> str:
    return run("kubectl", "--namespace", namespace, *arguments, text=text)


def wait_for(what: str, test: Callable[[], Any], seconds: float = 120) -> Any:
    """The first true value of `test`."""
    deadline = time.monotonic() + seconds
    while not (value := test()):
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(1.0)  # kubectl takes a fifth of a second of a processor each time
    return value


@dataclass
class Cluster:
    """What the tests ask of the cluster, and do to it."""

    bucket: str
    store: s3fs.S3FileSystem

    def apply(self, job: dict[str, Any]) -> None:
        kubectl("apply", "-f", "-", text=json.dumps(job))

    def job(self, name: str) -> dict[str, Any]:
        return dict(json.loads(kubectl("get", "llmjob", name, "-o", "json")))

    def status(self, name: str) -> dict[str, Any]:
        return dict(self.job(name).get("status", {}))

    def condition(self, name: str, kind: str) -> dict[str, Any]:
        return next((item for item in self.status(name).get("conditions", []) if item["type"] == kind), {})

    def wait_for_phase(self, name: str, *phases: str, seconds: float = 180) -> dict[str, Any]:
        def reached() -> dict[str, Any] | None:
            status = self.status(name)
            assert status.get("phase") != "Failed" or "Failed" in phases, json.dumps(status, indent=1)
            return status if status.get("phase") in phases else None

        try:
            return dict(wait_for(f"{name} is {' or '.join(phases)}", reached, seconds))
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.describe(name)}") from None

    def describe(self, name: str) -> str:
        """All that a person would look at."""
        parts = [("get", "llmjob", name, "-o", "yaml"), ("get", "pods", "-o", "wide"), ("get", "events")]
        pods = [item["metadata"]["name"] for item in self.pods(name)]
        parts += [("logs", pod, "--tail=60") for pod in pods]
        return "\n".join(_output("kubectl", "-n", NAMESPACE, *part) for part in parts)

    def pods(self, name: str) -> list[dict[str, Any]]:
        return list(json.loads(kubectl("get", "pods", "-l", f"windlass.dev/job={name}", "-o", "json"))["items"])

    def pod(self, name: str) -> dict[str, Any] | None:
        listed = json.loads(kubectl("get", "pods", "--field-selector", f"metadata.name={name}", "-o", "json"))["items"]
        return dict(listed[0]) if listed else None

    def records(self, name: str) -> list[dict[str, Any]]:
        """What the head has of events.jsonl and metrics.jsonl; empty while there is no head that has any."""
        files = [f"/tmp/run/{name}/{file}.jsonl" for file in ("events", "metrics")]
        lines = ["grep", "-h", "kind", *files]  # all; unlike cat, it ends one that is being written
        output = _output("kubectl", "-n", NAMESPACE, "exec", f"{name}-head", "--", *lines)
        return [json.loads(line) for line in output.splitlines() if line.endswith("}")]

    def steps(self, name: str) -> list[tuple[datetime, int]]:
        """When each step was logged, in the order of the file."""
        return [
            (datetime.fromisoformat(record["time"]), record["step"])
            for record in self.records(name)
            if record["kind"] == "train"
        ]

    def wait_for_steps_after(self, name: str, moment: datetime, count: int = 1, seconds: float = 180) -> float:
        """Seconds from `moment` until the job had made `count` steps after it."""

        def made() -> list[datetime] | None:
            later = [at for at, _ in self.steps(name) if at > moment]
            return later if len(later) >= count else None

        try:
            later = wait_for(f"{name} makes {count} steps", made, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.describe(name)}") from None
        return float((later[count - 1] - moment).total_seconds())

    def losses(self, name: str) -> dict[int, float]:
        """Of each step, as the run in the bucket has them: each once."""
        losses = losses_of(self.store.cat_file(f"{self.bucket}/runs/{name}/metrics.jsonl").decode().splitlines())
        steps = [step for step, _ in losses]
        assert steps == list(range(1, len(steps) + 1)), "each step once"
        return dict(losses)

    def suspend(self, name: str, value: bool = True) -> None:
        spec = {"lifecycle": {"suspend": value}}
        kubectl("patch", "llmjob", name, "--type=merge", "-p", json.dumps({"spec": spec}))

    def script(self, *arguments: str) -> None:
        """Break or mend a node, where the cluster can."""
        assert SCRIPT is not None
        run(SCRIPT, *arguments)

    def kill_store(self) -> None:
        """SIGKILL the object store; `script("up")` starts it again."""
        home = Path(os.environ.get("CLUSTER_HOME", "/var/tmp/windlass-cluster"))
        os.kill(int((home / "run/s3.pid").read_text().split()[0]), signal.SIGKILL)


def losses_of(lines: list[str]) -> list[tuple[int, float]]:
    """Steps and their losses in lines of a metrics.jsonl; a line that is being written is left out."""
    records = [json.loads(line) for line in lines if line.endswith("}")]
    return [(record["step"], record["loss"]) for record in records if record["kind"] == "train"]


def eviction(pod: str) -> tuple[str, str]:
    """Path and body of the request that evicts a pod."""
    metadata = {"name": pod, "namespace": NAMESPACE}
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata}
    return f"/api/v1/namespaces/{NAMESPACE}/pods/{pod}/eviction", json.dumps(body)


def now() -> datetime:
    return datetime.now(UTC)


def times(records: list[dict[str, Any]], kind: str) -> list[datetime]:
    """When the records of a kind were written."""
    return [datetime.fromisoformat(record["time"]) for record in records if record["kind"] == kind]


def pod_template(role: str, **spec: Any) -> dict[str, Any]:
    """What the pods of a role need to reach the bucket, and more."""
    return {"spec": {"containers": [{"name": role, "envFrom": [{"secretRef": {"name": CREDENTIALS}}]}]} | spec}


def small_job(cluster: Cluster, name: str, **training: Any) -> dict[str, Any]:
    """Two workers train a tiny model on a corpus that the job prepares from plays in the bucket."""
    return {
        "apiVersion": "windlass.dev/v1alpha1",
        "kind": "LLMTrainingJob",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "model": {
                "preset": "gpt2-nano",
                "config": {"layers": 2, "heads": 4, "hiddenSize": 64, "contextLength": 64},
            },
            "data": {
                "prepare": {"sources": [{"uri": f"{cluster.bucket}/raw/*.txt"}]},
                "train": [{"uri": f"{cluster.bucket}/corpora/plays"}],
            },
            "training": {"globalBatchSize": 16, "microBatchSize": 8} | training,
            "checkpoints": {"uri": f"{cluster.bucket}/runs/{name}", "everySteps": 20},
            "evaluation": {"maxTokens": 4096, "everySteps": 100000},
            "workers": {
                "replicas": 2,
                "resources": {"requests": {"cpu": "200m", "memory": "600Mi"}, "limits": {"cpu": "1"}},
                "template": pod_template("worker"),
            },
            "head": {
                "resources": {"requests": {"cpu": "200m", "memory": "600Mi"}},
                "template": pod_template("head"),
            },
            "lifecycle": {"restarts": {"backoffSeconds": 1}},
        },
    }
