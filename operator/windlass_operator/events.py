"""Events of jobs, as `kubectl describe` prints them."""

import hashlib
from datetime import datetime

from windlass_operator.job import Job, Object
from windlass_operator.lifecycle.decision import Event

COMPONENT = "windlass-operator"
LONGEST_MESSAGE = 1024


def event_object(job: Job, event: Event, now: datetime, instance: str) -> Object:
    """The Event of a job's transition; `instance` is the operator's pod."""
    stamp = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    what = f"{job.uid}{now.timestamp()}{event.reason}{event.message}"
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": f"{job.name}.{hashlib.sha256(what.encode()).hexdigest()[:16]}",
            "namespace": job.namespace,
        },
        "involvedObject": {
            "apiVersion": job.resource["apiVersion"],
            "kind": job.resource["kind"],
            "name": job.name,
            "namespace": job.namespace,
            "uid": job.uid,
            "resourceVersion": job.resource["metadata"]["resourceVersion"],
        },
        "type": event.type,
        "reason": event.reason,
        "message": event.message[:LONGEST_MESSAGE],
        "source": {"component": COMPONENT},
        "reportingComponent": COMPONENT,
        "reportingInstance": instance,
        "firstTimestamp": stamp,
        "lastTimestamp": stamp,
        "count": 1,
    }
