"""What a job's pods need around them: an identity without rights, a token, closed doors, and a name for the head."""

import base64

from windlass_operator.desired.metadata import (
    GCS_PORT,
    HTTP_PORT,
    RECOMMENDED,
    SERVICE_ACCOUNT,
    head_name,
    metadata,
    selector,
    token_name,
)
from windlass_operator.job import Job, Object
from windlass_operator.settings import Settings


def support_objects(job: Job, settings: Settings) -> list[Object]:
    """ServiceAccount, Secret, NetworkPolicy and Service, in the order in which they are made."""
    return [_service_account(job), _token(job, settings), _network_policy(job, settings), _head_service(job)]


def _service_account(job: Job) -> Object:
    """One for all jobs of the namespace, owned by none. Annotations that people add, as for workload identity, stay."""
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": SERVICE_ACCOUNT, "namespace": job.namespace, "labels": dict(RECOMMENDED)},
        "automountServiceAccountToken": False,
    }


def _token(job: Job, settings: Settings) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata(job, token_name(job)),
        "type": "Opaque",
        "data": {"token": base64.b64encode(settings.token(job.uid).encode()).decode()},
    }


def _network_policy(job: Job, settings: Settings) -> Object:
    """Who may reach the pods: they each other, the operator and Prometheus their HTTP port, and no one else.

    Who reaches a Ray cluster can run code in it. Egress is open: object storage may be anywhere.
    """
    http = [{"port": HTTP_PORT, "protocol": "TCP"}]
    ingress = [
        {"from": [{"podSelector": {"matchLabels": selector(job)}}]},
        {"from": [_pods_of(settings.namespace, settings.operator_labels)], "ports": http},
    ]
    if settings.prometheus_namespace is not None:
        ingress.append({"from": [_pods_of(settings.prometheus_namespace, settings.prometheus_labels)], "ports": http})
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(job, job.name),
        "spec": {"podSelector": {"matchLabels": selector(job)}, "policyTypes": ["Ingress"], "ingress": ingress},
    }


def _pods_of(namespace: str, labels: dict[str, str]) -> Object:
    """A peer: pods of a namespace with these labels; all of them without labels."""
    return {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
        "podSelector": {"matchLabels": dict(labels)} if labels else {},
    }


def _head_service(job: Job) -> Object:
    """The head's name in DNS, before it is ready too: the workers meet it there."""
    ports = [("http", HTTP_PORT), ("gcs", GCS_PORT)]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(job, head_name(job)),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": selector(job, "head"),
            "ports": [{"name": name, "port": port, "protocol": "TCP"} for name, port in ports],
        },
    }
