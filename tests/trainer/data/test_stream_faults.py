"""What a stream does when storage, cache or manifest fail: never a wrong sample, and a clear message where it stops."""

import fcntl
import http.client
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from windlass.data import cache
from windlass.data.cache import DiskCache
from windlass.data.corpus import Corpus
from windlass.data.stream import TokenStream
from windlass.errors import WindlassError
from windlass.ranges import ReadCounts
from windlass.storage import forget_connections

MakeCorpus = Callable[..., Corpus]
STEPS = 40


@dataclass
class Proxy:
    """An HTTP proxy before the S3 server that does to the answers for shards what it is told."""

    upstream: int
    """The server's port."""
    statuses: Iterator[int] = field(default_factory=lambda: itertools.repeat(200))
    """What is answered, in turn; 200 lets the server answer."""
    kept: Iterator[float] = field(default_factory=lambda: itertools.repeat(1.0))
    """How much of each body is sent before the connection is closed."""
    rate: float | None = None
    """Bytes a second, of all connections together."""
    requests: int = 0
    port: int = 0
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def send(self, to: Any, body: bytes) -> None:
        """Send a body as fast as the rate allows."""
        for at in range(0, len(body), 4096):
            piece = body[at : at + 4096]
            if self.rate:
                with self._turn:
                    time.sleep(len(piece) / self.rate)
            to.write(piece)

    def handler(proxy) -> type[BaseHTTPRequestHandler]:  # noqa: N805 - self is the handler's
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                self._pass_on()

            def do_GET(self) -> None:
                is_shard = "/train-" in self.path
                proxy.requests += is_shard
                status = next(proxy.statuses) if is_shard else 200
                if status != 200:
                    self._answer(status, [("Content-Type", "application/xml")], b"<Error><Code>SlowDown</Code></Error>")
                else:
                    self._pass_on(next(proxy.kept) if is_shard else 1.0)

            def _pass_on(self, kept: float = 1.0) -> None:
                server = http.client.HTTPConnection("127.0.0.1", proxy.upstream)
                server.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    server.putheader(name, value)
                server.endheaders()
                answer = server.getresponse()
                headers = [pair for pair in answer.getheaders() if pair[0].lower() != "connection"]
                self._answer(answer.status, headers, answer.read(), kept)
                server.close()

            def _answer(self, status: int, headers: Any, body: bytes, kept: float = 1.0) -> None:
                self.send_response_only(status)
                for name, value in headers:
                    self.send_header(name, value)
                if not any(name.lower() == "content-length" for name, _ in headers):
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                proxy.send(self.wfile, body[: int(len(body) * kept)])
                self.close_connection = kept < 1

        return Handler


@pytest.fixture
def proxy(s3_server: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy that this process's environment points to, once it has been `start`ed."""
    proxy = Proxy(s3_server.port)
    server = ThreadingHTTPServer(("127.0.0.1", 0), proxy.handler())
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    proxy.port = server.server_port
    yield proxy
    server.shutdown()
    server.server_close()


@pytest.fixture(params=["obstore", "s3fs"])
def client(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Reads go through obstore, and as if it were not installed."""
    if request.param == "s3fs":
        monkeypatch.setitem(sys.modules, "obstore.store", None)
    forget_connections()
    return str(request.param)


@pytest.fixture
def remote(make_corpus: MakeCorpus, s3_server: Any, tmp_path: Path) -> Callable[..., Corpus]:
    """A function that opens a corpus in the object store with a cache of its own, through the proxy if one is given."""
    uri = make_corpus(uri=f"{s3_server.bucket()}/corpus").uri

    def open_corpus(proxy: Proxy | None = None, folder: str = "cache", patience: float | None = None) -> Corpus:
        if proxy:
            os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{proxy.port}"  # clean_aws takes it back
            forget_connections()
        corpus = Corpus.open(uri, tmp_path / folder)
        if patience is not None:
            corpus._storage.patience = patience
        return corpus

    return open_corpus


@pytest.fixture
def expected(make_corpus: MakeCorpus) -> NDArray[Any]:
    """What the stream of the same corpus on disk gives."""
    return read(make_corpus())


def read(corpus: Corpus, steps: int = STEPS) -> NDArray[Any]:
    with TokenStream([(corpus, 1.0)], sequence_length=20, seed=7, global_batch_size=8) as stream:
        return np.stack(list(islice(stream, steps)))


def flip(file: Path, at: int) -> None:
    """Change one bit in place: the file may be mapped."""
    with open(file, "r+b") as opened:
        opened.seek(at)
        byte = opened.read(1)[0]
        opened.seek(at)
        opened.write(bytes([byte ^ 1]))


@pytest.mark.usefixtures("client")
def test_answers_500_and_503_are_asked_again(remote: Any, proxy: Proxy, expected: NDArray[Any]) -> None:
    proxy.statuses = itertools.cycle([503, 200, 500, 200, 200])
    corpus = remote(proxy)
    assert (read(corpus) == expected).all()
    assert proxy.requests > corpus.counts.cache_misses + 3  # s3fs counts no retries, it makes them


def test_a_store_that_answers_503_for_ever_ends_patience(client: str, remote: Any, proxy: Proxy) -> None:
    proxy.statuses = itertools.repeat(503)
    with pytest.raises(WindlassError, match="did not answer") as raised:
        read(remote(proxy, patience=0.5))
    assert raised.value.reason == "StorageUnavailable"


@pytest.mark.usefixtures("client")
def test_bodies_cut_short_are_asked_again(remote: Any, proxy: Proxy, expected: NDArray[Any]) -> None:
    proxy.kept = itertools.cycle([0.5, 1.0, 0.0, 1.0, 1.0])
    corpus = remote(proxy)
    assert (read(corpus) == expected).all()
    assert proxy.requests > corpus.counts.cache_misses + 3  # s3fs counts no retries, it makes them


@pytest.mark.usefixtures("client")
def test_a_store_of_100_kilobytes_a_second_is_slow_and_right(remote: Any, proxy: Proxy, expected: NDArray[Any]) -> None:
    proxy.rate = 100_000
    corpus = remote(proxy)
    assert (read(corpus) == expected).all()
    assert corpus.counts.retries == 0
    assert proxy.requests < 1.3 * corpus.counts.cache_misses  # no storm of second requests


def test_a_killed_server_is_waited_for_in_mid_epoch(
    client: str, remote: Any, s3_server: Any, expected: NDArray[Any]
) -> None:
    with TokenStream([(remote(), 1.0)], sequence_length=20, seed=7, global_batch_size=8, prefetch_steps=1) as stream:
        first = list(islice(stream, 2))
        s3_server.kill()
        threading.Timer(1.0, s3_server.start).start()
        assert (np.stack(first + list(islice(stream, STEPS - 2))) == expected).all()


def test_a_flipped_byte_in_the_store_stops_the_stream_at_its_block(remote: Any, s3_server: Any) -> None:
    corpus = remote()
    flip(Path(s3_server.file(corpus.uri), corpus.manifest.folder, "train-00001.bin"), at=700)
    with pytest.raises(
        WindlassError, match=r"train-00001\.bin: block 1 .* does not match its hash, read twice"
    ) as raised:
        read(corpus, steps=200)
    assert raised.value.reason == "DataCorrupt"
    assert corpus.counts.verification_failures >= 2


def test_flipped_bytes_in_the_cache_are_found_counted_and_healed(remote: Any, expected: NDArray[Any]) -> None:
    first = remote()
    read(first)
    files = [file for file in first._cache.folder.iterdir() if "train" in file.name]
    for file in files:
        flip(file, at=file.stat().st_size // 2)
    again = remote()
    assert (read(again) == expected).all()
    assert again.counts.verification_failures > 10
    healed = remote()
    assert (read(healed) == expected).all()
    assert healed.counts.verification_failures == healed.counts.cache_misses == 0


def test_no_flipped_byte_in_the_manifest_gives_another_sample(make_corpus: MakeCorpus, expected: NDArray[Any]) -> None:
    corpus = make_corpus()
    manifest = Path(corpus.uri, "manifest.json")
    whole = manifest.read_bytes()
    reasons = []
    for at in range(0, len(whole), max(1, len(whole) // 400)):
        flip(manifest, at)
        try:
            found = read(Corpus.open(corpus.uri), steps=3)
        except WindlassError as error:
            reasons.append(error.reason)
        else:
            assert (found == expected[:3]).all(), whole[at - 20 : at + 20]
        manifest.write_bytes(whole)
    assert len(reasons) > 100
    assert set(reasons) <= {"DataCorrupt", "DataNotFound"}
    assert json.loads(whole)["id"] == corpus.id


def test_a_cache_disk_that_is_full_from_the_start_or_becomes_so_is_done_without(
    remote: Any, expected: NDArray[Any], small_disk: Path
) -> None:
    (small_disk / "ballast").write_bytes(bytes((1 << 20) - 16_384))
    assert (read(Corpus.open(remote().uri, small_disk)) == expected).all()


JOB = """
import sys
from itertools import islice
from pathlib import Path
import numpy as np
from windlass.data.corpus import Corpus
from windlass.data.stream import TokenStream
corpus = Corpus.open(sys.argv[1], Path(sys.argv[2]))
print("ready", flush=True)
sys.stdin.readline()
with TokenStream([(corpus, 1.0)], sequence_length=20, seed=7, global_batch_size=8) as stream:
    sys.stdout.buffer.write(np.stack(list(islice(stream, int(sys.argv[3])))).tobytes())
"""


def test_two_jobs_share_a_cache_too_small_for_either(remote: Any, expected: NDArray[Any], tmp_path: Path) -> None:
    command = [sys.executable, "-c", JOB, remote().uri, str(tmp_path / "shared"), str(STEPS)]
    small = os.environ | {"WINDLASS_CACHE_BYTES": "4000"}  # of blocks of 512 bytes, with windows of four
    jobs = [subprocess.Popen(command, env=small, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(2)]
    assert [job.stdout.readline() for job in jobs if job.stdout] == [b"ready\n"] * 2
    for job in jobs:
        assert job.stdin
        job.stdin.close()
    found = [job.stdout.read() for job in jobs if job.stdout]
    assert [job.wait() for job in jobs] == [0, 0]
    assert [each == expected.tobytes() for each in found] == [True, True]
    kept = [file for file in (tmp_path / "shared" / "blocks").iterdir() if not file.name.startswith(".lock")]
    assert 0 < sum(file.stat().st_size for file in kept) < 8000


def test_a_cache_limit_of_0_keeps_everything_in_memory(
    remote: Any, expected: NDArray[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WINDLASS_CACHE_BYTES", "0")
    assert (read(remote(folder="none")) == expected).all()
    assert not (tmp_path / "none").exists()


DIES_WRITING = """
import os, signal, sys
from pathlib import Path
from windlass.data.corpus import Corpus
from windlass.data.stream import TokenStream
write = Path.write_bytes
def die(path, data):
    write(path, bytes(data)[:100])
    print("dying", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
Path.write_bytes = die
next(TokenStream([(Corpus.open(sys.argv[1], Path(sys.argv[2])), 1.0)], sequence_length=20, seed=7, global_batch_size=8))
"""


def test_a_rank_killed_while_it_writes_to_the_cache_leaves_it_usable(
    remote: Any, expected: NDArray[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [sys.executable, "-c", DIES_WRITING, remote().uri, str(tmp_path / "cache")]
    killed = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert b"dying" in killed.stdout
    left = list((tmp_path / "cache" / "blocks").glob("*.partial"))
    assert left
    monkeypatch.setattr(cache, "_ABANDONED", 0.0)
    assert (read(remote()) == expected).all()
    assert not any(file.exists() for file in left)


def test_a_process_that_hangs_with_a_blocks_lock_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "_LOCK_PATIENCE", 0.1)
    mine = DiskCache(tmp_path)
    mine.folder.mkdir(parents=True)
    with open(mine.folder / f".lock-{zlib.crc32(b'block') % cache._LOCKS}", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        data = mine.get("block", "2d06800538d394c2", lambda: b"", ReadCounts())  # xxh3 of nothing
    assert data.size == 0
