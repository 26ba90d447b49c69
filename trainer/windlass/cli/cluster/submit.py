"""`windlass submit`: give a job to a cluster, and show it until it ends."""

from collections.abc import Sequence
from pathlib import Path

from windlass.cli.cluster import jobs
from windlass.cli.cluster.connection import Cluster, Object, connect
from windlass.cli.cluster.following import ENDS, follow, phase, status, telling
from windlass.cli.jobs import say_warnings
from windlass.cli.show import count, loss, write
from windlass.errors import DONE, INTERRUPTED, WindlassError
from windlass.spec.loading import InvalidJob, load_document, locate
from windlass.spec.problems import Problem
from windlass.spec.reasons import REASONS


def submit(
    file: Path, overrides: Sequence[str], *, namespace: str | None, context: str | None, watch: bool, dry_run: bool
) -> int:
    """Apply a job file and follow the job; returns the exit code.

    Raises:
        InvalidJob: with all that is wrong, found here or by the API server.
        WindlassError: what the API server refuses, and why the job failed.
    """
    document, job = load_document(file, overrides, cluster=True)
    say_warnings(job)
    name = job.metadata.name
    cluster = _connect(context, namespace, job.metadata.namespace)
    before = _existing(cluster, name)
    try:
        applied = jobs.apply(cluster, document.value, dry_run=dry_run)
    except InvalidJob as error:
        raise InvalidJob([locate(problem, document) for problem in error.problems]) from error
    place = f"{name} in namespace {cluster.namespace}"
    if dry_run:
        write(f"{place}: would be {_what_happened(before, applied)}")
        return DONE
    write(f"{place}: {_what_happened(before, applied)}")
    if not watch:
        say_next(cluster, name)
        return DONE
    return watch_job(cluster, name)


def _connect(context: str | None, chosen: str | None, written: str | None) -> Cluster:
    """The cluster, in the namespace of the command line or else the job file. Raises InvalidJob where they differ."""
    if chosen and written and chosen != written:
        problem = Problem("metadata.namespace", f"{written!r}, but --namespace says {chosen!r}; leave one out")
        raise InvalidJob([problem])
    return connect(context, chosen or written)


def _existing(cluster: Cluster, name: str) -> Object | None:
    try:
        return jobs.get(cluster, name)
    except WindlassError as error:
        if error.reason != "JobNotFound":
            raise
        return None


def _what_happened(before: Object | None, after: Object) -> str:
    if before is None:
        return "created"
    if before["metadata"]["generation"] == after["metadata"]["generation"]:
        return "unchanged"
    return "changed"


def watch_job(cluster: Cluster, name: str) -> int:
    """Follow a job to its end; returns the exit code. Ctrl-C leaves the job as it is. Raises why it failed."""
    try:
        job = follow(cluster, name, until=(*ENDS, "Suspended"))
    except KeyboardInterrupt:
        write(f"{name} goes on.")
        say_next(cluster, name)
        return INTERRUPTED
    if job is None:
        write(f"{name} was deleted.")
        return INTERRUPTED
    if phase(job) == "Suspended":
        write(f"{name} is suspended. Continue it with: windlass resume {name}{cluster.flags}")
        return INTERRUPTED
    if phase(job) == "Failed":
        raise failure(cluster, job)
    _sum_up(job)
    return DONE


def say_next(cluster: Cluster, name: str) -> None:
    """The commands for a job that runs."""
    for what, command in {
        "Watch it": f"status {name} --watch",
        "Its logs": f"logs {name} --follow",
        "Cancel it": f"cancel {name}",
    }.items():
        write(f"  {what + ':':<11} windlass {command}{cluster.flags}")


def failure(cluster: Cluster, job: Object) -> WindlassError:
    """Why a job failed, with the end of its log, and what to do."""
    name, why = job["metadata"]["name"], telling(job) or {}
    reason = why.get("reason", "")
    known = reason if reason in REASONS else "UserError"
    last = (status(job).get("failures") or [{}])[-1]
    message = [why.get("message") or f"{name} failed", *(f"  | {line}" for line in last.get("lastLogLines", []))]
    message += [f"What to do: {REASONS[known].remedy}", f"Logs: windlass logs {name}{cluster.flags}"]
    return WindlassError(known, "\n".join(message))


def _sum_up(job: Object) -> None:
    """The result of a job that succeeded."""
    found = status(job)
    progress, result, checkpoint = (found.get(key) or {} for key in ("progress", "result", "checkpoint"))
    tokens = f": {count(progress['tokens'])} tokens" if progress.get("tokens") else ""
    rows = {
        "training loss": loss(progress.get("loss")),
        "validation loss": loss(progress.get("validationLoss")),
        "checkpoint": f"step {checkpoint['step']}, {checkpoint['uri']}" if checkpoint else "none",
        "model": result.get("uri"),
    }
    write()
    write(f"{job['metadata']['name']} finished after {progress.get('step', 0)} steps{tokens}")
    for name, value in rows.items():
        if value:
            write(f"  {name:<16} {value}")
