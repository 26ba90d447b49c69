"""The operator with hundreds of jobs on simulated nodes, beside plain Deployments with as many pods.

    python benchmarks/operator_scale.py --jobs 200 --jobs 1000 --idle 300

KUBECONFIG names a cluster whose simulated nodes (kwok) carry the label type=kwok and the taint kwok.x-k8s.io/node, and
whose simulated pods' addresses lead to this machine: one server here, on port 8080, answers for all heads. Every job
has a head and two workers, a control Deployment three pods. The operator runs here as one process, so that CPU seconds
and memory are its own. Prints a table as in docs/benchmarks.md.
"""

import argparse
import asyncio
import atexit
import contextlib
import json
import multiprocessing
import os
import re
import secrets
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import pairwise
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import psutil
from aiohttp import web
from kubernetes import client as api
from kubernetes.config.kube_config import load_kube_config

from windlass_operator.controller import PROGRESS_WRITES_A_SECOND

CRD = Path(__file__).parents[1] / "manifests/crd/llmtrainingjobs.windlass.dev.yaml"
GROUP, VERSION, PLURAL = "windlass.dev", "v1alpha1", "llmtrainingjobs"
HEADS_PORT, METRICS_PORT = 8080, 18080
PLACEMENT = {"nodeSelector": {"type": "kwok"}, "tolerations": [{"key": "kwok.x-k8s.io/node", "operator": "Exists"}]}
PODS_OF_A_JOB = 3
CREATORS = 8
"""Requests side by side that create jobs, or Deployments."""
STEPS = 100_000
PROBES = 50
"""Jobs that reactions are measured on."""
TRAINING = 60
"""Seconds for which all jobs make steps."""
_CALL = re.compile(r"^windlass_operator_api_requests_total\{(.*)\} ([0-9.e+]+)$", re.MULTILINE)


def job(name: str) -> dict[str, Any]:
    template = {"spec": PLACEMENT}
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "LLMTrainingJob",
        "metadata": {"name": name},
        "spec": {
            "model": {"preset": "gpt2-tiny"},
            "data": {"train": [{"uri": "s3://corpora/none"}]},
            "training": {"maxSteps": STEPS},
            "checkpoints": {"uri": f"s3://runs/{name}"},
            "workers": {"replicas": PODS_OF_A_JOB - 1, "template": template},
            "head": {"template": template},
        },
    }


def deployment(name: str) -> dict[str, Any]:
    labels = {"control": name}
    container = {"name": "main", "image": "none", "resources": {"requests": {"cpu": "100m"}}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": PODS_OF_A_JOB,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container], **PLACEMENT}},
        },
    }


def serve_heads(paused: Event) -> None:
    """The answer of every head: it trains since it was first asked, a step a second unless that is `paused`.

    As a head does, it holds a question of one who knows that already.
    """
    asked: dict[str, datetime] = {}
    steps: dict[str, int] = {}

    async def progress(request: web.Request) -> web.Response:
        head = request.headers["Authorization"]  # each job has a token of its own
        since = asked.setdefault(head, datetime.now(UTC))
        await asyncio.sleep(float(request.query.get("wait", 0)))
        if not paused.is_set() or head not in steps:
            steps[head] = 10 + (datetime.now(UTC) - since).seconds
        answer = {
            "version": "1",
            "attempt": 1,
            "phase": "Running",
            "message": "Training",
            "since": since.isoformat(),
            "workers": {"joined": 2, "training": 2},
            "progress": {"step": steps[head], "maxSteps": STEPS, "loss": 3.0},
        }
        return web.json_response(answer)

    application = web.Application()
    application.router.add_get("/progress", progress)
    web.run_app(application, host="0.0.0.0", port=HEADS_PORT, print=None, access_log=None)


class Watcher:
    """Follows objects from a thread; `when` has the moment at which each (event, name) was first seen."""

    def __init__(self, path: str, namespace: str, reached: Callable[[dict[str, Any]], bool] = lambda _: True) -> None:
        self.when: dict[tuple[str, str], float] = {}
        self._path, self._namespace, self._reached = path, namespace, reached
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        path = f"{self._path.format(namespace=self._namespace)}?watch=true&timeoutSeconds=7200"
        while True:  # the server may end it; the next one begins with what there is
            with subprocess.Popen(["kubectl", "get", "--raw", path], stdout=subprocess.PIPE) as kubectl:
                assert kubectl.stdout is not None
                atexit.register(kubectl.kill)
                for line in kubectl.stdout:
                    event = json.loads(line)
                    if event["type"] == "DELETED" or self._reached(event["object"]):
                        name = event["object"]["metadata"]["name"]
                        self.when.setdefault((event["type"], name), time.monotonic())
                        self.when.setdefault(("reached", name), time.monotonic())
            time.sleep(1)

    def reached(self, prefix: str) -> dict[str, float]:
        return {
            name: at for (kind, name), at in list(self.when.items()) if kind == "reached" and name.startswith(prefix)
        }


class Operator:
    """The operator's process, and what it says of itself."""

    def __init__(self, key: Path, namespace: str) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        self.started = time.monotonic()
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "windlass_operator.main", "--trainer-image", "none", "--key-file", str(key)),
                *("--listen", f"127.0.0.1:{METRICS_PORT}", "--watch-namespace", namespace, "--log-level", "WARNING"),
            ],
            stdout=self._log,
            stderr=self._log,
        )
        self._psutil = psutil.Process(self._process.pid)
        while not self._answers("readyz"):
            if self._process.poll() is not None:
                self._log.seek(0)
                sys.exit(f"The operator ended:\n{self._log.read().decode()}")
            time.sleep(0.02)

    def _answers(self, path: str) -> bool:
        try:
            with urlopen(f"http://127.0.0.1:{METRICS_PORT}/{path}", timeout=5) as response:
                return bool(response.status == 200)
        except (URLError, OSError):
            return False

    def metrics(self) -> str:
        with urlopen(f"http://127.0.0.1:{METRICS_PORT}/metrics", timeout=30) as response:
            return str(response.read().decode())

    def calls(self) -> Counter[tuple[str, str, str]]:
        """Requests so far, by verb, resource and code."""
        found: Counter[tuple[str, str, str]] = Counter()
        for labels, value in _CALL.findall(self.metrics()):
            fields = dict(re.findall(r'(\w+)="([^"]*)"', labels))
            found[fields["verb"], fields["resource"], fields["code"]] += int(float(value))
        return found

    def looks(self) -> int:
        """How often a job was looked at so far."""
        return sum(
            int(float(value))
            for value in re.findall(r"^windlass_operator_reconcile_seconds_count\{.*\} (\S+)$", self.metrics(), re.M)
        )

    def cpu_seconds(self) -> float:
        times = self._psutil.cpu_times()
        return float(times.user + times.system)

    def memory(self, what: str = "VmRSS") -> float:
        """MiB; VmHWM is the peak."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(re.search(rf"{what}:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]  # Linux has both

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()


WRITES = {"create", "apply", "patch", "delete", "update", "POST", "PUT", "PATCH", "DELETE"}


def writes(calls: Counter[tuple[str, str, str]]) -> int:
    return sum(count for (verb, _, _), count in calls.items() if verb in WRITES)


def until(what: str, done: Callable[[], bool], seconds: float = 900, pause: float = 0.05) -> None:
    """Wait until it is so."""
    start = time.monotonic()
    while not done():
        if time.monotonic() - start > seconds:
            sys.exit(f"Not within {seconds:.0f} s: {what}")
        time.sleep(pause)


@contextlib.contextmanager
def namespace(name: str) -> Iterator[str]:
    core = api.CoreV1Api()
    core.create_namespace(api.V1Namespace(metadata=api.V1ObjectMeta(name=name)))
    try:
        yield name
    finally:
        core.delete_namespace(name, propagation_policy="Background")
        until("the namespace is gone", lambda: not core.list_namespace(field_selector=f"metadata.name={name}").items)


def create_all(create: Callable[[str], Any], names: list[str]) -> dict[str, float]:
    """When each was created."""

    def one(name: str) -> tuple[str, float]:
        at = time.monotonic()
        create(name)
        return name, at

    with ThreadPoolExecutor(CREATORS) as pool:
        return dict(pool.map(one, names))


CONTROL_PLANE = ("kube-apiserver", "etcd", "kube-controller-manager", "kube-scheduler", "kwok")


def control_plane_cpu() -> Counter[str]:
    """CPU milliseconds so far of the control plane's processes on this machine; empty where it runs elsewhere."""
    spent: Counter[str] = Counter()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            name = Path(next(iter(process.cmdline()), "")).name
            if name in CONTROL_PLANE:
                times = process.cpu_times()
                spent[name] += round((times.user + times.system) * 1000)
    return spent


def control(count: int) -> tuple[float, Counter[str]]:
    """Seconds until all pods of as many plain Deployments are ready, and the control plane's CPU milliseconds.

    The Deployments' own status may come later.
    """
    apps = api.AppsV1Api()
    with namespace(f"scale-control-{count}") as space:
        ready = Watcher(
            "/api/v1/namespaces/{namespace}/pods",
            space,
            lambda item: any(
                (condition["type"], condition["status"]) == ("Ready", "True")
                for condition in item["status"].get("conditions", [])
            ),
        )
        start, plane = time.monotonic(), control_plane_cpu()
        create_all(
            lambda name: apps.create_namespaced_deployment(space, deployment(name)),  # type: ignore[arg-type]  # as JSON
            [f"c{i}" for i in range(count)],
        )
        until("all their pods are ready", lambda: len(ready.reached("c")) == count * PODS_OF_A_JOB)
        return max(ready.reached("c").values()) - start, control_plane_cpu() - plane


def measure(count: int, idle: int, key: Path, paused: Event) -> list[tuple[str, str]]:
    """Rows of the table for one number of jobs."""
    paused.clear()
    custom, core = api.CustomObjectsApi(), api.CoreV1Api()
    deployments, plane_of_control = control(count)
    with namespace(f"scale-jobs-{count}") as space:
        running = Watcher(
            f"/apis/{GROUP}/{VERSION}/namespaces/{{namespace}}/{PLURAL}",
            space,
            lambda item: item.get("status", {}).get("phase") == "Running",
        )
        pods = Watcher("/api/v1/namespaces/{namespace}/pods", space)
        operator = Operator(key, space)
        before, cpu, plane = operator.calls(), operator.cpu_seconds(), control_plane_cpu()

        def create(name: str) -> None:
            custom.create_namespaced_custom_object(GROUP, VERSION, space, PLURAL, job(name))

        start = time.monotonic()
        created = create_all(create, [f"j{i}" for i in range(count)])
        until("all jobs are Running", lambda: len(running.reached("j")) == count)
        seen = running.reached("j")
        total = max(seen.values()) - start
        own = sorted(seen[name] - created[name] for name in created)
        used, calls = operator.cpu_seconds() - cpu, operator.calls() - before
        plane_of_jobs = control_plane_cpu() - plane
        rows = [
            (f"{count} Deployments of {PODS_OF_A_JOB} pods ready", f"{deployments:.1f} s"),
            (f"{count} jobs Running", f"{total:.1f} s, {total / deployments:.2f} x the control"),
            ("a job's own time, p50 / p95", f"{own[count // 2]:.1f} / {own[int(count * 0.95)]:.1f} s"),
            ("operator's CPU per job", f"{used / count * 1000:.1f} ms"),
            ("control plane's CPU per job, and per Deployment", _each(plane_of_jobs, plane_of_control, count)),
            ("memory, peak", f"{operator.memory('VmHWM'):.0f} MiB"),
            ("API calls per job", f"{sum(calls.values()) / count:.1f}: {_by_verb(calls, count)}"),
            ("conflicts", str(sum(n for (_, _, code), n in calls.items() if code == "409"))),
        ]

        paused.set()  # reactions are those of an operator that has nothing else to do
        time.sleep(15)
        probes = [f"p{i}" for i in range(PROBES)]
        reactions = []
        for name in probes:
            at = time.monotonic()
            create(name)
            wanted = [("ADDED", f"{name}-{suffix}") for suffix in ("head", "worker-0", "worker-1")]
            until("three pods exist", lambda wanted=wanted: all(key in pods.when for key in wanted))  # type: ignore[misc]
            reactions.append(max(pods.when[key] for key in wanted) - at)
        until("the probes are Running", lambda: len(running.reached("p")) == PROBES)
        rows.append(("create -> 3 pods exist, p50 / p95", _milliseconds(reactions)))

        replaced = []
        for name in probes:
            lost = f"{name}-worker-1"
            for kind in ("ADDED", "DELETED"):
                pods.when.pop((kind, lost), None)
            core.delete_namespaced_pod(lost, space, grace_period_seconds=0)
            until("the pod is replaced", lambda lost=lost: ("ADDED", lost) in pods.when)  # type: ignore[misc]
            replaced.append(pods.when["ADDED", lost] - pods.when["DELETED", lost])
        rows.append(("pod lost -> replacement exists, p50 / p95", _milliseconds(replaced)))

        paused.clear()
        time.sleep(15)
        rows.append((f"{count + PROBES} jobs train for {TRAINING} s", _over(operator, TRAINING)))
        paused.set()
        time.sleep(15 + (count + PROBES) / PROGRESS_WRITES_A_SECOND)  # until the last progress is told
        operator.kill()
        operator = Operator(key, space)
        # Its metrics cost it some milliseconds each time.
        until("all jobs were looked at", lambda: operator.looks() >= count + PROBES, pause=0.2)
        took, cpu = time.monotonic() - operator.started, operator.cpu_seconds()
        time.sleep(15)
        rows.append(
            ("killed and started", f"{took:.1f} s, {cpu:.1f} CPU-s, {writes(operator.calls())} writes in 15 s after")
        )
        if idle:
            rows.append((f"idle for {idle} s", _over(operator, idle)))
        operator.kill()
    return rows


def _over(operator: Operator, seconds: int) -> str:
    """What the operator does in this time."""
    before, samples = operator.calls(), [operator.cpu_seconds()]
    for _ in range(seconds // 5):
        time.sleep(5)
        samples.append(operator.cpu_seconds())
    spent = [after - earlier for earlier, after in pairwise(samples)]
    return (
        f"{writes(operator.calls() - before)} writes, {sum(spent):.1f} CPU-s, at most {max(spent):.2f} in 5 s, "
        f"{operator.memory():.0f} MiB"
    )


def _each(jobs: Counter[str], deployments: Counter[str], count: int) -> str:
    parts = [
        f"{name} {jobs[name] / count:.0f}, {deployments[name] / count:.0f}" for name in CONTROL_PLANE if jobs[name]
    ]
    return f"ms: {'; '.join(parts)}" if parts else "not on this machine"


def _by_verb(calls: Counter[tuple[str, str, str]], count: int) -> str:
    verbs: Counter[str] = Counter()
    for (verb, resource, _), number in calls.items():
        verbs[f"{verb} {resource}"] += number
    return ", ".join(f"{name} {number / count:.1f}" for name, number in verbs.most_common() if number >= count / 20)


def _milliseconds(seconds: list[float]) -> str:
    cut = statistics.quantiles(seconds, n=20)
    return f"{statistics.median(seconds) * 1000:.0f} / {cut[-1] * 1000:.0f} ms"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, action="append", help="how many; may be given again")
    parser.add_argument("--idle", type=int, default=300, help="seconds")
    options = parser.parse_args()
    load_kube_config(os.environ.get("KUBECONFIG"))
    subprocess.run(["kubectl", "apply", "--server-side", "--force-conflicts", "-f", str(CRD)], check=True)
    paused = multiprocessing.Event()
    heads = multiprocessing.Process(target=serve_heads, args=(paused,), daemon=True)
    heads.start()
    with tempfile.NamedTemporaryFile() as key:
        key.write(secrets.token_hex(32).encode())
        key.flush()
        for count in options.jobs or [200]:
            print(f"\n| {count} jobs | measured |\n| --- | --- |")
            for what, value in measure(count, options.idle, Path(key.name), paused):
                print(f"| {what} | {value} |", flush=True)
    heads.terminate()


if __name__ == "__main__":
    main()
