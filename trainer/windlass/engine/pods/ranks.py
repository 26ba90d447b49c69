"""The ranks in a worker pod, seen from outside: their logs, their metrics, and how they die."""

import json
import os
import re
import sys
from collections import deque
from pathlib import Path

from windlass.engine.pods.follow import Followed
from windlass.engine.run_folder import Record, RunFolder, read_json

LAST_LINES = 50
"""Lines of a rank's log that are kept for when it dies."""
LINE_CHARACTERS = 500
"""What is told of each: they go into the job's status."""
_FATAL = re.compile(r"Fatal Python error: (\w+)")
_SIGNALS = {"Segmentation": -11, "Aborted": -6, "Bus": -7, "Illegal": -4, "Floating": -8}


class RanksHere:
    """All ranks that run in this pod, or did."""

    def __init__(self, run: RunFolder) -> None:
        self._run = run
        self._logs: dict[Path, Followed] = {}
        self._last: dict[Path, deque[str]] = {}
        self._alive: dict[Path, int] = {}
        """Ranks' files and their processes' ids."""

    @property
    def alive(self) -> int:
        """How many run now."""
        return len(self._alive)

    def print_logs(self) -> None:
        """Print what is new in all logs, each line with its rank."""
        for path in sorted(self._run.path.glob("fits/*/logs/rank-*.log")):
            rank = path.stem.removeprefix("rank-")
            lines = self._logs.setdefault(path, Followed(path)).read().lines.decode(errors="replace").splitlines()
            self._last.setdefault(path, deque(maxlen=LAST_LINES)).extend(lines)
            for line in lines:
                sys.stdout.write(f"[rank {rank}] {line}\n")
        sys.stdout.flush()

    def deaths(self) -> list[Record]:
        """Ranks that have died since the last call, other than at their end."""
        for path in self._run.path.glob("fits/*/ranks/*.json"):
            if path not in self._alive and (record := read_json(path)) and _exists(record["pid"]):
                self._alive[path] = record["pid"]
        gone = [path for path, pid in self._alive.items() if not _exists(pid)]
        for path in gone:
            del self._alive[path]
        self.print_logs()
        return [self._death(path) for path in gone if not read_json(path).get("ended")]

    def _death(self, path: Path) -> Record:
        fit, record = path.parent.parent, read_json(path)
        lines = list(self._last.get(fit / "logs" / f"rank-{path.stem}.log", []))
        hang = any(line.startswith("Timeout (") for line in lines)  # its hang watch
        code = 1 if hang or record.get("raised") else _exit_code(lines)
        told = [_cut(line) for line in lines]
        return {"fit": fit.name, "rank": int(path.stem), "exitCode": code, "hang": hang, "lastLogLines": told}

    def metrics_addresses(self) -> list[str]:
        """Where living ranks serve their metrics."""
        records = [json.loads(path.read_text()) for path in sorted(self._alive)]
        return [record["metrics"] for record in records if "metrics" in record]


def _exit_code(lines: list[str]) -> int:
    """What a rank that is no child of ours died of, by its last words; one without any was killed."""
    for line in reversed(lines):
        if fatal := _FATAL.search(line):
            return _SIGNALS.get(fatal[1], -6)
    return -9


def _cut(line: str) -> str:
    return line if len(line) <= LINE_CHARACTERS else f"{line[: LINE_CHARACTERS - 3]}..."


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
