"""What tests run in forked processes."""

import os
from collections.abc import Callable
from typing import Any


def with_environment(environment: dict[str, str], function: Callable[..., None], *arguments: Any) -> None:
    """Call a function with the environment of the test, which is not that of the server that forked this process."""
    os.environ.clear()
    os.environ.update(environment)
    function(*arguments)
