"""A job on a cluster while it goes on: its status as the records of a run, shown like one, until it ends."""

from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from typing import Any

from windlass.cli.cluster import jobs
from windlass.cli.cluster.connection import Cluster, Object
from windlass.cli.live import show
from windlass.cli.progress import Progress, Record
from windlass.errors import WindlassError
from windlass.spec.reasons import REASONS

ENDS = ("Succeeded", "Failed")


def follow(cluster: Cluster, name: str, *, until: Collection[str]) -> Object | None:
    """Show a job until its phase is one of these; returns it as it was then, or None once it is deleted."""
    progress = Progress(name)
    newest: Object | None = None
    looks = 0

    def records() -> Iterator[Record]:
        nonlocal newest, looks
        for job in jobs.watch(cluster, name):
            if isinstance(job, WindlassError):
                yield {"kind": "warning", "message": f"{job.reason}: {job}"}
                continue
            looks += 1
            if looks == 2 and not status(job):
                yield {"kind": "warning", "message": "no operator has taken notice of the job yet; does one run?"}
            progress.total_steps = status(job).get("progress", {}).get("maxSteps")
            for record in changes(newest, job):
                progress.take(record)
                yield record
            newest = job
            if phase(job) in until:
                return
        newest = None

    show(records(), progress)
    return newest


def status(job: Object | None) -> Object:
    """What the operator reports; empty before it has seen the job."""
    return (job or {}).get("status") or {}


def phase(job: Object) -> str:
    """The phase, or nothing where the operator has not seen the newest change of the job yet."""
    seen = status(job).get("observedGeneration", 0) >= job["metadata"]["generation"]
    return str(status(job).get("phase", "")) if seen else ""


def telling(job: Object) -> Object | None:
    """The condition that says why a job is where it is: how it failed, what it waits for, or else what came last."""
    conditions = status(job).get("conditions", [])
    failed = [found for found in conditions if found["type"] == "Failed" and found["status"] == "True"]
    waits = [found for found in conditions if found["reason"] in REASONS and found["status"] != "True"]
    return max(failed or waits or conditions, key=lambda found: str(found["lastTransitionTime"]), default=None)


def failure_line(failure: Object) -> str:
    """A failure on one line: RankFailed on plays-worker-1 (node2, rank 3, exit code -9): killed by signal 9."""
    where = f" on {failure['pod']}" if failure.get("pod") else ""
    known = {"rank": "rank {}", "exitCode": "exit code {}"}
    facts = [failure["node"]] if failure.get("node") else []
    facts += [text.format(failure[key]) for key, text in known.items() if failure.get(key) is not None]
    listed = f" ({', '.join(facts)})" if facts else ""
    return f"{failure['reason']}{where}{listed}: {failure.get('message', '')}"


def changes(before: Object | None, job: Object) -> Iterator[Record]:
    """What is new about a job, as the records of `windlass.cli.progress`."""
    old, new = status(before), status(job)
    why = telling(job)
    message = "" if why is None else why["message"]
    if why and why["reason"] in REASONS:
        message = f"{why['reason']}: {message}"
    if new.get("phase") != old.get("phase"):
        yield {"kind": "phase", "phase": new["phase"], "message": message if new["phase"] == "Failed" else ""}
    told = (old.get("phase"), _words(telling(before) if before else None))
    if new.get("phase") not in (None, *ENDS) and (new["phase"], _words(why)) != told:
        yield {"kind": "info", "message": ": ".join(part for part in (new["phase"], message) if part)}
    for failure in new.get("failures", []):
        if failure not in old.get("failures", []):
            yield {"kind": "warning", "message": failure_line(failure)}
    workers = new.get("workers", {})
    if workers.get("desired") and workers != old.get("workers"):
        yield {"kind": "workers", "ready": workers.get("ready", 0), "desired": workers["desired"]}
    yield from _progress(old.get("progress", {}), new.get("progress", {}))
    if (checkpoint := new.get("checkpoint")) and checkpoint["step"] != old.get("checkpoint", {}).get("step"):
        yield {"kind": "checkpoint", "step": checkpoint["step"]}


def _words(condition: Object | None) -> tuple[Any, ...]:
    return tuple((condition or {}).get(key) for key in ("reason", "message"))


def _progress(old: Object, new: Object) -> Iterator[Record]:
    if new != old and new.get("step"):
        yield {
            "kind": "train",
            "step": new["step"],
            "loss": new.get("loss"),
            "tokens_per_second": new.get("tokensPerSecond"),
            "mfu": new.get("mfu"),
            "time": new.get("updatedAt") or datetime.now(UTC).isoformat(),
        }
    loss = new.get("validationLoss")
    if loss is not None and loss != old.get("validationLoss"):
        yield {"kind": "validation", "step": new["step"], "loss": loss}
