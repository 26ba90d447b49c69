"""From pods and nodes of the API server to what the state machine knows of them."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from windlass.spec.job import SpecModel
from windlass.spec.status import CheckpointStatus, Failure, JobResult, Progress
from windlass_operator.job import ATTEMPT_LABEL, JOB_LABEL, ROLE_LABEL, WORKER_LABEL, Key, Object, parse_time
from windlass_operator.lifecycle.observed import HeadReport, Pod, Verdict, Waiting

_IMAGE_REASONS = {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError"}
_REFERENCE_REASONS = {"CreateContainerConfigError"}
_CREATING = {"ContainerCreating", "PodInitializing"}
_CONDITIONS = {"Ready", "PodScheduled", "DisruptionTarget"}
_CONDITION = {"type", "status", "reason", "message", "lastTransitionTime"}
_LABELS = {JOB_LABEL, ROLE_LABEL, WORKER_LABEL, ATTEMPT_LABEL}
_METADATA = {
    *("name", "namespace", "uid", "resourceVersion"),
    *("creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"),
}


class VerdictMessage(SpecModel):
    """The JSON of a head's termination message."""

    status: Literal["Succeeded", "Stopped", "Failed"]
    reason: str | None = None
    message: str | None = None
    result: JobResult | None = None
    checkpoint: CheckpointStatus | None = None
    progress: Progress | None = None
    restarts: int = 0
    failures: Annotated[list[Failure], Field(default_factory=list)]


def job_of(pod: Object) -> Key:
    """Key of the job that a pod belongs to."""
    metadata = pod["metadata"]
    return metadata["namespace"], metadata["labels"][JOB_LABEL]


def owned_by(pod: Object, uid: str) -> bool:
    """Whether the pod is of this very job, and not of an earlier one of the same name."""
    return any(owner["uid"] == uid for owner in pod["metadata"].get("ownerReferences", []))


def is_silent(node: Object) -> bool:
    """Whether the control plane does not hear of a node any more; not one whose kubelet reports ills."""
    conditions = node.get("status", {}).get("conditions", [])
    return any(condition["type"] == "Ready" and condition["status"] == "Unknown" for condition in conditions)


def is_blind(silent: int, all_of_them: int) -> bool:
    """Whether so many nodes, or heads, are silent that rather those who look have lost sight of them.

    The rule of Kubernetes' own node lifecycle controller, which then stops to evict (--unhealthy-zone-threshold).
    """
    return silent > 2 and silent / all_of_them >= 0.55


def still_trains(report: HeadReport | None, workers: int, now: datetime) -> bool:
    """Whether all workers took part in a step a moment ago: their nodes live, whoever has not heard of them."""
    if report is None or report.phase != "Running" or report.workers < workers or report.vouched_until is None:
        return False
    return now < report.vouched_until


def trim_node(node: Object) -> Object:
    """What is kept of a node."""
    ready = [item for item in node.get("status", {}).get("conditions", []) if item["type"] == "Ready"]
    return {
        "metadata": _only(node["metadata"], "name", "uid", "resourceVersion"),
        "status": {"conditions": [_only(item, "type", "status") for item in ready]},
    }


def trim_pod(pod: Object) -> Object:
    """What is kept of a pod: no more than `observe_pod` and the progress poller look at."""
    metadata, status = pod["metadata"], pod.get("status", {})
    conditions = [item for item in status.get("conditions", []) if item["type"] in _CONDITIONS]
    trimmed = _only(status, "phase", "reason", "message", "podIP")
    trimmed["conditions"] = [_only(item, *_CONDITION) for item in conditions]
    for kind in ("containerStatuses", "initContainerStatuses"):
        if kind in status:
            trimmed[kind] = [_only(item, "name", "state") for item in status[kind]]
    kept = _only(metadata, *_METADATA)
    kept["labels"] = _only(metadata["labels"], *_LABELS)
    kept["ownerReferences"] = [_only(owner, "uid") for owner in metadata.get("ownerReferences", [])]
    return {"metadata": kept, "spec": {"nodeName": pod["spec"].get("nodeName")}, "status": trimmed}


def _only(item: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: item[name] for name in names if name in item}


def observe_pod(pod: Object, *, node_lost: bool, mount_failures: Mapping[str, str]) -> Pod:
    """A pod as the state machine sees it; `mount_failures` are the kubelet's words on volumes, by pod UID."""
    metadata, status = pod["metadata"], pod.get("status", {})
    labels = metadata["labels"]
    ended = _main_container(pod).get("state", {}).get("terminated") or {}
    # Why Kubernetes ends a pod (PreemptionByScheduler, EvictionByEvictionAPI...), from before it does to its end.
    disruption = _condition(status, "DisruptionTarget")
    return Pod(
        name=metadata["name"],
        uid=metadata["uid"],
        role=labels[ROLE_LABEL],
        worker=int(labels[WORKER_LABEL]) if WORKER_LABEL in labels else None,
        attempt=int(labels[ATTEMPT_LABEL]) if ATTEMPT_LABEL in labels else None,
        phase=status.get("phase", "Pending"),
        ready=_condition(status, "Ready").get("status") == "True",
        deleting="deletionTimestamp" in metadata,
        node=pod["spec"].get("nodeName"),
        node_lost=node_lost,
        created=parse_time(metadata["creationTimestamp"]),
        disrupted=_disrupted(metadata, disruption),
        waiting=_waiting(pod, mount_failures.get(metadata["uid"])),
        exit_code=ended.get("exitCode"),
        finished=parse_time(ended["finishedAt"]) if ended.get("finishedAt") else None,
        reason=status.get("reason") or disruption.get("reason") or ended.get("reason"),
        message=status.get("message") or disruption.get("message"),
        verdict=_verdict(ended.get("message")),
    )


def _disrupted(metadata: Mapping[str, Any], disruption: Mapping[str, Any]) -> datetime | None:
    """When a pod's end was asked for: a stable time, unlike that of its end, which a shorter grace brings forward."""
    if "lastTransitionTime" in disruption:
        return parse_time(disruption["lastTransitionTime"])
    if "deletionTimestamp" in metadata:
        grace = timedelta(seconds=metadata.get("deletionGracePeriodSeconds", 0))
        return parse_time(metadata["deletionTimestamp"]) - grace
    return None


def is_creating(pod: Object) -> bool:
    """Whether the kubelet has the pod and has not started its container: it may wait for a volume."""
    if not pod["spec"].get("nodeName") or pod.get("status", {}).get("phase") != "Pending":
        return False
    return _main_container(pod).get("state", {}).get("waiting", {}).get("reason") in _CREATING


def _main_container(pod: Object) -> dict[str, Any]:
    role = pod["metadata"]["labels"][ROLE_LABEL]
    statuses = pod.get("status", {}).get("containerStatuses", [])
    return next((item for item in statuses if item["name"] == role), {})


def _condition(status: Mapping[str, Any], kind: str) -> dict[str, Any]:
    return next((item for item in status.get("conditions", []) if item["type"] == kind), {})


def _waiting(pod: Object, mount_failure: str | None) -> Waiting | None:
    status = pod.get("status", {})
    scheduled = _condition(status, "PodScheduled")
    if scheduled.get("status") == "False":
        return Waiting("Unschedulable", scheduled.get("message", ""))
    containers = status.get("initContainerStatuses", []) + status.get("containerStatuses", [])
    for state in (item.get("state", {}).get("waiting", {}) for item in containers):
        if state.get("reason") in _IMAGE_REASONS:
            return Waiting("ImagePullFailed", state.get("message", state["reason"]))
        if state.get("reason") in _REFERENCE_REASONS:
            return Waiting("ReferenceMissing", state.get("message", state["reason"]))
    if mount_failure and is_creating(pod):
        return Waiting("ReferenceMissing", mount_failure)
    return None


def _verdict(text: str | None) -> Verdict | None:
    """A head's last word; None where it had no time to say one."""
    if not text:
        return None
    try:
        message = VerdictMessage.model_validate_json(text, extra="ignore")  # of a head that may be newer
    except ValidationError:  # the end of a log, which Kubernetes takes in place of a message
        return None
    return Verdict(
        status=message.status,
        reason=message.reason,
        message=message.message,
        result=message.result,
        checkpoint=message.checkpoint,
        progress=message.progress,
        restarts=message.restarts,
        failures=tuple(message.failures),
    )
