"""Ends a process that makes no progress, with the stacks of all its threads in its log."""

import faulthandler
import time

REARM_SECONDS = 1.0


class HangWatch:
    """Unless `alive` is called within `timeout` seconds, dumps all stacks to stderr and ends the process.

    A rank that ends is a failure of its machine, so the run continues from its last checkpoint.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._armed_at = float("-inf")

    def alive(self) -> None:
        """Start the timeout again."""
        now = time.monotonic()
        if now - self._armed_at > REARM_SECONDS:  # each arming starts a thread
            faulthandler.dump_traceback_later(self._timeout, exit=True)
            self._armed_at = now

    def close(self) -> None:
        faulthandler.cancel_dump_traceback_later()
