"""The operator's rights, against what it asked for in all the tests before: nothing refused, nothing unused."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.cluster import RELEASE_NAMESPACE, Cluster, run

HOME = Path(os.environ.get("CLUSTER_HOME", "/var/tmp/windlass-cluster"))
LOG = HOME / "log/audit.log"
Right = tuple[str, str, str]
"""API group, resource with subresource, verb."""

pytestmark = pytest.mark.skipif(
    not LOG.exists(),
    reason="needs the API server's audit log: put tests/e2e/audit-policy.yaml into $CLUSTER_HOME first",
)


def asked() -> Iterator[tuple[Right, int]]:
    with open(LOG) as log:
        for entry in map(json.loads, log):
            if entry["user"]["username"].startswith(f"system:serviceaccount:{RELEASE_NAMESPACE}:"):
                reference = entry.get("objectRef")
                if reference is not None:
                    parts = [reference["resource"], reference.get("subresource")]
                    resource = "/".join(part for part in parts if part)
                    group, code = reference.get("apiGroup", ""), entry["responseStatus"]["code"]
                    yield (group, resource, entry["verb"]), code
                    if entry["verb"] == "patch" and code == 201:  # applied where nothing was: needs both rights
                        yield (group, resource, "create"), code


def granted() -> set[Right]:
    rules: list[dict[str, Any]] = []
    for kind in ("clusterroles", "roles"):
        selector = "app.kubernetes.io/instance=windlass"
        listed = run("kubectl", "get", kind, "-A", "-l", selector, "-o", "json")
        rules += [
            rule
            for role in json.loads(listed)["items"]
            if not any(
                label.startswith("rbac.authorization.k8s.io/aggregate-to") for label in role["metadata"]["labels"]
            )
            for rule in role["rules"]
        ]
    return {
        (group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_every_right_is_used_and_none_is_missing(cluster: Cluster) -> None:
    requests = list(asked())
    assert {right for right, code in requests if code == 403} == set()
    assert granted() - {right for right, _ in requests} == set()
    assert not any(resource == "secrets" and verb in {"get", "list", "watch"} for _, resource, verb in granted())
