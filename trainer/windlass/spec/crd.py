"""The CustomResourceDefinition of LLMTrainingJob, made from the models.

`python -m windlass.spec.crd` prints it; `make generate` writes it to manifests/crd/.
A structural schema has no references, unions or closed objects, so these are written out as Kubernetes has them:
https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/
"""

import sys
from typing import Any

from pydantic import BaseModel
from ruamel.yaml import YAML

from windlass.spec.cluster import cluster_rules
from windlass.spec.job import GROUP, KIND, PLURAL, VERSION, LLMTrainingJob
from windlass.spec.presets import PRESETS
from windlass.spec.rules import Rule, rules
from windlass.spec.status import JobStatus

_COPIED = ("format", "pattern", "minLength", "maxLength", "minItems", "maxItems", "minimum", "maximum", "enum")
_COLUMNS = [
    # name, type, path, priority: 0 is always shown, 1 with -o wide
    ("Task", "string", ".spec.task", 0),
    ("Phase", "string", ".status.phase", 0),
    ("Step", "integer", ".status.progress.step", 0),
    ("Progress", "string", ".status.columns.progress", 0),
    ("Loss", "string", ".status.columns.loss", 0),
    ("Tokens/s", "string", ".status.columns.tokensPerSecond", 0),
    ("Workers", "string", ".status.columns.workers", 0),
    ("Restarts", "string", ".status.columns.restarts", 0),
    ("Age", "date", ".metadata.creationTimestamp", 0),
    ("ETA", "string", ".status.columns.remaining", 1),
    ("MFU", "string", ".status.columns.mfu", 1),
    ("Goodput", "string", ".status.columns.goodput", 1),
]
_OPEN = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
_WORDS = {"type": "array", "items": {"type": "string"}}
_CONTAINER = _OPEN | {
    "required": ["name"],
    "properties": {
        "name": {"type": "string", "maxLength": 63, "description": "head or worker for Windlass's own container."},
        "command": _WORDS | {"description": "Program of a container of your own."},
        "args": _WORDS | {"description": "Arguments of a container of your own."},
    },
}
_TEMPLATE = {
    # Of a pod template only what rules look at is spelled out; the API server checks the rest when a pod is made of it.
    "properties": {
        "metadata": _OPEN
        | {
            "description": "Labels and annotations of the pods.",
            "properties": {
                "labels": {
                    "type": "object",
                    "additionalProperties": {"type": "string"},
                    "maxProperties": 100,
                    "description": "Labels of the pods, beside Windlass's own.",
                }
            },
        },
        "spec": _OPEN
        | {
            "description": "Fields of a PodSpec, as in kubectl explain pod.spec.",
            "properties": {
                "restartPolicy": {"type": "string", "description": "Windlass's own; leave it out."},
                "containers": {
                    "type": "array",
                    "items": _CONTAINER,
                    "maxItems": 20,
                    "description": "Additions to Windlass's container, head or worker, and containers of your own.",
                },
            },
        },
    },
}


def crd() -> dict[str, Any]:
    """The whole CustomResourceDefinition."""
    version = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "additionalPrinterColumns": [
            {"name": name, "type": kind, "jsonPath": path, "priority": priority}
            for name, kind, path, priority in _COLUMNS
        ],
        "schema": {"openAPIV3Schema": schema()},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": ["llmjob", "llmjobs"],
            },
            "versions": [version],
        },
    }


def schema() -> dict[str, Any]:
    """The structural OpenAPI v3 schema of a job with its status."""
    root = _model_schema(LLMTrainingJob)
    properties = root["properties"]
    name = properties["metadata"]["properties"]["name"]
    for key in ("apiVersion", "kind"):
        properties[key] = {"type": "string", "description": properties[key]["description"]}
    # Of metadata, a CRD may constrain nothing but the name.
    constraints = {key: name[key] for key in ("type", "maxLength", "pattern")}
    properties["metadata"] = {"type": "object", "properties": {"name": constraints}}
    properties["status"] = _model_schema(JobStatus)
    _property(root, "spec.model.preset")["enum"] = list(PRESETS)
    for pods in ("head", "workers"):
        _property(root, f"spec.{pods}.template").update(_TEMPLATE)
    for path, found in (*rules().items(), *cluster_rules().items()):
        _property(root, path).setdefault("x-kubernetes-validations", []).extend(map(_validation, found))
    return root


def _model_schema(model: type[BaseModel]) -> dict[str, Any]:
    generated = model.model_json_schema(by_alias=True)
    return _structural(generated, generated["$defs"])


def _structural(source: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """A JSON schema of pydantic in the dialect of CRDs."""
    if "$ref" in source:
        source = definitions[source["$ref"].rpartition("/")[2]] | source
    choices = source.get("anyOf", [])
    members = [choice for choice in choices if choice.get("type") != "null"]
    if len(members) == 1:
        source = members[0] | {key: value for key, value in source.items() if key != "anyOf"}
        return _structural(source, definitions) | _nullable(source)
    result: dict[str, Any] = {}
    if "description" in source:
        result["description"] = " ".join(source["description"].split())
    if members:
        return result | {"x-kubernetes-int-or-string": True} | _union_pattern(members) | _default(source)
    result["type"] = source["type"]
    result |= {key: source[key] for key in source if key in _COPIED or key.startswith("x-kubernetes-")}
    result |= _bounds(source) | _default(source)
    if "const" in source:
        result["enum"] = [source["const"]]
    if "required" in source:
        result["required"] = source["required"]
    if "properties" in source:
        result["properties"] = {name: _structural(item, definitions) for name, item in source["properties"].items()}
    elif source["type"] == "object":
        result |= _free_mapping(source, definitions)
    elif source["type"] == "array":
        result["items"] = _structural(source["items"], definitions)
    return result


def _nullable(source: dict[str, Any]) -> dict[str, Any]:
    """Null is a value of its own only where it differs from the default."""
    return {"nullable": True} if source.get("default") is not None else {}


def _default(source: dict[str, Any]) -> dict[str, Any]:
    """The default, whole, since rules run on it as it stands; without what is unset by default."""
    return {} if source.get("default") is None else {"default": _without_nulls(source["default"])}


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return value


def _bounds(source: dict[str, Any]) -> dict[str, Any]:
    """In OpenAPI 3.0 an exclusive bound is a bound with a flag; what int64 cannot hold is no bound."""
    bounds: dict[str, Any] = {"format": "int64"} if source["type"] == "integer" else {}
    for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if exclusive in source and source[exclusive] < 2**63:
            bounds |= {bound: source[exclusive], exclusive: True}
    return bounds


def _union_pattern(members: list[dict[str, Any]]) -> dict[str, Any]:
    """The pattern of the text in a number-or-text; the API server applies it to text only."""
    return {"pattern": pattern} if (pattern := next((m["pattern"] for m in members if "pattern" in m), None)) else {}


def _free_mapping(source: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    values = source.get("additionalProperties", True)
    if values is True:
        return {"x-kubernetes-preserve-unknown-fields": True}
    return {"additionalProperties": _structural(values, definitions)}


def _property(root: dict[str, Any], path: str) -> dict[str, Any]:
    """The schema at a path; that of a list's items, where the path says name[]."""
    for name in filter(None, path.split(".")):
        root = root["properties"][name.removesuffix("[]")]
        root = root["items"] if name.endswith("[]") else root
    return root


def _validation(rule: Rule) -> dict[str, Any]:
    entry = {"rule": rule.rule, "message": rule.message}
    return entry | ({"fieldPath": rule.field} if rule.field else {})


def main() -> None:
    """Print the CRD as YAML."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # declared None, documented bool
    yaml.width = 120
    print("# Made by `make generate` from windlass.spec; do not edit.")
    yaml.dump(crd(), sys.stdout)


if __name__ == "__main__":
    main()
