"""Requests to a real API server, and what becomes of them when it, the network or the credentials fail."""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from tests.operator.api_server import ApiServer
from tests.operator.kubernetes.proxy import Proxy

from windlass_operator.kubernetes.access import Access, Credentials, from_kubeconfig, in_cluster
from windlass_operator.kubernetes.client import RETRIES, Client
from windlass_operator.kubernetes.errors import ApiError, NoAccess, NotLeading, Unreachable
from windlass_operator.kubernetes.resources import CONFIG_MAPS, NODES, PODS, Object, resource_of


def config_map(namespace: str, name: str, **data: str) -> Object:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def pod(namespace: str, name: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"containers": [{"name": "main", "image": "none"}]},
    }


def with_client(server: ApiServer, test: Callable[[Client, str], Awaitable[None]], **options: Any) -> None:
    async def main() -> None:
        async with server.client(**options) as client:
            await test(client, server.namespace())

    asyncio.run(main())


async def refused(request: Awaitable[object]) -> ApiError:
    with pytest.raises(ApiError) as caught:
        await request
    return caught.value


def test_an_object_is_created_applied_patched_and_deleted(api_server: ApiServer) -> None:
    async def test(client: Client, namespace: str) -> None:
        created = await client.create(CONFIG_MAPS, config_map(namespace, "a", one="1"))
        applied = await client.apply(CONFIG_MAPS, config_map(namespace, "b", one="1", two="2"), manager="test")
        assert applied["data"] == {"one": "1", "two": "2"}
        applied = await client.apply(CONFIG_MAPS, config_map(namespace, "b", one="1"), manager="test")
        assert applied["data"] == {"one": "1"}
        patched = await client.merge_patch(CONFIG_MAPS, namespace, "a", {"data": {"one": None, "three": "3"}})
        assert patched["data"] == {"three": "3"}
        assert await client.get(CONFIG_MAPS, namespace, "a") == patched
        await client.delete(CONFIG_MAPS, namespace, "a", uid=created["metadata"]["uid"])
        error = await refused(client.get(CONFIG_MAPS, namespace, "a"))
        assert (error.status, error.reason) == (404, "NotFound")
        assert str(error).startswith(f"GET /api/v1/namespaces/{namespace}/configmaps/a: 404 NotFound: ")

    with_client(api_server, test)


@pytest.mark.parametrize(
    "text",
    [
        "GLHF! \N{BEACH WITH UMBRELLA}\N{VARIATION SELECTOR-16} \N{SLIGHTLY SMILING FACE}",
        "\x1b[31m \x7f \x85 \x9b \ufeff \uffff",
        r"\ud83c \n",
        "\u2028\r\n\t\0",
    ],
)
def test_any_text_is_applied_as_it_is(api_server: ApiServer, text: str) -> None:
    """A status has the last lines of a rank's log."""

    async def test(client: Client, namespace: str) -> None:
        applied = await client.apply(CONFIG_MAPS, config_map(namespace, "a", text=text), manager="test")
        assert applied["data"] == {"text": text}
        applied = await client.apply(CONFIG_MAPS, config_map(namespace, "a", text="no UTF-8: \udcff"), manager="test")
        assert applied["data"] == {"text": "no UTF-8: \N{REPLACEMENT CHARACTER}"}

    with_client(api_server, test)


def test_a_write_on_an_older_state_conflicts_and_only_the_object_meant_is_deleted(api_server: ApiServer) -> None:
    async def test(client: Client, namespace: str) -> None:
        old = await client.create(CONFIG_MAPS, config_map(namespace, "a"))
        version = {"resourceVersion": old["metadata"]["resourceVersion"]}
        await client.merge_patch(CONFIG_MAPS, namespace, "a", {"metadata": version, "data": {"one": "1"}})
        stale = config_map(namespace, "a", one="2")
        stale["metadata"] |= version
        assert (await refused(client.apply(CONFIG_MAPS, stale, manager="test"))).status == 409
        assert (await refused(client.merge_patch(CONFIG_MAPS, namespace, "a", {"metadata": version}))).status == 409
        assert (await refused(client.delete(CONFIG_MAPS, namespace, "a", uid="another"))).status == 409
        stale_version = version["resourceVersion"]
        assert (await refused(client.delete(CONFIG_MAPS, namespace, "a", resource_version=stale_version))).status == 409
        assert (await refused(client.create(CONFIG_MAPS, config_map(namespace, "a")))).reason == "AlreadyExists"

    with_client(api_server, test)


def test_the_status_is_a_resource_of_its_own(api_server: ApiServer) -> None:
    async def test(client: Client, namespace: str) -> None:
        await client.create(PODS, pod(namespace, "a"))
        status = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": namespace}}
        status |= {"status": {"phase": "Running", "message": "well"}}
        applied = await client.apply(PODS, status, manager="test", subresource="status")
        assert applied["status"]["phase"] == "Running"
        patched = await client.merge_patch(PODS, namespace, "a", {"status": {"message": "ill"}}, subresource="status")
        assert patched["status"]["message"] == "ill"

    with_client(api_server, test)


def test_a_pod_is_deleted_at_once_with_no_seconds_of_grace(api_server: ApiServer) -> None:
    async def test(client: Client, namespace: str) -> None:
        await client.create(NODES, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": f"node-{namespace}"}})
        for name in ("a", "b"):
            item = pod(namespace, name)
            item["spec"]["nodeName"] = f"node-{namespace}"
            await client.create(PODS, item)
            running = {"status": {"phase": "Running"}}
            await client.merge_patch(PODS, namespace, name, running, subresource="status")
        await client.delete(PODS, namespace, "a")
        await client.delete(PODS, namespace, "b", grace_seconds=0)
        left, _ = await client.list(PODS, namespace)
        assert [(item["metadata"]["name"], "deletionTimestamp" in item["metadata"]) for item in left] == [("a", True)]

    with_client(api_server, test)


def test_a_list_is_fetched_a_page_at_a_time_and_is_of_one_state(api_server: ApiServer) -> None:
    async def test(client: Client, namespace: str) -> None:
        for number in range(7):
            await client.create(CONFIG_MAPS, config_map(namespace, f"c{number}"))
        pages = []
        async for page in client.pages(CONFIG_MAPS, namespace, limit=3):
            pages.append([item["metadata"]["name"] for item in page.items])
            if len(pages) == 1:
                await client.create(CONFIG_MAPS, config_map(namespace, "c9"))
        assert pages == [["c0", "c1", "c2"], ["c3", "c4", "c5"], ["c6"]]
        items, version = await client.list(CONFIG_MAPS, namespace, limit=3)
        assert len(items) == 8
        assert int(version) >= int(items[-1]["metadata"]["resourceVersion"])
        assert resource_of(items[0]) == CONFIG_MAPS
        items, _ = await client.list(CONFIG_MAPS, namespace, fields="metadata.name=c5")
        assert len(items) == 1

    with_client(api_server, test)


def test_a_watch_tells_what_happened_since_a_resource_version(api_server: ApiServer) -> None:
    async def test(client: Client, namespace: str) -> None:
        _, version = await client.list(CONFIG_MAPS, namespace)
        large = config_map(namespace, "a", large="x" * 600_000)
        await client.create(CONFIG_MAPS, large)
        await client.merge_patch(CONFIG_MAPS, namespace, "a", {"data": {"large": None}})
        await client.delete(CONFIG_MAPS, namespace, "a")
        seen = []
        async for event in client.watch(CONFIG_MAPS, namespace, resource_version=version):
            seen.append((event.type, len(event.object.get("data", {}).get("large", ""))))
            if event.type == "DELETED":
                break
        assert seen == [("ADDED", 600_000), ("MODIFIED", 0), ("DELETED", 0)]

    with_client(api_server, test)


def test_the_calls_are_counted_by_verb_resource_and_code(api_server: ApiServer) -> None:
    registry = CollectorRegistry()

    async def test(client: Client, namespace: str) -> None:
        await client.create(CONFIG_MAPS, config_map(namespace, "a"))
        await refused(client.get(CONFIG_MAPS, namespace, "b"))

    with_client(api_server, test, registry=registry)
    counted = {
        (sample.labels["verb"], sample.labels["resource"], sample.labels["code"]): sample.value
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name == "windlass_operator_api_requests_total"
    }
    assert counted == {("create", "configmaps", "201"): 1, ("get", "configmaps", "404"): 1}


def test_a_server_that_wants_to_be_asked_later_is_asked_later(api_server: ApiServer) -> None:
    async def main() -> None:
        async with Proxy(api_server) as proxy, proxy.client() as client:
            namespace = api_server.namespace()
            proxy.next = [429, 429]
            await client.create(CONFIG_MAPS, config_map(namespace, "a"))
            times = [when for when, _, _ in proxy.requests]
            assert len(times) == 3
            assert all(later - earlier >= 1 for earlier, later in pairwise(times))
            proxy.next = [503]
            assert (await refused(client.get(CONFIG_MAPS, namespace, "a"))).status == 503

    asyncio.run(main())


def test_a_server_that_is_always_too_busy_is_given_up_on(api_server: ApiServer) -> None:
    async def main() -> None:
        async with Proxy(api_server) as proxy, proxy.client() as client:
            proxy.next, proxy.retry_after = [429] * 100, "0"
            error = await refused(client.get(NODES, None, "a"))
            assert (error.status, error.retry_after, error.message) == (429, 0, "no")
            assert len(proxy.requests) == RETRIES + 1

    asyncio.run(main())


def test_no_answer_in_time_a_cut_one_and_none_at_all_are_the_same_error(api_server: ApiServer) -> None:
    async def main() -> None:
        async with Proxy(api_server) as proxy, proxy.client(timeout=0.5) as client:
            proxy.silent.set()
            with pytest.raises(Unreachable, match="no answer in time"):
                await client.list(NODES)
            proxy.silent.clear()
            for fault in ("cut", "refuse"):
                proxy.next = [fault] * 2  # aiohttp asks once more where a kept connection was closed
                with pytest.raises(Unreachable, match="GET /api/v1/nodes"):
                    await client.list(NODES)
        with pytest.raises(Unreachable):
            async with Client(Access(lambda anew: Credentials("http://127.0.0.1:1"))) as client:
                await client.list(NODES)

    asyncio.run(main())


def test_an_expired_token_is_renewed_once_for_all_requests_that_it_was_refused_for(api_server: ApiServer) -> None:
    loads: list[bool] = []

    def load(anew: bool) -> Credentials:
        loads.append(anew)
        if loads.count(True) == 1 and anew:
            raise NoAccess("the file is being written")
        token = api_server.token if anew else "expired"
        return Credentials(api_server.url, f"Bearer {token}", api_server.tls())

    async def main() -> None:
        async with Client(Access(load)) as client:
            assert (await refused(client.list(NODES))).status == 401
            await asyncio.gather(*(client.list(NODES) for _ in range(20)))
            assert loads == [False, True, True]

    asyncio.run(main())


def test_the_token_of_a_service_account_is_read_again(
    api_server: ApiServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(api_server.port))
    with pytest.raises(NoAccess, match="does the pod mount"):
        in_cluster(tmp_path)
    (tmp_path / "ca.crt").write_text(api_server.authority.read_text())
    (tmp_path / "token").write_text("expired\n")

    async def main() -> None:
        async with Client(in_cluster(tmp_path)) as client:
            assert (await refused(client.list(NODES))).status == 401
            (tmp_path / "token").write_text(f"{api_server.token}\n")
            await client.list(NODES)

    asyncio.run(main())


def test_a_kubeconfig_leads_to_the_server_it_names(api_server: ApiServer) -> None:
    async def main() -> None:
        async with Client(from_kubeconfig(str(api_server.kubeconfig()))) as client:
            await client.list(NODES)

    asyncio.run(main())


def test_a_kubeconfig_that_cannot_be_used_says_which(tmp_path: Any) -> None:
    with pytest.raises(NoAccess, match=f"the kubeconfig {tmp_path}/none cannot be used"):
        from_kubeconfig(f"{tmp_path}/none")


def test_a_write_that_the_guard_forbids_is_not_sent_not_even_when_it_forbids_it_at_the_last_moment(
    api_server: ApiServer,
) -> None:
    answers = [False, True, False]  # the second is asked twice: before it is prepared, and when its bytes are to leave

    async def main() -> None:
        async with Proxy(api_server) as proxy, proxy.client(guard=lambda: answers.pop(0)) as client:
            namespace = api_server.namespace()
            await client.list(CONFIG_MAPS, namespace)
            for _ in range(2):
                with pytest.raises(NotLeading):
                    await client.create(CONFIG_MAPS, config_map(namespace, "a"))
            assert not answers
            await client.unguarded().create(CONFIG_MAPS, config_map(namespace, "b"))
            assert [method for _, method, _ in proxy.requests] == ["GET", "POST"]

    asyncio.run(main())
