"""`windlass run`: start a run, show it while it trains, stop it on Ctrl-C, and sum it up."""

import importlib.util
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from types import FrameType
from typing import Any

import typer

from windlass.cli.live import show
from windlass.cli.progress import Progress
from windlass.cli.show import count, duration, loss, short, write
from windlass.engine.local import RunHandle, start_run
from windlass.engine.run_folder import RunFolder, read_json
from windlass.errors import BAD_INPUT, DONE, INTERRUPTED, WindlassError
from windlass.spec.job import LLMTrainingJob
from windlass.spec.reasons import REASONS
from windlass.storage import shown


def run_job(job: LLMTrainingJob, *, runs: Path, restart: bool, yes: bool, again: str) -> int:
    """Run a job to its end and return the exit code; `again` is the command that continues it.

    Raises WindlassError with the reason why it failed.
    """
    for module in ("torch", "ray"):
        if importlib.util.find_spec(module) is None:
            raise ModuleNotFoundError(f"No module named {module!r}", name=module)
    if restart and not yes and ((runs / job.metadata.name).exists() or job.spec.checkpoints.uri):
        _confirm(runs / job.metadata.name, job.spec.checkpoints.uri)
    handle = start_run(job, runs=runs, restart=restart)
    if handle.finished_before:
        write(f"{handle.name} has finished before; --restart starts it over.")
        _sum_up(handle, again)
        return DONE
    with _signals(handle) as killed:
        progress = Progress(handle.name)
        show(_updates(handle, progress), progress)
    code = INTERRUPTED if killed() else handle.exit_code
    if code not in (DONE, INTERRUPTED):
        raise _failure(progress, handle)
    _sum_up(handle, again)
    return code


def _confirm(folder: Path, checkpoints: str | None) -> None:
    """Ask before a run is deleted; where nobody can answer, --yes is the answer."""
    what = f"{short(folder)} with " + (f"the checkpoints in {shown(checkpoints)}" if checkpoints else "its checkpoints")
    if not sys.stdin.isatty():
        typer.echo(f"--restart deletes {what}; add --yes to do so.", err=True)
        raise typer.Exit(BAD_INPUT)
    if not typer.confirm(f"Delete {what}, and start over?"):
        raise typer.Exit(DONE)


@contextmanager
def _signals(handle: RunHandle) -> Iterator[Callable[[], bool]]:
    """While inside, Ctrl-C and SIGTERM save and stop, a second Ctrl-C ends at once; yields whether it did."""
    interrupts = 0

    def interrupted(number: int, frame: FrameType | None) -> None:
        nonlocal interrupts
        interrupts += number == signal.SIGINT
        if interrupts > 1:
            handle.kill()
        else:
            handle.stop()

    before = {number: signal.signal(number, interrupted) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: interrupts > 1
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _updates(handle: RunHandle, progress: Progress) -> Iterator[dict[str, Any]]:
    """The run's records, each after `progress` has taken it."""
    run = RunFolder(handle.folder)
    for record in handle.events():
        progress.take(record)
        if record["kind"] == "phase":
            progress.total_steps = (read_json(run.plan) or {}).get("steps")
            progress.baseline = (read_json(run.baseline) or {}).get("validation_loss")
        yield record


def _failure(progress: Progress, handle: RunHandle) -> WindlassError:
    """Why the run failed: the driver's last word, or else the last line of its log."""
    logs = f"Logs: {short(handle.folder / 'logs')}"
    reason, _, message = progress.failure.partition(": ")
    if reason in REASONS:
        return WindlassError(reason, f"{message}\n{logs}")
    log = RunFolder(handle.folder).log("driver").read_text(encoding="utf-8", errors="replace")
    last_line = (log.splitlines() or ["nothing"])[-1]
    return WindlassError("UserError", f"The driver ended with exit code {handle.exit_code}: {last_line}\n{logs}")


def _sum_up(handle: RunHandle, again: str) -> None:
    """The result, and what to do next."""
    result = handle.result
    if result is None:
        write(f"{handle.name} stopped. Continue it with: {again}")
        return
    final, baseline, checkpoint = result["final"], result["baseline"], result["checkpoint"]
    how = {"Succeeded": "finished", "Stopped": "stopped"}.get(result["status"], result["status"])
    compared = f"  ({baseline['name']} baseline {loss(baseline['validation_loss'])})" if baseline else ""
    rows = {
        "training loss": loss(final["loss"]),
        "validation loss": loss(final["validation_loss"]) + compared,
        **{
            f"{split} accuracy": f"{found['accuracy']:.1%}" for split, found in (result["classification"] or {}).items()
        },
        "checkpoint": f"step {checkpoint['step']}, {short(checkpoint['uri'])}" if checkpoint else "none",
        "report": short(handle.folder / "report.html"),
    }
    write()
    write(
        f"{handle.name} {how} after {result['steps']} of {result['total_steps']} steps: "
        f"{count(result['tokens'])} tokens in {duration(result['seconds'])}"
    )
    for name, value in rows.items():
        write(f"  {name:<16} {value}")
    write()
    if result["status"] == "Stopped":
        write(f"Continue it with: {again}")
    elif checkpoint:
        prompt = next((sample["prompt"] for sample in result["samples"]), "Once upon a time")
        run = handle.name if handle.folder.parent == Path("runs").absolute() else quote(short(handle.folder))
        use = "classify {} --text 'Is it?'" if result["classification"] else f"generate {{}} --prompt {quote(prompt)}"
        write(f"Try it:  windlass {use.format(run)}")
        write(f"Take it: windlass export {run} exported/{handle.name}")
