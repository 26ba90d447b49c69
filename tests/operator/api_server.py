"""A real API server: etcd and kube-apiserver as processes on 127.0.0.1, which a test may kill."""

import contextlib
import json
import socket
import ssl
import subprocess
import time
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from windlass_operator.kubernetes.access import Access, Credentials
from windlass_operator.kubernetes.client import Client

TOKEN = "admin-token"
START_SECONDS = 90


class Etcd:
    """An etcd that keeps its data in a folder."""

    def __init__(self, hyperkube: Path, folder: Path) -> None:
        client, peer = _free_ports(2)
        self.url = f"http://127.0.0.1:{client}"
        command = ["etcd", "--data-dir", folder / "etcd", "--listen-client-urls", self.url, "--advertise-client-urls"]
        command += [self.url, "--listen-peer-urls", f"http://127.0.0.1:{peer}", "--unsafe-no-fsync"]
        self._process = _start(hyperkube, command, folder / "etcd.log")
        _wait_for(f"etcd (see {folder}/etcd.log)", self._process, lambda: self._post("maintenance/status", {}) != {})

    def compact(self) -> None:
        """Forget all revisions but the newest, as the API server has it done every five minutes."""
        revision = self._post("kv/range", {"key": "AA=="})["header"]["revision"]
        self._post("kv/compaction", {"revision": revision, "physical": True})

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(f"{self.url}/v3/{path}", json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=10) as response:
            answer: dict[str, Any] = json.load(response)
            return answer


class ApiServer:
    """A kube-apiserver with a port, a cluster's data and an administrator of its own; `kill` and `start` keep them."""

    def __init__(self, hyperkube: Path, etcd: Etcd, keys: Path, folder: Path) -> None:
        """Start it; `keys` has those that service accounts' tokens are signed with."""
        self.etcd = etcd
        self.token = TOKEN
        self.port = _free_ports(1)[0]
        self.url = f"https://127.0.0.1:{self.port}"
        self._folder = folder
        self._hyperkube = hyperkube
        (folder / "tokens.csv").write_text(f"{TOKEN},admin,admin,system:masters\n")
        self._command = [
            "kube-apiserver",
            f"--etcd-servers={etcd.url}",
            f"--etcd-prefix=/{uuid.uuid4().hex}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--secure-port={self.port}",
            f"--cert-dir={folder}",
            f"--token-auth-file={folder}/tokens.csv",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={keys}/sa.pub",
            f"--service-account-signing-key-file={keys}/sa.key",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--authorization-mode=RBAC",
            "--disable-admission-plugins=ServiceAccount",  # nobody makes a namespace's default one
            "--profiling=false",
        ]
        self.start()

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        log = self._folder / "apiserver.log"
        self._process = _start(self._hyperkube, self._command, log)
        _wait_for(f"kube-apiserver (see {log})", self._process, lambda: self.ask("/readyz") == b"ok")

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        self._process.kill()
        self._process.wait()

    def ask(self, path: str, method: str = "GET", body: Any = None) -> bytes:
        """A request beside those under test."""
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=30, context=self.tls()) as response:
            answer: bytes = response.read()
            return answer

    @property
    def authority(self) -> Path:
        """The certificate that vouches for the server's."""
        return self._folder / "apiserver.crt"

    def tls(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.authority))

    def access(self) -> Access:
        """As the administrator."""
        credentials = Credentials(self.url, f"Bearer {TOKEN}", self.tls())
        return Access(lambda anew: credentials)

    def client(self, **options: Any) -> Client:
        """To be used in an `async with`."""
        return Client(self.access(), **options)

    def kubeconfig(self) -> Path:
        """A file that says how to reach it."""
        path = self._folder / "kubeconfig"
        cluster = {"server": self.url, "certificate-authority": str(self.authority)}
        text = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "admin", "user": {"token": TOKEN}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
        }
        path.write_text(json.dumps(text))
        return path

    def namespace(self) -> str:
        """Name of a new namespace."""
        name = f"test-{uuid.uuid4().hex[:12]}"
        self.ask("/api/v1/namespaces", "POST", {"metadata": {"name": name}})
        return name


def _start(hyperkube: Path, command: list[Any], log: Path) -> subprocess.Popen[bytes]:
    with open(log, "ab") as output:
        return subprocess.Popen(
            [str(part) for part in command],
            executable=hyperkube,
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
        )


def _wait_for(what: str, process: subprocess.Popen[bytes], ready: Callable[[], bool]) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError):  # of which urllib's errors are
            if ready():
                return
        time.sleep(0.1)
    raise RuntimeError(f"{what} does not start")


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as listeners:
        sockets = [listeners.enter_context(socket.socket()) for _ in range(count)]
        for listener in sockets:
            listener.bind(("127.0.0.1", 0))
        return [int(listener.getsockname()[1]) for listener in sockets]
