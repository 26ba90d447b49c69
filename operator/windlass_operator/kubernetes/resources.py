"""The kinds of objects that the API server has: how each is addressed."""

from dataclasses import dataclass
from typing import Any

Object = dict[str, Any]
"""An object of the API server, as JSON."""
Key = tuple[str | None, str]
"""Namespace (None: the object is in no namespace) and name."""


@dataclass(frozen=True)
class Resource:
    """A kind of object."""

    group: str
    """Empty: the core group."""
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None = None, name: str | None = None, subresource: str | None = None) -> str:
        """Of one object, of those of a namespace, or of all."""
        parts = [f"/apis/{self.group}" if self.group else "/api", self.version]
        if namespace is not None:
            parts += ["namespaces", namespace]
        return "/".join([*parts, self.plural, *(part for part in (name, subresource) if part)])


PODS = Resource("", "v1", "pods", "Pod")
NODES = Resource("", "v1", "nodes", "Node", namespaced=False)
EVENTS = Resource("", "v1", "events", "Event")
SECRETS = Resource("", "v1", "secrets", "Secret")
SERVICES = Resource("", "v1", "services", "Service")
SERVICE_ACCOUNTS = Resource("", "v1", "serviceaccounts", "ServiceAccount")
CONFIG_MAPS = Resource("", "v1", "configmaps", "ConfigMap")
NETWORK_POLICIES = Resource("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy")
LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease")

_BY_KIND = {
    (resource.api_version, resource.kind): resource
    for resource in (
        PODS,
        NODES,
        EVENTS,
        SECRETS,
        SERVICES,
        SERVICE_ACCOUNTS,
        CONFIG_MAPS,
        NETWORK_POLICIES,
        LEASES,
    )
}


def resource_of(item: Object) -> Resource:
    """The resource of an object of one of the kinds above; KeyError for another."""
    return _BY_KIND[item["apiVersion"], item["kind"]]


def key_of(item: Object) -> Key:
    """Where an object is found."""
    return item["metadata"].get("namespace"), item["metadata"]["name"]


def version_of(item: Object) -> int:
    """An object's resource version: the larger of two is the newer, for objects of one resource."""
    return int(item["metadata"]["resourceVersion"])
