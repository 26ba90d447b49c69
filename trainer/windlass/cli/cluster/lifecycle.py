"""`windlass suspend`, `resume` and `cancel`: what a job is told after it was submitted."""

import sys

import typer

from windlass.cli.cluster import jobs
from windlass.cli.cluster.connection import Cluster, Object
from windlass.cli.cluster.following import ENDS, follow, phase, status
from windlass.cli.cluster.submit import failure, say_next
from windlass.cli.show import write
from windlass.errors import BAD_INPUT, DONE, INTERRUPTED, WindlassError

UNDER_WAY = ("Running", *ENDS)


def suspend(cluster: Cluster, name: str, *, wait: bool) -> int:
    """Have a job checkpoint and release everything; returns the exit code once it has, or at once without `wait`."""
    if _tell(cluster, name, suspend=True) and not wait:
        return DONE
    job = _follow(cluster, name, until=("Suspended", *ENDS))
    if job is None:
        return INTERRUPTED
    if phase(job) == "Failed":
        raise failure(cluster, job)
    if phase(job) == "Succeeded":
        write(f"{name} had finished before it could be suspended.")
        return DONE
    step = (status(job).get("checkpoint") or {}).get("step")
    at = f" at step {step}" if step is not None else ""
    write(f"{name} is suspended{at}. Continue it with: windlass resume {name}{cluster.flags}")
    return DONE


def resume(cluster: Cluster, name: str, *, wait: bool) -> int:
    """Have a suspended job continue; returns the exit code once it trains, or at once without `wait`."""
    if _tell(cluster, name, suspend=False) and not wait:
        return DONE
    job = _follow(cluster, name, until=UNDER_WAY)
    if job is None:
        return INTERRUPTED
    if phase(job) == "Failed":
        raise failure(cluster, job)
    write(f"{name} {'trains again' if phase(job) == 'Running' else 'has finished'}.")
    return DONE


def _tell(cluster: Cluster, name: str, *, suspend: bool) -> bool:
    """Set spec.lifecycle.suspend; True where that was new. Raises ConfigInvalid for a job that has ended."""
    job = jobs.get(cluster, name)
    ended = phase(job)
    if ended in ENDS:
        raise WindlassError(
            "ConfigInvalid", f"{name} has ended ({ended}); submit it under another name to run it again"
        )
    if bool(job["spec"].get("lifecycle", {}).get("suspend")) == suspend:
        write(f"{name} was told {'to suspend' if suspend else 'to run'} before.")
        return False
    jobs.patch(cluster, name, {"spec": {"lifecycle": {"suspend": suspend}}})
    write(f"{name} in namespace {cluster.namespace}: {'suspending' if suspend else 'resuming'}")
    return True


def _follow(cluster: Cluster, name: str, *, until: tuple[str, ...]) -> Object | None:
    """Show the job until then; None, with a word about it, where the user or a deletion ended that."""
    try:
        job = follow(cluster, name, until=until)
    except KeyboardInterrupt:
        write(f"{name} does as it was told; this command only watched.")
        say_next(cluster, name)
        return None
    if job is None:
        write(f"{name} was deleted.")
    return job


def cancel(cluster: Cluster, name: str, *, yes: bool) -> int:
    """Delete a job, after a question; returns the exit code."""
    job = jobs.get(cluster, name)
    checkpoints = job["spec"].get("checkpoints", {})
    fate = "deleted too (checkpoints.onDelete: Delete)" if checkpoints.get("onDelete") == "Delete" else "kept"
    storage = f"{checkpoints.get('uri', 'its storage')} is {fate}"
    what = f"job {name} ({phase(job) or 'new'}) in namespace {cluster.namespace}"
    if not yes and not sys.stdin.isatty():
        typer.echo(f"This deletes {what}; {storage}. Add --yes to do so.", err=True)
        return BAD_INPUT
    if not yes and not typer.confirm(f"Delete {what}? {storage}."):
        return DONE
    jobs.delete(cluster, job)
    write(f"{name}: deleted; {storage}")
    return DONE
