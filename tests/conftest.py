"""Parts that tests share: the folder of real data, a real API server, and real S3 servers that a test may kill."""

import contextlib
import functools
import http.server
import lzma
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from tests.operator.api_server import ApiServer, Etcd

from windlass import storage

settings.register_profile("windlass", deadline=None, max_examples=50)  # machines that run tests may be busy
settings.load_profile("windlass")

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs, and their children, ignore Ctrl-C

KEY, SECRET = "windlass", "windlass-secret"


class S3Server:
    """A versitygw on 127.0.0.1 with a port and folder of its own; `kill` and `start` keep both."""

    def __init__(self, program: Path, folder: Path, certificate: tuple[Path, Path] | None = None) -> None:
        """Start it; with (certificate, key) it speaks https."""
        self.folder = folder
        self.port = _free_port()
        scheme = "https" if certificate else "http"
        self.url = f"{scheme}://127.0.0.1:{self.port}"
        self.environment = {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        """What a client needs, for this process or another."""
        tls = ["--cert", certificate[0], "--key", certificate[1]] if certificate else []
        address = f"127.0.0.1:{self.port}"
        self._command = [str(part) for part in (program, "--quiet", "--port", address, *tls, "posix", folder)]
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True)
        self.start()

    def start(self) -> None:
        """Start it, unless it runs, and wait until it answers."""
        if self._process and self._process.poll() is None:
            return
        keys = {"ROOT_ACCESS_KEY": KEY, "ROOT_SECRET_KEY": SECRET}
        log = open(self.folder.with_suffix(".log"), "a")  # noqa: SIM115 - the server writes to it
        self._process = subprocess.Popen(self._command, env=keys, stdout=log, stderr=log)
        log.close()
        until = time.monotonic() + 30
        while time.monotonic() < until:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            time.sleep(0.02)
        raise RuntimeError(f"the S3 server does not start; see {log.name}")

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        assert self._process
        self._process.kill()
        self._process.wait()

    def bucket(self) -> str:
        """Return the URI of a new, empty bucket."""
        name = f"test-{uuid.uuid4().hex[:12]}"
        (self.folder / name).mkdir()
        return f"s3://{name}"

    def file(self, uri: str) -> Path:
        """Return the file that holds an object, to damage it."""
        return self.folder / uri.removeprefix("s3://")


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real data: tinyshakespeare.txt, gsm8k-*.jsonl, sms-spam.tsv."""
    folder = os.environ.get("WINDLASS_TEST_DATA")
    if not folder:
        pytest.skip("WINDLASS_TEST_DATA, the folder of real test data, is not set")
    return Path(folder)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small file system to fill needs root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)  # a reader may still map its files


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function that finds a program on the PATH, or packed in the test cluster's bin/, and skips the test else."""
    folder = tmp_path_factory.mktemp("bin")

    @functools.cache
    def find(name: str) -> Path:
        if found := shutil.which(name):
            return Path(found)
        cluster = os.environ.get("WINDLASS_TEST_CLUSTER")
        packed = Path(cluster).parent / "bin" / f"{name}.xz" if cluster else None
        if not packed or not packed.exists():
            pytest.skip(f"{name} is not on the PATH, and WINDLASS_TEST_CLUSTER has none")
        unpacked = folder / name
        with lzma.open(packed) as source, open(unpacked, "wb") as target:
            shutil.copyfileobj(source, target)
        unpacked.chmod(0o755)
        return unpacked

    return find


@pytest.fixture(scope="session")
def versitygw(program: Callable[[str], Path]) -> Path:
    """The S3 server's program."""
    return program("versitygw")


@pytest.fixture(scope="session")
def session_s3_server(versitygw: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """One server for all tests; use `s3_server`."""
    server = S3Server(versitygw, tmp_path_factory.mktemp("s3") / "data")
    yield server
    server.kill()


@pytest.fixture
def s3_server(session_s3_server: S3Server, clean_aws: pytest.MonkeyPatch) -> S3Server:
    """A running S3 server that this process's environment points to."""
    session_s3_server.start()  # the test before may have killed it
    use(session_s3_server, clean_aws)
    return session_s3_server


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-made certificate for 127.0.0.1, its own authority, and its key."""
    if not shutil.which("openssl"):
        pytest.skip("openssl, which makes the certificate, is not installed")
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    options = ["-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1"]
    command = ["openssl", "req", *options, *names, "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


@pytest.fixture
def s3_tls_server(
    versitygw: Path, certificate: tuple[Path, Path], tmp_path: Path, clean_aws: pytest.MonkeyPatch
) -> Iterator[S3Server]:
    """An S3 server on https that nobody trusts yet; the fixture `certificate` has its authority."""
    server = S3Server(versitygw, tmp_path / "s3", certificate)
    use(server, clean_aws)
    yield server
    server.kill()


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
def serve() -> Iterator[Callable[[Path], str]]:
    """A function that serves a folder on a plain web server, one that knows no ranges, and returns its URL."""
    with contextlib.ExitStack() as servers:

        def start(folder: Path) -> str:
            handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
            server = servers.enter_context(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler))
            threading.Thread(target=server.serve_forever, daemon=True).start()
            servers.callback(server.shutdown)
            return f"http://127.0.0.1:{server.server_port}"

        yield start


@pytest.fixture
def clean_aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """An environment without AWS settings, and no file system that was made with others, before and after."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    storage.forget_connections()
    yield monkeypatch
    storage.forget_connections()


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Blocks of remote corpora are cached in a folder of the test session."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WINDLASS_CACHE", str(folder))
        yield folder


def use(server: S3Server, environment: pytest.MonkeyPatch) -> None:
    """Point this process to the server."""
    for name, value in server.environment.items():
        environment.setenv(name, value)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
