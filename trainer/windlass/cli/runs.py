"""`windlass runs`: what ran, read from the run folders alone."""

import fcntl
import json
from datetime import datetime
from pathlib import Path

from windlass.cli.show import loss, short, table
from windlass.engine.run_folder import Record, RunFolder, last, read_json

HEADER = ("NAME", "STATUS", "STEP", "LOSS", "VALIDATION", "CHANGED", "FOLDER")
TAIL_BYTES = 1 << 16
"""How much of the end of a file is read for its last records."""
ENDS = ("Succeeded", "Stopped", "Failed")


def lines(runs: Path) -> list[str]:
    """A table of the runs in a folder, the last changed first."""
    folders = [RunFolder(path.absolute().parent) for path in runs.glob("*/job.yaml")]
    if not folders:
        return [f"No runs in {short(runs.absolute())}."]
    return table(HEADER, [_row(run) for run in sorted(folders, key=_changed, reverse=True)])


def _changed(run: RunFolder) -> float:
    return max(path.stat().st_mtime for path in (run.job, run.events, run.metrics) if path.exists())


def _row(run: RunFolder) -> list[str]:
    records = _tail(run.metrics)
    train, validation = last(records, "train"), last(records, "validation")
    total = (read_json(run.plan) or {}).get("steps")
    return [
        run.name,
        _status(run),
        f"{train.get('step', 0)}/{total}" if total else "-",
        loss(train.get("loss")),
        loss(validation.get("loss")),
        datetime.fromtimestamp(_changed(run)).strftime("%Y-%m-%d %H:%M"),
        short(run.path),
    ]


def _status(run: RunFolder) -> str:
    """The phase; of a run that no process holds and that came to no end, Interrupted."""
    phase: str = last(_tail(run.events), "phase").get("phase", "-")
    return phase if phase in ENDS or _is_running(run) else "Interrupted"


def _is_running(run: RunFolder) -> bool:
    if not run.lock.exists():
        return False
    with open(run.lock) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _tail(path: Path) -> list[Record]:
    """The last records of a .jsonl file, without one that is being written."""
    if not path.exists():
        return []
    with open(path, "rb") as file:
        file.seek(0, 2)
        start = max(0, file.tell() - TAIL_BYTES)
        file.seek(start)
        whole = file.read().split(b"\n")[:-1]
    return [json.loads(line) for line in whole[1 if start else 0 :]]
