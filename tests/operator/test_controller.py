"""The controller against a real API server; the test is the kubelet, and heads are real servers on loopback."""

import asyncio
import base64
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry
from ruamel.yaml import YAML
from tests.operator.api_server import ApiServer

from windlass_operator import progress
from windlass_operator.controller import JOBS, Controller
from windlass_operator.kubernetes.client import Client
from windlass_operator.kubernetes.resources import EVENTS, NODES, PODS, Object, Resource, resource_of
from windlass_operator.settings import Settings

ROOT = Path(__file__).parents[2]
SETTINGS = Settings(trainer_image="localhost/windlass-trainer:test", key=b"0123456789abcdef")
QUOTAS = Resource("", "v1", "resourcequotas", "ResourceQuota")
ADDRESS = "127.0.0.77"
NODE = {"metadata": {"name": "node1"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}}


@pytest.fixture(scope="module")
def server(api_server: ApiServer) -> ApiServer:
    """With the CRD, and a node."""
    crd = YAML(typ="safe").load((ROOT / "manifests/crd/llmtrainingjobs.windlass.dev.yaml").read_text())
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    with contextlib.suppress(OSError):  # another test of the same server has made it
        api_server.ask(path, "POST", crd)
    with contextlib.suppress(OSError):
        api_server.ask("/api/v1/nodes", "POST", NODE)

    async def established() -> None:
        async with api_server.client() as client:
            async with asyncio.timeout(30):
                while True:
                    with contextlib.suppress(Exception):
                        await client.list(JOBS)
                        return
                    await asyncio.sleep(0.1)

    asyncio.run(established())
    return api_server


def job(namespace: str, **changes: Any) -> Object:
    spec = {
        "model": {"preset": "gpt2-nano"},
        "data": {"train": [{"uri": "s3://corpora/plays"}]},
        "training": {"maxSteps": 100},
        "checkpoints": {"uri": "s3://runs/plays"},
        "workers": {"replicas": 2},
    }
    return {
        "apiVersion": JOBS.api_version,
        "kind": JOBS.kind,
        "metadata": {"name": "plays", "namespace": namespace},
        "spec": spec | changes,
    }


class World:
    """A namespace with a controller, and the test in the place of kubelets and heads."""

    def __init__(self, client: Client, namespace: str) -> None:
        self.client, self.namespace = client, namespace
        self.answer: dict[str, Any] | None = None
        self.pace = 0
        """Steps from one answer of the head to the next."""
        self.asked_with: set[str | None] = set()
        self.dead = False
        """Whether nothing answers."""

    async def pods(self) -> dict[str, Object]:
        items, _ = await self.client.list(PODS, self.namespace)
        return {pod["metadata"]["name"]: pod for pod in items}

    async def status(self) -> Any:
        return (await self.client.get(JOBS, self.namespace, "plays")).get("status", {})

    async def until(self, what: str, test: Callable[[], Any]) -> Any:
        async with asyncio.timeout(30):
            while not (value := await test()):
                await asyncio.sleep(0.05)
        assert value, what
        return value

    async def until_pods(self, *names: str) -> dict[str, Object]:
        async def there() -> Any:
            pods = await self.pods()
            return set(pods) == set(names) and pods

        pods: dict[str, Object] = await self.until(f"the pods are {names}", there)
        return pods

    async def until_phase(self, phase: str) -> Any:
        async def reached() -> Any:
            status = await self.status()
            return status.get("phase") == phase and status

        return await self.until(phase, reached)

    async def run_pods(self, *names: str) -> None:
        """As kubelets would: these pods, or all, run and are ready."""
        for name, pod in (await self.pods()).items():
            if names and name not in names:
                continue
            role = pod["metadata"]["labels"]["app.kubernetes.io/component"]
            status = {
                "phase": "Running",
                "podIP": ADDRESS,
                "podIPs": [{"ip": ADDRESS}],
                "conditions": [{"type": "Ready", "status": "True"}],
                "containerStatuses": [_container(role, {"running": {}})],
            }
            await self.client.merge_patch(PODS, self.namespace, name, {"status": status}, subresource="status")

    async def end_head(self, code: int, word: dict[str, Any]) -> None:
        terminated = {"exitCode": code, "message": json.dumps(word)}
        status = {
            "phase": "Failed" if code else "Succeeded",
            "containerStatuses": [_container("head", {"terminated": terminated})],
        }
        await self.client.merge_patch(PODS, self.namespace, "plays-head", {"status": status}, subresource="status")

    async def train(self) -> dict[str, Object]:
        """From nothing to a job that trains; its pods."""
        await self.client.create(JOBS, job(self.namespace))
        pods = await self.until_pods(*ALL)
        self.trains()
        await self.run_pods()
        await self.until_phase("Running")
        return pods

    def trains(self, attempt: int = 1, step: int = 10) -> None:
        """From now on the head says so."""
        self.answer = {
            "attempt": attempt,
            "phase": "Running",
            "since": datetime.now(UTC).isoformat(),
            "workers": {"training": 2},
            "progress": {"step": step, "maxSteps": 100, "loss": 3.25},
            "checkpoint": {"step": 5, "uri": "s3://runs/plays/step-5", "committedAt": "2026-01-31T12:00:00Z"},
        }

    async def progress(self, request: web.Request) -> web.Response:
        self.asked_with.add(request.headers.get("Authorization"))
        known, until = request.query.get("version"), time.monotonic() + float(request.query.get("wait", 0))
        while self.version == known and time.monotonic() < until and not self.dead:
            await asyncio.sleep(0.05)
        if self.dead and request.transport:
            request.transport.close()
        if self.answer:
            self.answer["progress"]["step"] += self.pace
        return web.json_response(self.answer | {"version": self.version}) if self.answer else web.Response(status=503)

    @property
    def version(self) -> str:
        """Of what the head has to tell but progress."""
        return str(
            {name: value for name, value in (self.answer or {}).items() if name not in ("progress", "checkpoint")}
        )


def _container(name: str, state: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "image": "i", "imageID": "", "ready": True, "restartCount": 0, "state": state}


def _controller(client: Client, namespace: str, registry: CollectorRegistry) -> Controller:
    settings = Settings(SETTINGS.trainer_image, SETTINGS.key, watched_namespaces=(namespace,))
    return Controller(client, settings, "test", registry)


@asynccontextmanager
async def controller(server: ApiServer, namespace: str) -> AsyncIterator[CollectorRegistry]:
    """One that works until the end of the block; gives the registry of its metrics."""
    registry = CollectorRegistry()
    async with server.client(registry=registry) as client:
        made = _controller(client, namespace, registry)
        tasks = [asyncio.create_task(made.run_informers()), asyncio.create_task(made.run())]
        try:
            yield registry
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def world(server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    async with server.client() as client:
        made = World(client, server.namespace())
        application = web.Application()
        application.router.add_get("/progress", made.progress)
        runner = web.AppRunner(application)
        await runner.setup()
        site = web.TCPSite(runner, ADDRESS, 0)
        await site.start()
        monkeypatch.setattr(progress, "PORT", runner.addresses[0][1])
        try:
            yield made
        finally:
            await runner.cleanup()


ALL = ("plays-head", "plays-worker-0", "plays-worker-1")


def test_a_job_gets_its_pods_trains_and_succeeds(server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        async with world(server, monkeypatch) as here, controller(server, here.namespace):
            created = await here.client.create(JOBS, job(here.namespace))
            pods = await here.until_pods(*ALL)
            assert {pod["metadata"]["ownerReferences"][0]["uid"] for pod in pods.values()} == {
                created["metadata"]["uid"]
            }
            assert (await here.until_phase("Starting"))["attempt"] == 1
            here.trains()
            await here.run_pods()
            status = await here.until_phase("Running")
            assert (status["progress"]["step"], status["progress"]["loss"]) == (10, 3.25)
            assert here.asked_with == {f"Bearer {SETTINGS.token(created['metadata']['uid'])}"}
            await here.end_head(0, {"status": "Succeeded", "result": {"uri": "s3://runs/plays/export"}})
            status = await here.until_phase("Succeeded")
            assert status["result"]["uri"] == "s3://runs/plays/export"

            async def last_event() -> Any:
                """All, once the last is there: a status is written before its events."""
                events, _ = await here.client.list(EVENTS, here.namespace)
                reasons = [event["reason"] for event in events if event["involvedObject"]["kind"] == JOBS.kind]
                return "Succeeded" in reasons and reasons

            told = await here.until("the last event", last_event)
            assert {"Started", "Running", "Succeeded"} <= set(told)
            assert len(told) == len(set(told))

    asyncio.run(story())


def test_what_is_left_of_an_earlier_start_becomes_the_job_s(server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the operator died between the Secret and the pods, and its key was renewed."""

    async def story() -> None:
        async with world(server, monkeypatch) as here:
            metadata = {"name": "plays-token", "namespace": here.namespace}
            secret = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": {"token": "b2xk"}}
            await here.client.create(resource_of(secret), secret)
            async with controller(server, here.namespace):
                created = await here.client.create(JOBS, job(here.namespace))
                await here.until_pods(*ALL)
                found = await here.client.get(resource_of(secret), here.namespace, "plays-token")
                token = SETTINGS.token(created["metadata"]["uid"])
                assert base64.b64decode(found["data"]["token"]).decode() == token
                assert found["metadata"]["ownerReferences"][0]["uid"] == created["metadata"]["uid"]

    asyncio.run(story())


def test_pods_that_come_one_by_one_are_one_write(server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        async with world(server, monkeypatch) as here, controller(server, here.namespace) as registry:

            async def writes(expected: int) -> float:
                """At least as many as expected: a write is counted when its answer arrives, others see it earlier."""

                async def counted() -> Any:
                    labels = {"verb": "apply", "resource": "llmtrainingjobs/status", "code": "200"}
                    number = registry.get_sample_value("windlass_operator_api_requests_total", labels) or 0
                    return number >= expected and number

                return float(await here.until(f"{expected} writes", counted))

            await here.client.create(JOBS, job(here.namespace))
            await here.until_pods(*ALL)
            for name in ALL:
                await here.run_pods(name)
                await asyncio.sleep(0.3)
            assert await writes(1) == 1, "that the attempt starts"

            async def all_there() -> Any:
                return (await here.status())["columns"].get("workers") == "2/2"

            await here.until("the pods are told of", all_there)
            assert await writes(2) == 2
            here.trains()
            await here.until_phase("Running")
            assert await writes(3) == 3

    asyncio.run(story())


def test_only_the_pod_that_is_lost_is_made_again(server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        async with world(server, monkeypatch) as here, controller(server, here.namespace):
            before = await here.train()
            await here.client.delete(PODS, here.namespace, "plays-worker-1", grace_seconds=0)

            async def replaced() -> Any:
                pods = await here.pods()
                return (
                    len(pods) == 3
                    and pods["plays-worker-1"]["metadata"]["uid"] != (before["plays-worker-1"]["metadata"]["uid"])
                )

            await here.until("worker 1 is another pod", replaced)
            status = await here.until_phase("Recovering")
            assert status["attempt"] == 1
            after = await here.pods()
            for name in ("plays-head", "plays-worker-0"):
                assert after[name]["metadata"]["uid"] == before[name]["metadata"]["uid"]

    asyncio.run(story())


def test_a_lost_head_is_a_new_attempt_and_the_workers_stay(server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        async with world(server, monkeypatch) as here, controller(server, here.namespace):
            before = await here.train()
            here.answer = None
            await here.client.delete(PODS, here.namespace, "plays-head", grace_seconds=0)

            async def second() -> Any:
                head = (await here.pods()).get("plays-head")
                return head and head["metadata"]["labels"]["windlass.dev/attempt"] == "2" and head

            await here.until("the head of attempt 2", second)
            status = await here.status()
            assert (status["phase"], status["attempt"]) == ("Recovering", 2)
            assert status["failures"][-1]["reason"] in {"HeadLost", "Evicted"}, "whichever the deletion was seen as"
            after = await here.pods()
            for name in ("plays-worker-0", "plays-worker-1"):
                assert after[name]["metadata"]["uid"] == before[name]["metadata"]["uid"]

    asyncio.run(story())


def test_a_head_that_answers_no_more_does_not_train_though_its_pod_is_ready(
    server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "HOLD_SECONDS", 0.5)
    monkeypatch.setattr(progress, "RETRY_SECONDS", 0.1)
    monkeypatch.setattr(progress, "SILENT_SECONDS", 1.0)

    async def story() -> None:
        async with world(server, monkeypatch) as here, controller(server, here.namespace):
            pods = await here.train()
            answer, here.answer = here.answer, None  # it lives, and does not say what it should
            await asyncio.sleep(2)
            assert (await here.status())["phase"] == "Running"
            here.answer, here.dead = answer, True  # as on a node without power that the control plane believes in
            status = await here.until_phase("Recovering")
            training = next(item for item in status["conditions"] if item["type"] == "Training")
            assert (training["reason"], training["message"]) == ("HeadLost", "Pod plays-head does not answer.")
            here.dead = False
            assert (await here.until_phase("Running"))["attempt"] == 1
            assert {name: pod["metadata"]["uid"] for name, pod in (await here.pods()).items()} == {
                name: pod["metadata"]["uid"] for name, pod in pods.items()
            }

    asyncio.run(story())


def test_an_operator_that_leads_again_hears_the_heads_again(server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        async with world(server, monkeypatch) as here, server.client() as client:
            made = _controller(client, here.namespace, CollectorRegistry())
            informers = asyncio.create_task(made.run_informers())
            await here.client.create(JOBS, job(here.namespace))
            for phase in ("Running", "Recovering"):
                leading = asyncio.create_task(made.run())
                await here.until_pods(*ALL)
                await here.run_pods()
                here.trains()
                assert here.answer
                here.answer["phase"] = phase
                await here.until_phase(phase)
                leading.cancel()
                await asyncio.gather(leading, return_exceptions=True)
            informers.cancel()
            await asyncio.gather(informers, return_exceptions=True)

    asyncio.run(story())


def test_an_operator_that_starts_again_writes_nothing(server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        async with world(server, monkeypatch) as here:
            async with controller(server, here.namespace):
                await here.client.create(JOBS, job(here.namespace))
                await here.until_pods(*ALL)
                here.trains()
                await here.run_pods()
                await here.until_phase("Running")
                await asyncio.sleep(1.5)  # the last writes
            version = (await here.client.get(JOBS, here.namespace, "plays"))["metadata"]["resourceVersion"]
            async with controller(server, here.namespace) as registry:
                await asyncio.sleep(3)
                asked = {
                    sample.labels["verb"]
                    for metric in registry.collect()
                    if metric.name == "windlass_operator_api_requests"
                    for sample in metric.samples
                }
            assert asked <= {"list", "watch"}
            assert (await here.client.get(JOBS, here.namespace, "plays"))["metadata"]["resourceVersion"] == version

    asyncio.run(story())


def test_no_step_is_lost_where_the_answer_to_a_write_comes_before_its_event(
    server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Client.watch

    async def late(*arguments: Any, **options: Any) -> AsyncIterator[tuple[str, Object]]:
        async with aclosing(watch(*arguments, **options)) as events:
            async for event in events:
                await asyncio.sleep(0.2)
                yield event

    async def story() -> None:
        async with world(server, monkeypatch) as here, controller(server, here.namespace):
            checkpoints = {"uri": "s3://runs/plays", "onDelete": "Delete"}
            lifecycle = {"ttlSecondsAfterFinished": 1}
            await here.client.create(JOBS, job(here.namespace, checkpoints=checkpoints, lifecycle=lifecycle))
            await here.until_pods(*ALL)  # after the finalizer
            await here.end_head(0, {"status": "Succeeded"})

            async def gone() -> bool:
                resource = await here.client.get(JOBS, here.namespace, "plays")
                return "deletionTimestamp" in resource["metadata"]

            await here.until("the job is deleted when its time after the end is over", gone)

    monkeypatch.setattr(Client, "watch", late)
    asyncio.run(story())


def test_a_job_that_cannot_run_fails_with_what_is_wrong_and_makes_no_pod(
    server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        async with world(server, monkeypatch) as here, controller(server, here.namespace):
            # What CEL cannot see: rotary positions need an even head size.
            model = {"preset": "llama-tiny", "config": {"hiddenSize": 12, "heads": 4, "kvHeads": 4}}
            await here.client.create(JOBS, job(here.namespace, model=model))
            status = await here.until_phase("Failed")
            failed = next(item for item in status["conditions"] if item["type"] == "Failed")
            assert failed["reason"] == "ConfigInvalid"
            assert "spec.model.config" in failed["message"]
            assert await here.pods() == {}

    asyncio.run(story())


def test_a_template_that_the_api_server_refuses_fails_the_job_in_its_words(
    server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        async with world(server, monkeypatch) as here, controller(server, here.namespace):
            template = {"spec": {"nodeSelectr": {"gpu": "h100"}}}
            await here.client.create(JOBS, job(here.namespace, workers={"replicas": 2, "template": template}))
            status = await here.until_phase("Failed")
            failed = next(item for item in status["conditions"] if item["type"] == "Failed")
            assert failed["reason"] == "ConfigInvalid"
            assert 'unknown field "spec.nodeSelectr"' in failed["message"]

    asyncio.run(story())


def test_a_quota_that_is_full_is_said_and_waited_for(server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        async with world(server, monkeypatch) as here, controller(server, here.namespace):
            quota = {"metadata": {"name": "full"}, "spec": {"hard": {"pods": "1"}}}
            path = f"/api/v1/namespaces/{here.namespace}/resourcequotas"
            made = json.loads(await asyncio.to_thread(server.ask, path, "POST", quota))
            status = {"status": {"hard": {"pods": "1"}, "used": {"pods": "0"}}}
            await here.client.merge_patch(QUOTAS, here.namespace, "full", status, subresource="status")
            await here.client.create(JOBS, job(here.namespace))

            async def said() -> Any:
                """Other words come first where the API server's own cache has yet to see the quota's status."""
                conditions = (await here.status()).get("conditions", [])
                refusals = [item["message"] for item in conditions if item["reason"] == "PodRefused"]
                return any("exceeded quota: full" in message for message in refusals)

            await here.until("the quota's words", said)
            await here.client.delete(QUOTAS, here.namespace, made["metadata"]["name"])
            await here.until_pods(*ALL)

    asyncio.run(story())


async def run_on_node1(server: ApiServer, here: World) -> None:
    """The job trains, with a worker on node1."""
    await here.client.create(JOBS, job(here.namespace))
    await here.until_pods(*ALL)
    binding = {
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": "plays-worker-0"},
        "target": {"kind": "Node", "name": "node1"},
    }
    path = f"/api/v1/namespaces/{here.namespace}/pods/plays-worker-0/binding"
    await asyncio.to_thread(server.ask, path, "POST", binding)
    here.trains()
    await here.run_pods()
    await here.until_phase("Running")


@asynccontextmanager
async def silent(client: Client, *nodes: str) -> AsyncIterator[None]:
    """The control plane does not hear of these nodes."""
    try:
        for name in nodes:
            await hear(client, name, "Unknown")
        yield
    finally:
        for name in nodes:
            await hear(client, name, "True")


async def hear(client: Client, node: str, ready: str) -> None:
    status = {"status": {"conditions": [{"type": "Ready", "status": ready}]}}
    await client.merge_patch(NODES, None, node, status, subresource="status")


async def lost(here: World) -> bool:
    return any(item["reason"] == "NodeLost" for item in (await here.status()).get("failures", []))


def test_pods_of_a_node_that_is_lost_are_deleted_by_force(server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        async with world(server, monkeypatch) as here, controller(server, here.namespace):
            await run_on_node1(server, here)
            before = await here.pods()

            async def elsewhere() -> Any:
                pod = (await here.pods()).get("plays-worker-0")
                return pod and pod["metadata"]["uid"] != before["plays-worker-0"]["metadata"]["uid"]

            async with silent(here.client, "node1"):
                await here.until("NodeLost", lambda: lost(here))
                await here.until("worker 0 is another pod", elsewhere)

    asyncio.run(story())


def test_a_node_that_is_silent_is_not_lost_while_its_job_makes_steps(
    server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "HOLD_SECONDS", 0.2)

    async def story() -> None:
        async with world(server, monkeypatch) as here, controller(server, here.namespace):
            here.pace = 1
            await run_on_node1(server, here)

            async def asked_often() -> bool:
                return here.answer is not None and here.answer["progress"]["step"] >= 14

            await here.until("steps from one answer to the next", asked_often)
            async with silent(here.client, "node1"):
                await asyncio.sleep(progress.ANSWER_SECONDS + 2)  # each step speaks for the node for less than that
                assert not await lost(here)
                here.pace = 0
                await here.until("NodeLost", lambda: lost(here))

    asyncio.run(story())


def test_a_node_that_the_cache_does_not_have_is_lost_only_where_the_api_server_has_none(
    server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        async with world(server, monkeypatch) as here, server.client() as client:
            made = _controller(client, here.namespace, CollectorRegistry())
            tasks = [asyncio.create_task(made.run_informers()), asyncio.create_task(made.run())]
            await run_on_node1(server, here)
            node = made.nodes.get(None, "node1")
            assert node
            made.nodes.forget(None, "node1", node["metadata"]["uid"])  # as if it were new, and its watch behind
            made.queue.add((here.namespace, "plays"))
            await asyncio.sleep(1)
            assert not await lost(here)
            await here.client.delete(NODES, None, "node1")
            made.queue.add((here.namespace, "plays"))
            await here.until("NodeLost", lambda: lost(here))
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    try:
        asyncio.run(story())
    finally:
        with contextlib.suppress(OSError):
            server.ask("/api/v1/nodes", "POST", NODE)


def test_no_node_is_lost_where_the_control_plane_has_lost_sight_of_most(
    server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = ("node2", "node3")

    async def story() -> None:
        async with world(server, monkeypatch) as here:
            for name in others:
                await here.client.create(NODES, {"metadata": {"name": name}})
            try:
                async with controller(server, here.namespace):
                    await run_on_node1(server, here)
                    async with silent(here.client, *others, "node1"):
                        await asyncio.sleep(2)
                        assert not await lost(here)
                        await hear(here.client, "node2", "True")
                        await here.until("NodeLost", lambda: lost(here))
            finally:
                for name in others:
                    await here.client.delete(NODES, None, name)

    asyncio.run(story())
