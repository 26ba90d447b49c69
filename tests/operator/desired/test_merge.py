"""Templates merge as `kubectl patch` merges, but for elements with one of several sources, which are replaced whole."""

import json
import subprocess
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from windlass_operator.desired.merge import merge

CONTAINER: dict[str, Any] = {
    "name": "main",
    "image": "one",
    "command": ["a", "b"],
    "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
    "ports": [{"name": "http", "containerPort": 80, "protocol": "TCP"}],
    "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
    "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "1"}},
}
POD: dict[str, Any] = {
    "metadata": {"labels": {"app": "x"}},
    "spec": {
        "nodeSelector": {"pool": "a"},
        "tolerations": [{"key": "a", "operator": "Exists"}],
        "containers": [CONTAINER],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
    },
}
FIELD = {"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
SIDECAR = {"name": "sidecar", "image": "two"}

CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    # what must hold: the template's spec, and what of the pod's spec differs then
    "mappings merge key by key": (
        {"nodeSelector": {"zone": "b"}},
        {"nodeSelector": {"pool": "a", "zone": "b"}},
    ),
    "null removes a key": ({"nodeSelector": {"pool": None, "zone": "b"}}, {"nodeSelector": {"zone": "b"}}),
    "$patch: replace replaces a mapping": (
        {"nodeSelector": {"$patch": "replace", "zone": "b"}},
        {"nodeSelector": {"zone": "b"}},
    ),
    "a list that names nothing is replaced": ({"tolerations": [{"key": "b"}]}, {"tolerations": [{"key": "b"}]}),
    "a container merges by name, and its lists by their keys": (
        {
            "containers": [
                {
                    "name": "main",
                    "command": ["c"],
                    "env": [{"name": "C", "value": "3"}, {"name": "A", "value": "4"}],
                    "ports": [{"name": "web", "containerPort": 80}],
                    "volumeMounts": [{"name": "data", "mountPath": "/data"}, {"name": "data", "mountPath": "/tmp"}],
                    "resources": {"limits": {"cpu": "2"}},
                }
            ]
        },
        {
            "containers": [
                CONTAINER
                | {
                    "command": ["c"],
                    "env": [{"name": "A", "value": "4"}, {"name": "B", "value": "2"}, {"name": "C", "value": "3"}],
                    "ports": [{"name": "web", "containerPort": 80, "protocol": "TCP"}],
                    "volumeMounts": [{"name": "data", "mountPath": "/tmp"}, {"name": "data", "mountPath": "/data"}],
                    "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "2"}},
                }
            ]
        },
    ),
    "a container of another name is added": ({"containers": [SIDECAR]}, {"containers": [CONTAINER, SIDECAR]}),
    "$patch: delete removes an element": (
        {
            "containers": [{"name": "main", "$patch": "delete"}, SIDECAR],
            "volumes": [{"name": "tmp", "$patch": "delete"}],
        },
        {"containers": [SIDECAR], "volumes": []},
    ),
    "$patch: replace replaces a list": (
        {"containers": [SIDECAR, {"$patch": "replace"}]},
        {"containers": [SIDECAR]},
    ),
    "pull secrets and aliases are added": (
        {"imagePullSecrets": [{"name": "s"}], "hostAliases": [{"ip": "10.0.0.1", "hostnames": ["x"]}]},
        {"imagePullSecrets": [{"name": "s"}], "hostAliases": [{"ip": "10.0.0.1", "hostnames": ["x"]}]},
    ),
}
SOURCES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a volume is replaced, since it can have one source only": (
        {"volumes": [{"name": "tmp", "hostPath": {"path": "/scratch"}}]},
        {"volumes": [{"name": "tmp", "hostPath": {"path": "/scratch"}}]},
    ),
    "a variable is replaced, since it can have one source only": (
        {"containers": [{"name": "main", "env": [FIELD]}]},
        {"containers": [CONTAINER | {"env": [FIELD, {"name": "B", "value": "2"}]}]},
    ),
}


@pytest.mark.parametrize("rule", [*CASES, *SOURCES])
def test_a_template_is_merged(rule: str) -> None:
    patch, changed = (CASES | SOURCES)[rule]
    base, template = deepcopy(POD), {"spec": deepcopy(patch)}
    assert merge(base, template, "template") == POD | {"spec": POD["spec"] | changed}
    assert (base, template) == (POD, {"spec": patch})


def test_labels_may_have_the_names_of_lists() -> None:
    labels = {"env": "prod", "ports": "80", "volumes": "none"}
    assert merge(POD, {"metadata": {"labels": labels}}, "template")["metadata"]["labels"] == {"app": "x"} | labels


@pytest.mark.parametrize("rule", CASES)
def test_kubectl_merges_the_same_into_another_order(rule: str, program: Callable[[str], Path]) -> None:
    patch, changed = CASES[rule]
    pod = json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": POD["spec"]})
    command = ["kubectl", "patch", "--local", "--filename=-", "--type=strategic", "--output=json"]
    command += ["--patch", json.dumps({"spec": patch})]
    done = subprocess.run(command, executable=program("hyperkube"), input=pod, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    spec = json.loads(done.stdout)["spec"]
    expected = POD["spec"] | changed
    assert unordered({name: spec.get(name, []) for name in expected}) == unordered(expected)


def unordered(value: Any) -> Any:
    """The same with lists of mappings sorted."""
    if isinstance(value, dict):
        return {name: unordered(item) for name, item in value.items()}
    if isinstance(value, list):
        return sorted(map(unordered, value), key=json.dumps) if all(isinstance(i, dict) for i in value) else value
    return value
