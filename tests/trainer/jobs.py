"""LLMTrainingJobs in a real API server, as tests write and read them."""

import json
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.operator.api_server import ApiServer

from windlass.spec.crd import crd
from windlass.spec.job import API_VERSION, PLURAL
from windlass.spec.status import JobStatus

Object = dict[str, Any]
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"

STATUS = JobStatus.model_validate(
    {
        "observedGeneration": 3,
        "phase": "Running",
        "attempt": 2,
        "head": {"startTime": "2026-01-31T12:00:00Z", "uid": "b9", "restartsBefore": 1},
        "startTime": "2026-01-31T11:00:00Z",
        "completionTime": "2026-01-31T13:00:00Z",
        "suspendedSeconds": 1.5,
        "conditions": [
            {
                "type": "PodsReady",
                "status": "False",
                "reason": "Unschedulable",
                "message": "0/2 nodes are available",
                "lastTransitionTime": "2026-01-31T12:00:00Z",
                "observedGeneration": 3,
            }
        ],
        "workers": {"desired": 4, "ready": 3},
        "progress": {
            "step": 42,
            "maxSteps": 100,
            "tokens": 1000,
            "epoch": 0.5,
            "loss": 3.25,
            "validationLoss": 3.5,
            "tokensPerSecond": 1.2e6,
            "mfu": 0.41,
            "stepSeconds": 0.1,
            "remainingSeconds": 5.8,
            "updatedAt": "2026-01-31T12:00:01Z",
        },
        "checkpoint": {"step": 40, "uri": "s3://runs/shakespeare/step-40", "committedAt": "2026-01-31T12:00:00Z"},
        "goodput": {"productiveSeconds": 97, "totalSeconds": 100, "ratio": 0.97},
        "restarts": {"infrastructure": 1, "user": 1},
        "failures": [
            {
                "time": "2026-01-31T11:59:00Z",
                "attempt": 1,
                "kind": "Infrastructure",
                "reason": "RankFailed",
                "pod": "shakespeare-worker-1",
                "node": "node2",
                "rank": 1,
                "exitCode": -9,
                "step": 41,
                "message": "killed by signal 9",
                "lastLogLines": ["step 41", "step 42"],
            }
        ],
        "result": {"uri": "s3://runs/shakespeare/export", "metrics": {"validationLoss": 3.5}},
        "columns": {
            "progress": "42%",
            "loss": "3.25",
            "tokensPerSecond": "1.2M",
            "workers": "3/4",
            "restarts": "2",
            "remaining": "6s",
            "mfu": "41%",
            "goodput": "97%",
        },
    }
)
"""With every field."""


class Refused(Exception):
    """The API server said no."""


@dataclass(frozen=True)
class Jobs:
    """The jobs of a namespace of their own."""

    server: ApiServer
    namespace: str

    def path(self, name: str = "") -> str:
        return f"/apis/{API_VERSION}/namespaces/{self.namespace}/{PLURAL}" + f"/{name}" * bool(name)

    def create(self, job: Object, query: str = "") -> Object:
        return ask(self.server, "POST", f"{self.path()}?fieldValidation=Strict{query}", job)

    def get(self, name: str) -> Object:
        return ask(self.server, "GET", self.path(name))

    def patch(self, name: str, change: Object, query: str = "") -> Object:
        return ask(self.server, "PATCH", self.path(name) + query, change, MERGE)

    def report(self, name: str, **status: Any) -> Object:
        """Change a job's status, as the operator does."""
        return ask(self.server, "PATCH", f"{self.path(name)}/status", {"status": status}, MERGE)

    def kubectl(self, hyperkube: Path, *arguments: str, text: str | None = None) -> str:
        """What kubectl prints, errors included."""
        command = ["kubectl", "--kubeconfig", str(self.server.kubeconfig()), "--namespace", self.namespace, *arguments]
        done = subprocess.run(command, executable=hyperkube, input=text, capture_output=True, text=True, check=False)
        return done.stdout + done.stderr


def ask(server: ApiServer, method: str, path: str, body: Any = None, kind: str = "application/json") -> Object:
    """The answer to a request. Raises Refused with the API server's message."""
    headers = {"Authorization": f"Bearer {server.token}", "Content-Type": kind}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(server.url + path, data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30, context=server.tls()) as response:
            return dict(json.load(response))
    except urllib.error.HTTPError as error:
        text = error.read().decode()
        raise Refused(json.loads(text)["message"] if text.startswith("{") else text) from error


def install(server: ApiServer, definition: Object | None = None) -> None:
    """Apply a CRD, by default Windlass's, and wait until it is served."""
    definition = definition or crd()
    path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{definition['metadata']['name']}"
    ask(server, "PATCH", f"{path}?fieldManager=test&force=true", definition, APPLY)
    spec = definition["spec"]
    for version in spec["versions"]:
        _wait_until_served(server, f"/apis/{spec['group']}/{version['name']}/{spec['names']['plural']}")


def _wait_until_served(server: ApiServer, path: str) -> None:
    until = time.monotonic() + 30
    while True:
        try:
            ask(server, "GET", path)
        except Refused:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)
        else:
            return
