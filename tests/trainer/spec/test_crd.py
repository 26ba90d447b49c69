from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from windlass.spec.cluster import cluster_rules
from windlass.spec.crd import crd, main, schema
from windlass.spec.fields import type_at, walk
from windlass.spec.rules import rules

ROOT = Path(__file__).parents[3]


def properties(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    for name, child in node.get("properties", {}).items():
        yield f"{path}.{name}", child
        yield from properties(child, f"{path}.{name}")
    for inner in ("items", "additionalProperties"):
        if isinstance(node.get(inner), dict):
            yield from properties(node[inner], f"{path}[]")


def at(path: str) -> dict[str, Any]:
    found: dict[str, Any] = dict(properties(schema()))[f".{path}"]
    return found


def test_the_file_in_the_repository_is_the_generated_one(capsys: pytest.CaptureFixture[str]) -> None:
    main()
    written = (ROOT / "manifests/crd/llmtrainingjobs.windlass.dev.yaml").read_text()
    assert capsys.readouterr().out == written, "run make generate"


def test_every_field_is_in_the_schema_and_described() -> None:
    found = dict(properties(schema()))
    for keys, _ in walk():
        if keys[0] == "spec":
            path = "".join("[]" if isinstance(key, int) else f".{key}" for key in keys)
            assert found[path]["description"], path
    for path, node in found.items():
        assert path.startswith(".metadata") or node["description"], path


def test_the_schema_is_structural() -> None:
    for path, node in properties(schema()):
        assert not {"$ref", "title", "const", "allOf", "oneOf"} & set(node), path
        assert "type" in node or node.get("x-kubernetes-int-or-string"), path
        assert not ("properties" in node and "additionalProperties" in node), path


def test_defaults_enums_and_bounds_are_the_models() -> None:
    assert at("spec.training.globalBatchSize")["default"] == 32
    assert at("spec.training.schedule.name")["enum"] == ["Cosine", "Linear", "Constant", "WSD"]
    assert at("spec.training.optimizer.learningRate") | {"description": ""} == {
        "description": "",
        "type": "number",
        "minimum": 0,
        "exclusiveMinimum": True,
        "default": 6e-4,
    }
    assert "maximum" not in at("spec.training.seed")
    assert at("spec.checkpoints.everyMinutes")["nullable"] is True
    assert at("spec.workers.template")["x-kubernetes-preserve-unknown-fields"] is True
    assert at("spec.workers.resources.limits")["additionalProperties"]["x-kubernetes-int-or-string"] is True
    assert at("spec.training.microBatchSize")["x-kubernetes-int-or-string"] is True


def test_rules_name_fields_that_exist() -> None:
    for path, found in (*rules().items(), *cluster_rules().items()):
        for rule in found:
            names = filter(None, f"{path}{rule.field}".replace("[]", ".0").split("."))
            keys = tuple(int(name) if name == "0" else name for name in names)
            assert type_at(keys) is not None, rule


def test_kubectl_get_shows_the_columns_people_watch() -> None:
    version = crd()["spec"]["versions"][0]
    shown = [column["name"] for column in version["additionalPrinterColumns"] if column["priority"] == 0]
    assert shown == ["Task", "Phase", "Step", "Progress", "Loss", "Tokens/s", "Workers", "Restarts", "Age"]
    paths = {column["jsonPath"] for column in version["additionalPrinterColumns"]} - {".metadata.creationTimestamp"}
    assert paths <= set(dict(properties(schema())))
