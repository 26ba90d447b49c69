"""Child processes of a container's first process: started, waited for, reaped with all orphans, and killed."""

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

import psutil

logger = logging.getLogger(__name__)

_PR_SET_CHILD_SUBREAPER = 36


class Child:
    """A process that this one has started."""

    def __init__(self, name: str, process: subprocess.Popen[bytes]) -> None:
        self.name = name
        self.pid = process.pid
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        """Its exit code, negative for a signal."""
        self._process = process

    def end(self, code: int) -> None:
        self._process.returncode = code  # it has been waited for; Popen must not do so again
        if not self.ended.done():
            self.ended.set_result(code)

    def tell(self, line: str) -> None:
        """Write a line to its standard input and end that."""
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError), self._process.stdin as stdin:
            stdin.write(line.encode() + b"\n")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it still runs."""
        if not self.ended.done():
            os.kill(self.pid, number)


class Children:
    """All processes below this one: a container's first process inherits, and has to reap, those without a parent."""

    def __init__(self) -> None:
        self._children: dict[int, Child] = {}
        # The first process of a container is that anyway; another one becomes it, so that tests see the same.
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self._reap)

    def start(self, name: str, *command: str, environment: Mapping[str, str], log: Path | None = None) -> Child:
        """Start a process, in a session of its own; its output goes to `log`, or to this process's."""
        with contextlib.ExitStack() as files:
            output = files.enter_context(open(log, "wb")) if log else None
            process = subprocess.Popen(
                command,
                env=os.environ | dict(environment),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        child = self._children[process.pid] = Child(name, process)
        return child

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if child := self._children.pop(pid, None):
                child.end(os.waitstatus_to_exitcode(status))

    async def kill_all(self) -> None:
        """Kill every process below this one; returns when all are gone."""
        while alive := [process for process in psutil.Process().children(recursive=True) if _runs(process)]:
            for process in alive:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            await asyncio.sleep(0.02)


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
