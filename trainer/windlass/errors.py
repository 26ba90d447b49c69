"""The one error that Windlass raises for a person to read: a reason of the table and a message that says what to do."""

from windlass.spec.reasons import REASONS

DONE, BAD_INPUT, FAILED, INTERRUPTED = 0, 2, 3, 130
"""Exit codes of every command."""


class WindlassError(Exception):
    """A failure with a reason from `windlass.spec.reasons.REASONS`.

    The message says what happened, to which object, and what to do; commands print it without a traceback.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(reason, message)  # both in args, so that the error survives pickling between processes
        self.reason = reason
        self.message = message

    def __str__(self) -> str:
        return self.message

    @property
    def retryable(self) -> bool:
        """True for failures of machines, which are retried from the last checkpoint."""
        return REASONS[self.reason].kind == "Infrastructure"

    @property
    def exit_code(self) -> int:
        """What a command that this error ends exits with."""
        return BAD_INPUT if REASONS[self.reason].bad_input else FAILED
