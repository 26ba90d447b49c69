"""Child processes of a container's first process."""

import asyncio
import multiprocessing
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import psutil

from windlass.engine.pods.supervise import Children

ORPHANS = """
import os, sys, time
for seconds in (0.1, 100):
    if os.fork() == 0:
        time.sleep(seconds)
        os._exit(0)
"""
"""Ends at once and leaves a process that ends soon, and one that does not."""


def test_orphans_are_inherited_reaped_and_killed(tmp_path: Path) -> None:
    alone(_orphans, tmp_path)


async def _orphans(folder: Path) -> None:
    children = Children()
    child = children.start("parent", sys.executable, "-c", ORPHANS, environment={})
    assert await child.ended == 0
    while len(psutil.Process().children()) > 1:
        await asyncio.sleep(0.02)
    [orphan] = psutil.Process().children()
    assert orphan.status() != psutil.STATUS_ZOMBIE
    await children.kill_all()
    while psutil.Process().children():  # zombies count
        await asyncio.sleep(0.02)


def test_a_child_ends_with_its_exit_code_or_signal(tmp_path: Path) -> None:
    alone(_ends, tmp_path)


async def _ends(folder: Path) -> None:
    children = Children()
    log = folder / "log"
    echo = "import sys; print(sys.stdin.read()); sys.exit(3)"
    child = children.start("echo", sys.executable, "-c", echo, environment={}, log=log)
    child.tell("a word")
    assert await child.ended == 3
    assert log.read_text().strip() == "a word"
    child.signal(signal.SIGTERM)  # too late, and no error
    killed = children.start("sleep", sys.executable, "-c", "import time; time.sleep(100)", environment={})
    killed.signal(signal.SIGKILL)
    assert await killed.ended == -9


def test_a_child_is_killed_with_all_that_it_has_started(tmp_path: Path) -> None:
    alone(_killed_with_its_own, tmp_path)


async def _killed_with_its_own(folder: Path) -> None:
    children = Children()
    fork = "import os, time\nfor _ in range(3): os.fork()\ntime.sleep(100)"
    child = children.start("many", sys.executable, "-c", fork, environment={})
    while len(psutil.Process().children(recursive=True)) < 8:
        await asyncio.sleep(0.02)
    await children.kill_all()
    assert await child.ended == -9
    assert not [one for one in psutil.Process().children(recursive=True) if one.status() != psutil.STATUS_ZOMBIE]


def alone(story: Callable[[Path], Coroutine[Any, Any, None]], folder: Path) -> None:
    """Run it in a process of its own: this one has other children."""
    process = multiprocessing.get_context("spawn").Process(target=_run, args=(story, folder))
    process.start()
    process.join(60)
    process.kill()  # where it has not ended by itself
    process.join()
    assert process.exitcode == 0


def _run(story: Callable[[Path], Coroutine[Any, Any, None]], folder: Path) -> None:
    asyncio.run(story(folder))
