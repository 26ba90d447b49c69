import contextlib
import http.server
import ssl
import threading
import urllib.parse
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.trainer.cli.cluster.conftest import Command
from tests.trainer.jobs import MERGE, Jobs, ask
from typer.testing import Result

Windlass = Callable[..., Result]
Start = Callable[..., Command]


@dataclass
class Kubelet:
    """A node whose kubelet is this process: the API server asks it for logs, as it does any."""

    jobs: Jobs
    name: str
    logs: dict[str, list[str]] = field(default_factory=dict)
    """Lines of each pod."""
    asked: list[str] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)
    """Until it is set, logs that are followed go on."""

    def pod(self, role: str, *lines: str, index: int | None = None, **state: Any) -> None:
        """A pod of the job plays on this node that has written these lines."""
        labels = {"windlass.dev/job": "plays", "app.kubernetes.io/component": role}
        name = f"plays-{role}" if index is None else f"plays-{role}-{index}"
        labels |= {} if index is None else {"windlass.dev/worker-index": str(index)}
        spec = {"nodeName": self.name, "containers": [{"name": role, "image": "a"}]}
        path = f"/api/v1/namespaces/{self.jobs.namespace}/pods"
        ask(self.jobs.server, "POST", path, {"metadata": {"name": name, "labels": labels}, "spec": spec})
        container = {"name": role, "image": "a", "imageID": "", "ready": True, "restartCount": 0}
        container["state"] = state or {"running": {"startedAt": "2026-01-31T12:00:00Z"}}
        self.logs[name] = list(lines)
        status = {"phase": "Running", "containerStatuses": [container]}
        ask(self.jobs.server, "PATCH", f"{path}/{name}/status", {"status": status}, MERGE)


@pytest.fixture
def kubelet(windlass: Windlass, jobs: Jobs, certificate: tuple[Path, Path]) -> Iterator[Kubelet]:
    """A node for the pods of the job plays."""
    assert windlass("submit", "job.yaml", "--no-watch").exit_code == 0
    node = Kubelet(jobs, f"node-{uuid.uuid4().hex[:8]}")

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urllib.parse.urlsplit(self.path)
            _, _, namespace, pod, _ = url.path.split("/")
            assert namespace == jobs.namespace
            node.asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            for line in node.logs[pod]:
                self.wfile.write(f"{line}\n".encode())
            self.wfile.flush()
            if "follow=true" in url.query:
                node.ended.wait(60)

        def log_message(self, *_: Any) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*certificate)
    server.socket = tls.wrap_socket(server.socket, server_side=True)
    with contextlib.ExitStack() as stack:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        stack.callback(server.shutdown)
        stack.callback(node.ended.set)
        ask(jobs.server, "POST", "/api/v1/nodes", {"metadata": {"name": node.name}})
        status = {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": server.server_port}},
        }
        ask(jobs.server, "PATCH", f"/api/v1/nodes/{node.name}/status", {"status": status}, MERGE)
        stack.callback(ask, jobs.server, "DELETE", f"/api/v1/nodes/{node.name}")
        yield node


@pytest.fixture
def three(kubelet: Kubelet) -> Kubelet:
    """A head and two workers with two ranks each."""
    kubelet.pod("worker", "joined", "[rank 0] step 1", "[rank 2] step 1", index=0)
    kubelet.pod("worker", "[rank 1] step 1", "[rank 3] step 1 \x1b[2J", index=1)
    kubelet.pod("head", "attempt 1")
    return kubelet


def test_all_pods_are_printed_the_head_first_each_line_after_its_pod(windlass: Windlass, three: Kubelet) -> None:
    printed = windlass("logs", "plays")
    assert printed.exit_code == 0, printed.stderr
    assert printed.stdout.splitlines() == [
        "[head] attempt 1",
        "[worker-0] joined",
        "[worker-0] [rank 0] step 1",
        "[worker-0] [rank 2] step 1",
        "[worker-1] [rank 1] step 1",
        "[worker-1] [rank 3] step 1 \N{REPLACEMENT CHARACTER}[2J",
    ]


def test_the_head_or_one_rank_is_printed_alone(windlass: Windlass, three: Kubelet) -> None:
    assert windlass("logs", "plays", "--head", "--tail", "3").stdout == "[head] attempt 1\n"
    assert "tailLines=3" in three.asked[-1]
    assert windlass("logs", "plays", "--rank", "2").stdout == "step 1\n"
    assert windlass("logs", "plays", "--rank", "2", "--head").exit_code == 2


def test_a_pod_that_has_not_started_says_what_it_waits_for(windlass: Windlass, kubelet: Kubelet) -> None:
    kubelet.pod("head", waiting={"reason": "ImagePullBackOff", "message": "no such image"})
    printed = windlass("logs", "plays")
    assert printed.exit_code == 0
    assert printed.stderr == "plays-head has not started. ImagePullBackOff: no such image\n"


def test_a_job_without_pods_says_so(windlass: Windlass, kubelet: Kubelet) -> None:
    printed = windlass("logs", "plays")
    assert printed.exit_code == 2
    assert "plays has no pods (new); windlass status plays" in printed.stderr


def test_following_takes_up_new_pods_and_ends_with_the_job(start: Start, kubelet: Kubelet, jobs: Jobs) -> None:
    kubelet.pod("head", "attempt 1")
    command = start("logs", "plays", "--follow")
    command.wait_for("[head] attempt 1")
    kubelet.pod("worker", "[rank 0] step 1", index=0)
    command.wait_for("[worker-0] [rank 0] step 1")
    jobs.report("plays", observedGeneration=1, phase="Succeeded")
    kubelet.ended.set()
    assert command.end() == 0
    assert command.seen == ["[head] attempt 1", "[worker-0] [rank 0] step 1"]
