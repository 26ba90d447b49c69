"""What Ray Train calls in the ranks' processes: one of them opens the place where they meet, and all are told of it.

It imports nothing that a rank does not need.
"""

from collections.abc import Callable
from typing import Any

_place = ""


def opened(meet: Callable[[], str]) -> str:
    """On rank 0: what `meet` returns."""
    return meet()


def tell(place: str) -> None:
    """On every rank."""
    global _place
    _place = place


def call(given: dict[str, Any]) -> None:
    """On every rank, as Ray Train's train function: call `given["function"](given["config"], place)`."""
    given["function"](given["config"], _place)
