"""Whatever an iterator makes, made ahead by a background thread, a bounded number at a time."""

import atexit
import queue
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T")
_running: "weakref.WeakSet[Ahead[Any]]" = weakref.WeakSet()


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
        self._thread = threading.Thread(target=self._produce, name="data-ahead", daemon=True)
        self._thread.start()
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
    """Let threads end before the interpreter does: one that it stops inside numpy's sorting aborts the process."""
    for ahead in list(_running):
        ahead.close()
    for ahead in list(_running):
        ahead._thread.join(timeout=1)
