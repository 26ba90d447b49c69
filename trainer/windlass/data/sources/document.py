"""What every format yields."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Document:
    """A text, or None where its bytes are no text in UTF-8."""

    name: str
    """Where it is, for messages."""
    text: str | None
