"""Real API servers for tests."""

from collections.abc import Callable, Iterator

import pytest
from tests.operator.api_server import ApiServer


@pytest.fixture
def mortal_api_server(start_api_server: Callable[[], ApiServer]) -> Iterator[ApiServer]:
    """A real API server of the test's own, to be killed and started again."""
    server = start_api_server()
    yield server
    server.kill()
