"""Real API servers for tests."""

import contextlib
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.operator.api_server import ApiServer, Etcd


@pytest.fixture(scope="session")
def start_api_server(
    program: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[], ApiServer]]:
    """A function that starts a kube-apiserver; all of them keep their data in one etcd."""
    hyperkube = program("hyperkube")
    if not shutil.which("openssl"):
        pytest.skip("openssl, which makes an API server's keys, is not on the PATH")
    folder = tmp_path_factory.mktemp("kubernetes")
    openssl = ["openssl", "rsa", "-in", str(folder / "sa.key"), "-pubout", "-out", str(folder / "sa.pub")]
    subprocess.run(["openssl", "genrsa", "-out", str(folder / "sa.key"), "2048"], check=True, capture_output=True)
    subprocess.run(openssl, check=True, capture_output=True)
    with contextlib.ExitStack() as running:
        etcd = Etcd(hyperkube, folder)
        running.callback(etcd.stop)

        def start() -> ApiServer:
            server = ApiServer(hyperkube, etcd, folder, tmp_path_factory.mktemp("apiserver"))
            running.callback(server.kill)
            return server

        yield start


@pytest.fixture(scope="session")
def api_server(start_api_server: Callable[[], ApiServer]) -> ApiServer:
    """A real API server, which tests share: each uses a namespace of its own, and none kills it."""
    return start_api_server()


@pytest.fixture
def mortal_api_server(start_api_server: Callable[[], ApiServer]) -> Iterator[ApiServer]:
    """A real API server of the test's own, to be killed and started again."""
    server = start_api_server()
    yield server
    server.kill()
