"""Strategic merge: a fragment of a pod over a whole one, as `kubectl patch` does it.

Mappings merge key by key, and null removes a key. Lists of objects merge by what names their elements; other lists, as
command and tolerations, are replaced. `$patch: delete` removes an element or a mapping; `$patch: replace` replaces the
mapping, or as an element of its own the list, that it is in. Unlike there, the base's elements stay first.
"""

from collections.abc import Mapping
from typing import Any

from windlass.errors import WindlassError

MERGE_KEYS = {
    "containers": "name",
    "env": "name",
    "ephemeralContainers": "name",
    "hostAliases": "ip",
    "imagePullSecrets": "name",
    "initContainers": "name",
    "ownerReferences": "uid",
    "ports": "containerPort",
    "resourceClaims": "name",
    "schedulingGates": "name",
    "topologySpreadConstraints": "topologyKey",
    "volumeDevices": "devicePath",
    "volumeMounts": "mountPath",
    "volumes": "name",
}
"""`x-kubernetes-patch-merge-key` in the API server's schema of a pod."""
UNIONS = {"env", "resourceClaims", "volumes"}
"""Their elements hold one of several sources, and are replaced whole: two sources together would be refused."""


def merge(base: Any, patch: Any, path: str) -> Any:
    """`base` with `patch` over it; neither is changed, and the result shares with them what only one of them has.

    `path` is the patch's own, for errors: ConfigInvalid.
    """
    if patch is base or not isinstance(patch, Mapping):
        return patch
    directive = _directive(patch, path)
    if directive == "delete":
        return None
    merged = dict(base) if isinstance(base, Mapping) and directive != "replace" else {}
    for name, value in patch.items():
        if name != "$patch":
            _set(merged, name, _field(merged.get(name), name, value, f"{path}.{name}"))
    return merged


def _field(base: Any, name: str, patch: Any, path: str) -> Any:
    named = name in MERGE_KEYS and (isinstance(base, list) or isinstance(patch, list)) and patch is not None
    return _merge_list(base or [], patch, name, path) if named else merge(base, patch, path)


def _merge_list(base: list[Any], patch: Any, field: str, path: str) -> list[Any]:
    """Elements of the base in their order, each with the patch's of the same name; then what only the patch has."""
    if not isinstance(patch, list):
        raise WindlassError("ConfigInvalid", f"{path}: must be a list, as in a pod's manifest")
    key = MERGE_KEYS[field]
    replaced = {"$patch": "replace"} in patch
    merged = {} if replaced else {element[key]: element for element in base}
    for index, element in enumerate(patch):
        here = f"{path}[{index}]"
        if replaced and element == {"$patch": "replace"}:
            continue
        if not isinstance(element, Mapping) or not isinstance(element.get(key), str | int):
            raise WindlassError("ConfigInvalid", f"{here}: must be a mapping with {key}, by which it is merged")
        known = merged.get(element[key])
        whole = field in UNIONS and "$patch" not in element and element is not known
        _set(merged, element[key], merge(None if whole else known, element, here))
    return list(merged.values())


def _set(target: dict[Any, Any], name: Any, value: Any) -> None:
    """None removes it."""
    if value is None:
        target.pop(name, None)
    else:
        target[name] = value


def _directive(patch: Mapping[str, Any], path: str) -> Any:
    directive = patch.get("$patch")
    if directive not in ("delete", "replace", "merge", None):
        raise WindlassError("ConfigInvalid", f"{path}.$patch: {directive!r}; allowed are delete, replace and merge")
    return directive
