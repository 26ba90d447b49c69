"""LLMTrainingJobs in an API server: read, written, watched."""

import json
import time
from collections.abc import Iterator

from windlass.cli.cluster.connection import Cluster, Object
from windlass.cli.cluster.refusals import Refused
from windlass.errors import WindlassError
from windlass.spec.job import API_VERSION, PLURAL
from windlass.spec.problems import did_you_mean

MANAGER = "windlass"
"""Who the API server notes as the owner of the fields that these commands set."""
JOB_LABEL = "windlass.dev/job"
"""On every pod of a job: the job's name."""
_TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"
_WATCH_SECONDS, _SILENCE_SECONDS, _AGAIN_SECONDS = 30, 40, 2.0


def path(namespace: str | None, name: str = "") -> str:
    """Where jobs are in the API; those of all namespaces without one."""
    within = f"/namespaces/{namespace}" if namespace else ""
    return f"/apis/{API_VERSION}{within}/{PLURAL}" + (f"/{name}" if name else "")


def get(cluster: Cluster, name: str) -> Object:
    """A job. Raises WindlassError: JobNotFound, with the name that was probably meant."""
    try:
        return cluster.request("GET", path(cluster.namespace, name))
    except Refused as error:
        if error.reason != "JobNotFound":
            raise
        raise _not_found(cluster, name) from error


def _not_found(cluster: Cluster, name: str) -> WindlassError:
    try:
        jobs = cluster.request("GET", path(None))["items"]
    except Refused:  # one may not look into other namespaces
        jobs = cluster.request("GET", path(cluster.namespace))["items"]
    here = [job["metadata"]["name"] for job in jobs if job["metadata"]["namespace"] == cluster.namespace]
    elsewhere = [job["metadata"]["namespace"] for job in jobs if job["metadata"]["name"] == name]
    message = f"no job {name!r} in namespace {cluster.namespace}"
    if elsewhere:
        return WindlassError("JobNotFound", f"{message}; there is one with --namespace {' or '.join(elsewhere)}")
    listed = f"; there are {', '.join(here[:10])}" if here else "; windlass status --all-namespaces lists all"
    return WindlassError("JobNotFound", message + (did_you_mean(name, here) or listed))


def apply(cluster: Cluster, job: Object, *, dry_run: bool = False) -> Object:
    """Create a job, or change the one of this name. Raises InvalidJob with what the API server finds wrong."""
    query = {"fieldManager": MANAGER, "fieldValidation": "Strict", "force": "true"}
    if dry_run:
        query["dryRun"] = "All"
    where = path(cluster.namespace, job["metadata"]["name"])
    return cluster.request("PATCH", where, job, content="application/apply-patch+yaml", **query)


def patch(cluster: Cluster, name: str, change: Object) -> Object:
    """Change some fields of a job."""
    content = "application/merge-patch+json"
    return cluster.request("PATCH", path(cluster.namespace, name), change, content=content, fieldManager=MANAGER)


def delete(cluster: Cluster, job: Object) -> None:
    """Delete this job, and not another one that has its name by now."""
    metadata = job["metadata"]
    options = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": metadata["uid"]}}
    cluster.request("DELETE", path(metadata["namespace"], metadata["name"]), options, propagationPolicy="Background")


def table(cluster: Cluster, *, everywhere: bool) -> Object:
    """The jobs as a Table with the columns of the CRD, as kubectl gets it."""
    return cluster.request("GET", path(None if everywhere else cluster.namespace), accept=_TABLE)


def watch(cluster: Cluster, name: str) -> Iterator[Object | WindlassError]:
    """The job now and after every change, until it is deleted.

    Where contact to the API server is lost, the error once, and the job again when it answers.
    """
    lost = False
    while True:
        try:
            job = get(cluster, name)
            lost = False
            yield job
            for event in _events(cluster, job):
                if event["type"] == "DELETED":
                    return
                if event["type"] == "ERROR":  # too old to go on from: look anew
                    break
                yield event["object"]
        except WindlassError as error:
            if error.reason == "JobNotFound":
                return
            if error.reason != "ClusterUnavailable":
                raise
            if not lost:
                yield error
            lost = True
            time.sleep(_AGAIN_SECONDS)


def _events(cluster: Cluster, job: Object) -> Iterator[Object]:
    metadata = job["metadata"]
    query = {
        "watch": "true",
        "fieldSelector": f"metadata.name={metadata['name']}",
        "resourceVersion": metadata["resourceVersion"],
        "timeoutSeconds": _WATCH_SECONDS,
    }
    for line in cluster.lines(path(metadata["namespace"]), silence=_SILENCE_SECONDS, **query):
        yield json.loads(line)


def pods(cluster: Cluster, name: str) -> list[Object]:
    """The pods of a job, its head first."""
    where = f"/api/v1/namespaces/{cluster.namespace}/pods"
    found = cluster.request("GET", where, labelSelector=f"{JOB_LABEL}={name}")["items"]
    return sorted(found, key=lambda pod: (role(pod) != "head", seat(pod), pod["metadata"]["name"]))


def role(pod: Object) -> str:
    """head, worker or cleanup."""
    return str(pod["metadata"]["labels"].get("app.kubernetes.io/component", ""))


def seat(pod: Object) -> int:
    """A worker's place, from 0; -1 of others."""
    return int(pod["metadata"]["labels"].get("windlass.dev/worker-index", -1))
