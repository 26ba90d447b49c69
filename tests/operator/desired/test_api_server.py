"""A real API server takes what a job becomes, and merges pods by the keys that we merge them by."""

import json
import urllib.error
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from tests.operator.api_server import ApiServer
from tests.operator.desired.cases import NAMES, job_of, objects_of

from windlass_operator.desired.merge import MERGE_KEYS, UNIONS

PLURALS = {
    "NetworkPolicy": "networkpolicies",
    "Pod": "pods",
    "Secret": "secrets",
    "Service": "services",
    "ServiceAccount": "serviceaccounts",
}
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


@pytest.mark.parametrize("name", NAMES)
def test_a_namespace_under_the_restricted_standard_admits_everything(name: str, api_server: ApiServer) -> None:
    namespace = f"restricted-{uuid.uuid4().hex[:12]}"
    api_server.ask("/api/v1/namespaces", "POST", {"metadata": {"name": namespace, "labels": RESTRICTED}})
    for item in objects_of(job_of(name)):
        item["metadata"]["namespace"] = namespace
        root = "/api/v1" if item["apiVersion"] == "v1" else f"/apis/{item['apiVersion']}"
        path = f"{root}/namespaces/{namespace}/{PLURALS[item['kind']]}"
        try:
            api_server.ask(f"{path}?dryRun=All&fieldValidation=Strict", "POST", item)
        except urllib.error.HTTPError as refused:
            pytest.fail(f"{item['kind']} {item['metadata']['name']}: {json.load(refused)['message']}")


def test_merge_keys_are_those_of_the_api_server(api_server: ApiServer) -> None:
    definitions = json.loads(api_server.ask("/openapi/v2"))["definitions"]
    found = dict(merged_lists(definitions, "io.k8s.api.core.v1.PodTemplateSpec", set()))
    assert {field: key for field, (key, _) in found.items()} == MERGE_KEYS
    assert {field for field, (_, strategy) in found.items() if "retainKeys" in strategy} == UNIONS - {"env"}


def merged_lists(definitions: dict[str, Any], name: str, seen: set[str]) -> Iterator[tuple[str, tuple[str, str]]]:
    """Field, merge key and strategy of the lists within a type that are merged by a key."""
    if name in seen:
        return
    seen.add(name)
    for field, schema in definitions[name].get("properties", {}).items():
        if key := schema.get("x-kubernetes-patch-merge-key"):
            yield field, (key, schema["x-kubernetes-patch-strategy"])
        target = schema.get("items", schema).get("$ref") or schema.get("allOf", [{}])[0].get("$ref", "")
        if target:
            yield from merged_lists(definitions, target.rpartition("/")[2], seen)
