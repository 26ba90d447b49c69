"""Background threads that end before the interpreter does, and iterators whose items one of them makes ahead."""

import atexit
import queue
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T")
_running: "weakref.WeakSet[Ahead[Any]]" = weakref.WeakSet()
_threads: "weakref.WeakSet[threading.Thread]" = weakref.WeakSet()
_LAST_SECONDS = 2.0
"""How long the end of the process waits for threads."""
ending = threading.Event()
"""Set once the process ends."""


def in_background(target: Callable[..., object], *arguments: Any) -> threading.Thread:
    """Call a function in a thread of its own; it should return soon once `ending` is set."""
    thread = threading.Thread(target=target, args=arguments, daemon=True)
    thread.start()
    _threads.add(thread)
    return thread


class Ahead(Generic[T]):
    """Hands out the items of the lists that `made` yields, one by one; at most `lists` of them wait to be asked for.

    Lists, since handing an item from thread to thread takes as long as making a small one.
    """

    def __init__(self, made: Iterator[list[T]], lists: int) -> None:
        """Start the thread."""
        self.waited_seconds = 0.0
        """How long `next` had to wait, in all."""
        self._made = made
        self._ready: queue.Queue[list[T] | BaseException] = queue.Queue(maxsize=lists)
        self._items: deque[T] = deque()
        self._closed = threading.Event()
        self._thread = in_background(self._produce)
        _running.add(self)

    def __next__(self) -> T:
        """Return the next item; raises what making it raised, StopIteration at the end and after `close`."""
        if not self._items:
            self._items.extend(self._next_list())
        return self._items.popleft()

    def close(self) -> None:
        """Stop making; the thread ends with the list that it is at."""
        self._closed.set()
        self._items.clear()
        while not self._ready.empty():  # room for the thread to see it
            self._ready.get_nowait()

    def _next_list(self) -> list[T]:
        if self._closed.is_set():
            raise StopIteration
        start = time.perf_counter()
        made = self._ready.get()
        self.waited_seconds += time.perf_counter() - start
        if isinstance(made, BaseException):
            self._closed.set()
            raise made
        return made

    def _produce(self) -> None:
        while not self._closed.is_set():
            try:
                made: list[T] | BaseException = next(self._made)
            except BaseException as error:  # noqa: BLE001 - raised again where the item is asked for
                made = error
            self._ready.put(made)
            if isinstance(made, BaseException):
                return


@atexit.register
def _end_threads() -> None:
    """Wait for threads: one that the interpreter stops inside numpy's sorting, or obstore, aborts the process."""
    ending.set()
    for ahead in list(_running):
        ahead.close()
    deadline = time.monotonic() + _LAST_SECONDS
    for thread in list(_threads):
        thread.join(timeout=max(0.0, deadline - time.monotonic()))
