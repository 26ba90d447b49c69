"""Units of work on this machine's processes, or on whatever executor is given."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing.connection import wait as wait_for
from typing import TypeVar

from windlass.errors import WindlassError

_WAITING = 2  # tasks that wait for each worker: none idles, and few are lost on Ctrl-C
Task = TypeVar("Task")
Result = TypeVar("Result")


def processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def completed(
    executor: Executor | None,
    workers: int,
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
    tick: Callable[[], None],
) -> Generator[Result, None, None]:
    """Yield function(task) of each task as it completes, in this process where there is no executor.

    `tick` is called about once a second; what it raises ends the work, and so does Ctrl-C, at that time. Once closed it
    leaves no task behind that could still be cancelled. Raises OutOfMemory when a worker was killed.
    """
    if executor is None:
        for task in tasks:
            tick()
            yield function(task)
        return
    todo, running = iter(tasks), set[Future[Result]]()
    with _late_interrupt() as interrupted:
        try:
            while True:
                running |= {executor.submit(function, task) for task in islice(todo, _WAITING * workers - len(running))}
                if not running:
                    return
                done, running = wait(running, timeout=1, return_when=FIRST_COMPLETED)
                if interrupted.is_set():
                    return
                tick()
                for future in done:
                    yield future.result()
        except BrokenProcessPool as error:
            message = "a process of the preparation was killed, perhaps because memory ran out"
            raise WindlassError("OutOfMemory", f"{message}; run again to continue, with fewer --workers") from error
        finally:
            for future in running:
                future.cancel()


@contextlib.contextmanager
def _late_interrupt() -> Iterator[threading.Event]:
    """Ctrl-C sets the event, and raises KeyboardInterrupt at the end: raised amid `wait`, it leaves futures locked."""
    interrupted = threading.Event()
    here = threading.current_thread() is threading.main_thread()
    if not here or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield interrupted  # somebody else sees to it
        return
    signal.signal(signal.SIGINT, lambda *_: interrupted.set())
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if interrupted.is_set():
        raise KeyboardInterrupt


@contextlib.contextmanager
def process_pool(workers: int) -> Iterator[Executor | None]:
    """Yield processes that end with this one, however that ends; None for a single worker."""
    if workers <= 1:
        yield None
        return
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start)
    try:
        yield pool
    except BaseException:
        for process in list(pool._processes.values()):  # there is no public way to end them
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _start() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends us
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    parent = multiprocessing.parent_process()
    assert parent
    threading.Thread(target=lambda: (wait_for([parent.sentinel]), os._exit(1)), daemon=True).start()
