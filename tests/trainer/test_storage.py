"""Storage: atomic writes, exclusive creation, patience, and one clear line for what cannot work."""

import errno
import logging
import os
import random
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from windlass.errors import WindlassError
from windlass.storage import PARTIAL, Storage, forget_connections, retry, shown


@pytest.fixture(params=["local", "file", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """An empty folder, on disk and in a real object store."""
    if request.param == "s3":
        server: Any = request.getfixturevalue("s3_server")
        return Storage(f"{server.bucket()}/folder")
    return Storage(str(tmp_path / "folder") if request.param == "local" else f"file://{tmp_path}/folder")


def test_what_is_written_is_read_whole_and_in_ranges(storage: Storage) -> None:
    storage.write("a/b.bin", b"0123456789")
    assert storage.read("a/b.bin") == b"0123456789"
    assert storage.read("a/b.bin", 2, 5) == b"234"
    assert storage.read("a/b.bin", 8, 99) == b"89"
    storage.write("a/b.bin", b"new")
    assert storage.read("a/b.bin") == b"new"


def test_a_listing_names_all_files_below_and_their_sizes_at_once(storage: Storage) -> None:
    assert storage.list() == {}
    storage.write("one", b"1")
    storage.write("a/two", b"22")
    assert storage.list() == {"one": 1, "a/two": 2}
    storage.write("a/b/three", b"333")
    assert storage.list("a") == {"a/two": 2, "a/b/three": 3}
    assert storage.list("nothing") == {}


def test_deleting_takes_files_and_folders_and_needs_nothing_there(storage: Storage) -> None:
    for name in ("a/one", "a/b/two", "three"):
        storage.write(name, b"")
    storage.delete("a")
    storage.delete("three")
    storage.delete("nothing")
    assert storage.list() == {}
    assert not storage.exists("a")


def test_a_missing_file_is_a_file_not_found_error(storage: Storage) -> None:
    assert not storage.exists("nothing")
    with pytest.raises(FileNotFoundError):
        storage.read("nothing")
    with pytest.raises(FileNotFoundError):
        storage.read("nothing", 0, 4)


def test_of_many_writers_exactly_one_creates(storage: Storage) -> None:
    with ThreadPoolExecutor(8) as pool:
        created = list(pool.map(lambda i: storage.create("claim", b"%d" % i), range(8)))
    assert created.count(True) == 1
    assert storage.read("claim") == b"%d" % created.index(True)
    assert not storage.create("claim", storage.read("claim"))


def test_creation_is_exclusive_on_file_systems_without_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", lambda *_: _raise(OSError(errno.EPERM, "no links here")))
    storage = Storage(str(tmp_path))
    assert storage.create("claim", b"first")
    assert not storage.create("claim", b"second")
    assert storage.read("claim") == b"first"
    assert os.listdir(tmp_path) == ["claim"]


def test_a_file_in_the_way_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WindlassError, match="file cannot be a folder: a file is in the way"):
        Storage(f"{tmp_path}/file").write("x", b"")


def test_a_big_file_is_uploaded_in_parts(storage: Storage, tmp_path: Path) -> None:
    data = os.urandom(1 << 20) * 40
    (tmp_path / "big").write_bytes(data)
    storage.upload(tmp_path / "big", "copy")
    assert storage.list() == {"copy": len(data)}
    assert storage.read("copy") == data


def test_a_child_is_a_folder_in_the_folder(storage: Storage) -> None:
    storage.child("a").child("b").write("c", b"x")
    assert storage.list() == {"a/b/c": 1}


def test_a_writer_killed_in_the_middle_leaves_the_old_file_and_nothing_listed(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    storage.write("file", b"old")
    program = (
        "import os, sys; from windlass import storage\n"
        "os.replace = lambda *_: os.kill(os.getpid(), 9)\n"
        "storage.Storage(sys.argv[1]).write('file', b'new')"
    )
    assert subprocess.run([sys.executable, "-c", program, str(tmp_path)]).returncode == -9
    assert storage.read("file") == b"old"
    assert storage.list() == {"file": 3}
    assert any(name.endswith(PARTIAL) for name in os.listdir(tmp_path))  # so the kill was in the middle


def test_a_small_disk_is_named_and_nothing_half_written_stays(small_disk: Path, tmp_path: Path) -> None:
    storage = Storage(str(small_disk))
    storage.write("file", b"old")
    (tmp_path / "big").write_bytes(bytes(2 << 20))
    for write in (
        lambda: storage.write("file", bytes(2 << 20)),
        lambda: storage.create("new", bytes(2 << 20)),
        lambda: storage.upload(tmp_path / "big", "file"),
    ):
        with pytest.raises(WindlassError, match="no space is left") as raised:
            write()
        assert raised.value.reason == "StorageFull"
        assert os.listdir(small_disk) == ["file"]
        assert storage.read("file") == b"old"


def test_a_wrong_key_and_a_wrong_secret_give_one_clear_line(s3_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = s3_server.bucket()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "wrong-and-private")
            forget_connections()
            storage = Storage(uri)
            for call in (partial(storage.read, "x"), partial(storage.write, "x", b""), storage.list):
                with pytest.raises(WindlassError) as raised:
                    call()
                assert raised.value.reason == "AccessDenied"
                assert uri in str(raised.value)
                assert "\n" not in str(raised.value)
                assert "private" not in str(raised.value)


def test_no_credentials_at_all_give_one_clear_line(s3_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = s3_server.bucket()
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    forget_connections()
    with pytest.raises(WindlassError, match="access denied") as raised:
        Storage(uri).read("x")
    assert raised.value.reason == "AccessDenied"


def test_a_missing_bucket_is_named(s3_server: Any) -> None:
    storage = Storage("s3://no-such-bucket/folder")
    for call in (partial(storage.read, "x"), partial(storage.write, "x", b""), storage.list):
        with pytest.raises(WindlassError, match="no such bucket") as raised:
            call()
        assert raised.value.reason == "DataNotFound"


def test_a_server_that_dies_and_returns_is_waited_for(s3_server: Any, caplog: pytest.LogCaptureFixture) -> None:
    storage = Storage(s3_server.bucket())
    storage.write("file", b"data")
    s3_server.kill()
    threading.Timer(1.0, s3_server.start).start()
    with caplog.at_level(logging.WARNING, "windlass.storage"):
        assert storage.read("file") == b"data"
    assert ["does not answer" in caplog.messages[0], "answers again" in caplog.messages[1]] == [True, True]
    assert len(caplog.messages) == 2


def test_a_server_that_stays_away_ends_patience(s3_server: Any) -> None:
    storage = Storage(s3_server.bucket(), patience=0.5)
    s3_server.kill()
    with pytest.raises(WindlassError, match="did not answer") as raised:
        storage.read("file")
    assert raised.value.reason == "StorageUnavailable"
    assert raised.value.retryable


def test_a_custom_authority_is_honoured_and_a_stranger_refused(
    s3_tls_server: Any, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage(s3_tls_server.bucket())
    with pytest.raises(WindlassError, match="certificate is not trusted; set AWS_CA_BUNDLE"):
        storage.write("file", b"data")
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate[0]))
    forget_connections()
    storage.write("file", b"data")
    assert storage.read("file") == b"data"


@pytest.mark.parametrize(
    ("uri", "hint"),
    [("s4://bucket/x", "s3://"), ("htps://host/x", "https://"), ("s3:/bucket/x", "did you mean s3://bucket/x")],
)
def test_a_mistyped_uri_gets_the_nearest_protocol(uri: str, hint: str) -> None:
    with pytest.raises(WindlassError, match=hint) as raised:
        Storage(uri)
    assert raised.value.reason == "ConfigInvalid"


def test_plain_paths_with_colons_and_tildes_are_paths(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Storage("~/a:b/c").path == f"{tmp_path}/a:b/c"


def test_messages_never_show_credentials() -> None:
    assert shown("https://user:secret@host/a?token=secret") == "https://host/a"
    with pytest.raises(WindlassError) as raised:
        retry(
            lambda: _raise(ConnectionError("https://u:secret@h/a?sig=secret refused")), "s3://k:secret@b/a", patience=0
        )
    assert "secret" not in str(raised.value)


def test_only_what_can_pass_is_tried_again() -> None:
    tries: list[int] = []

    def fail(error: Exception) -> None:
        tries.append(1)
        raise error

    with pytest.raises(ValueError, match="x"):
        retry(lambda: fail(ValueError("x")), "s3://b", patience=60)
    with pytest.raises(FileNotFoundError):
        retry(lambda: fail(FileNotFoundError("x")), "s3://b", patience=60)
    with pytest.raises(WindlassError, match="no space"):
        retry(lambda: fail(OSError(errno.ENOSPC, "full")), "s3://b", patience=60)
    assert len(tries) == 3
    with pytest.raises(WindlassError, match="did not answer"):
        retry(lambda: fail(TimeoutError()), "s3://b", patience=0.5)
    assert len(tries) > 4


def test_waiting_leaves_the_random_numbers_of_the_program_alone() -> None:
    random.seed(1)
    before = random.getstate()
    answers = iter([ConnectionError(), None])
    retry(lambda: _raise(next(answers)), "s3://b")
    assert random.getstate() == before


def test_a_forked_child_can_read_what_its_parent_did(s3_server: Any) -> None:
    storage = Storage(s3_server.bucket())
    storage.write("file", b"data")
    child = os.fork()
    if child == 0:
        os._exit(0 if storage.read("file") == b"data" else 1)
    assert os.waitpid(child, 0)[1] == 0


def _raise(error: Exception | None) -> None:
    if error:
        raise error
