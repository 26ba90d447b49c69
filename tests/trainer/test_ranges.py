"""Reading ranges: obstore and s3fs give the same bytes and errors, a part that is late is asked for once more."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from windlass import ranges
from windlass.errors import WindlassError
from windlass.ranges import PART, ReadCounts
from windlass.storage import Storage, forget_connections


@pytest.fixture(params=["obstore", "s3fs"])
def client(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Reads go through obstore, and as if it were not installed."""
    if request.param == "s3fs":
        monkeypatch.setitem(sys.modules, "obstore.store", None)
    else:
        pytest.importorskip("obstore")
    forget_connections()
    return str(request.param)


def test_a_range_of_many_parts_is_read_whole(client: str, s3_server: Any) -> None:
    storage = Storage(s3_server.bucket())
    data = bytes(range(256)) * (3 * PART // 256) + b"the end"
    storage.write("file", data)
    before = storage.counts.bytes_read
    assert storage.read("file") == data
    assert storage.read("file", 100, 100 + 2 * PART) == data[100 : 100 + 2 * PART]
    assert storage.read("file", PART, len(data)) == data[PART:]
    assert storage.counts.bytes_read - before == len(data) + 2 * PART + len(data) - PART
    assert storage.counts.retries == 0
    assert (ranges._s3_store.cache_info().currsize, client) in ((1, "obstore"), (1, "s3fs"))


def test_errors_are_the_same_words(client: str, s3_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage(s3_server.bucket())
    with pytest.raises(FileNotFoundError):
        storage.read("nothing", 0, 10)
    with pytest.raises(WindlassError, match="no such bucket"):
        Storage("s3://no-such-bucket").read("x", 0, 10)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-and-private")
    forget_connections()
    with pytest.raises(WindlassError, match="access denied") as raised:
        storage.read("x", 0, 10)
    assert "private" not in str(raised.value)


def test_a_store_of_ones_own_authority_is_read(
    client: str, s3_tls_server: Any, certificate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate[0]))
    forget_connections()
    storage = Storage(s3_tls_server.bucket())
    storage.write("file", b"data")
    for _ in range(5):
        assert storage.read("file", 1, 3) == b"at"
    # obstore takes no certificate for both server and authority; it is asked a few times and then left alone.
    assert storage.counts.retries == (ranges._FAILURES if client == "obstore" else 0)


def test_a_profile_is_enough(client: str, s3_server: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    uri = s3_server.bucket()
    Storage(uri).write("file", b"data")
    for name in s3_server.environment:
        monkeypatch.delenv(name)
    keys = "aws_access_key_id = windlass\naws_secret_access_key = windlass-secret"
    (tmp_path / "credentials").write_text(f"[mine]\n{keys}\n")
    (tmp_path / "config").write_text(f"[profile mine]\nregion = us-east-1\nendpoint_url = {s3_server.url}\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "mine")
    forget_connections()
    storage = Storage(uri)
    assert storage.read("file", 0, 4) == b"data"
    assert storage.counts.retries == 0


def test_anonymous_access_needs_no_keys_and_signs_nothing(
    client: str, s3_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = s3_server.bucket()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_NO_SIGN_REQUEST", "true")
    forget_connections()
    with pytest.raises(WindlassError, match="access denied") as raised:  # this server serves nobody whom it cannot name
        Storage(uri).read("file", 0, 4)
    assert raised.value.reason == "AccessDenied"


def answers(*seconds: float) -> tuple[list[int], Callable[[], Awaitable[bytes]]]:
    """Return the calls so far, and a function whose n-th call takes so long, and fails if that is negative."""
    calls: list[int] = []

    async def ask() -> bytes:
        calls.append(len(calls))
        number = calls[-1]
        await asyncio.sleep(abs(seconds[number]))
        if seconds[number] < 0:
            raise OSError(f"call {number}")
        return b"%d" % number

    return calls, ask


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part is late after 0.05 seconds."""
    monkeypatch.setattr(ranges, "_FIRST_HEDGE", 0.05)
    monkeypatch.setattr(ranges, "_latencies", ranges._Latencies())


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("seconds", "answer", "asked"),
    [((0.0,), b"0", 1), ((60, 0.0), b"1", 2), ((0.2, 60), b"0", 2), ((-0.1, 0.2), b"1", 2), ((0.2, -0.01), b"0", 2)],
)
def test_the_first_good_answer_counts(seconds: tuple[float, ...], answer: bytes, asked: int) -> None:
    calls, ask = answers(*seconds)
    counts = ReadCounts()
    assert asyncio.run(ranges._hedged(ask, counts)) == answer
    assert len(calls) == asked
    assert counts.hedges == asked - 1


@pytest.mark.usefixtures("impatient")
def test_when_both_fail_so_does_the_read() -> None:
    _, ask = answers(-0.1, -0.01)
    with pytest.raises(OSError, match="call"):
        asyncio.run(ranges._hedged(ask, ReadCounts()))


@pytest.mark.usefixtures("impatient")
def test_a_store_that_is_slow_for_everybody_gets_few_second_requests() -> None:
    counts = ReadCounts()

    async def many() -> None:
        for _ in range(30):
            await ranges._hedged(answers(0.06, 0.06)[1], counts)

    asyncio.run(many())
    assert 1 <= counts.hedges <= 3
