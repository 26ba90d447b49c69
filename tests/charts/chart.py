"""The chart's objects, as tests ask for them."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts/windlass"

Object = dict[str, Any]
Helm = Callable[..., "subprocess.CompletedProcess[str]"]
"""Runs helm with these arguments."""


class Objects(list[Object]):
    """Kubernetes objects."""

    def of(self, kind: str) -> list[Object]:
        return [item for item in self if item["kind"] == kind]

    def one(self, kind: str, name: str = "windlass-operator") -> Object:
        """The object of this kind and name."""
        [found] = [item for item in self.of(kind) if item["metadata"]["name"] == name]
        return found


Render = Callable[..., Objects]
"""The chart's objects, with values such as `replicas=1`."""


def parse(text: str) -> Objects:
    return Objects(item for item in YAML(typ="safe").load_all(text) if item)


def rights(roles: list[Object]) -> set[tuple[str, str, str]]:
    """(API group, resource, verb) of all rules."""
    return {
        (group, resource, verb)
        for role in roles
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
