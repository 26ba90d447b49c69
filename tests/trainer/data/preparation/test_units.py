"""Units of work: the same bytes on any number of processes, after a kill, and beside another preparation."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures._base import _AcquireFutures
from pathlib import Path
from typing import Any

import pytest

from windlass.data import prepare as preparation
from windlass.data.preparation import unit, units
from windlass.data.preparation.processes import completed
from windlass.data.prepare import ensure_prepared, prepare
from windlass.data.tokenizers import BytesTokenizer
from windlass.errors import WindlassError
from windlass.spec.job import Prepare
from windlass.storage import Storage

BYTES = BytesTokenizer()
DEDUPLICATE = {"near": {"permutations": 32}}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A file of 200 documents, some of them copies."""
    lines = [f"document {number % 150} " + f"with {number % 150} words " * 30 for number in range(200)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    return tmp_path / "a.jsonl"


@pytest.fixture(autouse=True)
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Units of 8 KiB, and processes for less than the usual minimum."""
    monkeypatch.setattr(units, "SIZE", 1 << 13)
    monkeypatch.setattr(preparation, "_SMALL", 0)


def spec(source: Path | str) -> Prepare:
    return Prepare.model_validate({"sources": [{"uri": str(source)}], "clean": {}, "deduplicate": DEDUPLICATE})


def contents(corpus: Path) -> dict[str, bytes]:
    """All files of a corpus but the lock."""
    files = [path for path in corpus.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(corpus)): path.read_bytes() for path in files}


def test_any_number_of_processes_makes_the_same_bytes(source: Path, tmp_path: Path) -> None:
    one = prepare(spec(source), BYTES, str(tmp_path / "one"))
    two = prepare(spec(source), BYTES, str(tmp_path / "two"), workers=2)
    assert one.id == two.id
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


PROGRAM = """
import os, sys, time
from windlass.data import prepare as p
from windlass.data.preparation import units
from windlass.data.tokenizers import BytesTokenizer
from windlass.spec.job import Prepare
units.SIZE = 1 << 13
run = p.run_unit
def run_unit(work):
    if work[1].number == 3:
        {at_the_fourth}
    return run(work)
p.run_unit = run_unit
p.prepare(Prepare.model_validate_json(sys.argv[1]), BytesTokenizer(), sys.argv[2])
"""


def started(source: Path | str, uri: str, at_the_fourth: str) -> subprocess.Popen[str]:
    """A preparation in another process that does something before its fourth unit."""
    program = PROGRAM.format(at_the_fourth=at_the_fourth)
    command = [sys.executable, "-c", program, spec(source).model_dump_json(), uri]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("where", ["local", "s3"])
def test_a_killed_preparation_goes_on_and_gives_the_same_bytes(
    where: str, source: Path, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = str(tmp_path / "killed")
    if where == "s3":
        server = request.getfixturevalue("s3_server")
        uri = f"{server.bucket()}/killed"
    assert started(source, uri, "os.kill(os.getpid(), 9)").wait() == -9
    done: list[int] = []
    run = unit.run_unit

    def counted(work: Any) -> Any:
        done.append(work[1].number)
        return run(work)

    monkeypatch.setattr(preparation, "run_unit", counted)
    assert prepare(spec(source), BYTES, uri).id == prepare(spec(source), BYTES, str(tmp_path / "whole")).id
    assert done[: done.index(0)] == list(range(3, done.index(0) + 3))  # the first three were there
    assert not [name for name in Storage(uri).list() if name.startswith(".work")]
    if where == "local":
        assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


@pytest.mark.parametrize("where", ["local", "s3"])
def test_a_second_preparation_waits_for_the_first_and_finds_its_corpus(
    where: str, source: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    uri = str(tmp_path / "c") if where == "local" else f"{request.getfixturevalue('s3_server').bucket()}/c"
    first = started(source, uri, "print('here', flush=True); time.sleep(2)")
    assert first.stdout is not None
    assert first.stdout.readline() == "here\n"
    lines: list[str] = []
    corpus, made = ensure_prepared(spec(source), BYTES, uri, lines.append)
    assert not made
    assert first.wait() == 0
    assert corpus.split("train").documents
    assert lines[0].startswith("waiting for another preparation: ")
    assert "/c is in use by" in lines[0]


def test_ctrl_c_ends_the_processes_and_keeps_what_is_done(source: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "windlass", "data", "prepare", str(source), "--out", str(tmp_path / "c")]
    program = (
        "import sys; from windlass.data import prepare as p; from windlass.data.preparation import units\n"
        "from windlass.cli.main import app\n"
        "if __name__ == '__main__': units.SIZE, p._SMALL = 1 << 13, 0; app(sys.argv[1:])\n"
    )
    (tmp_path / "main.py").write_text(program)
    command[1:3] = [str(tmp_path / "main.py")]
    command += ["--tokenizer", "bytes", "--workers", "2"]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    until = time.monotonic() + 60
    while not list(tmp_path.glob("c/.work-*/000000.json")):
        assert time.monotonic() < until
        time.sleep(0.001)
    os.killpg(running.pid, signal.SIGINT)
    assert running.stderr is not None
    said = running.stderr.read()
    assert running.wait() == 130
    assert "Interrupted; the same command continues where it was." in said
    assert list(tmp_path.glob("c/.work-*/000000.json"))
    assert not (tmp_path / "c" / "manifest.json").exists()
    while subprocess.run(["pgrep", "-s", str(running.pid)], capture_output=True).stdout:  # no process of its own stays
        assert time.monotonic() < until
        time.sleep(0.05)


def test_ctrl_c_while_the_results_are_locked_leaves_none_of_them_locked(monkeypatch: pytest.MonkeyPatch) -> None:
    lock = _AcquireFutures.__enter__

    def interrupted(locks: _AcquireFutures) -> None:
        lock(locks)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(_AcquireFutures, "__enter__", interrupted)
    with pytest.raises(KeyboardInterrupt), ThreadPoolExecutor(1) as executor:  # which waits for its tasks
        list(completed(executor, 1, abs, range(9), lambda: None))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_source_that_changes_while_it_is_read_leaves_no_corpus(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hash_of = unit.text_hash

    def slowly(text: str) -> int:
        with open(source, "a") as file:
            file.write('{"text": "late"}\n')
        return hash_of(text)

    monkeypatch.setattr(unit, "text_hash", slowly)
    with pytest.raises(WindlassError, match=r"a\.jsonl changed while it was read.*run again") as raised:
        prepare(spec(source), BYTES, str(tmp_path / "c"))
    assert raised.value.reason == "DataCorrupt"
    assert contents(tmp_path / "c") == {}


def test_the_data_of_the_preparation_before_is_kept_and_older_goes(source: Path, tmp_path: Path) -> None:
    folders = []
    for number in range(3):
        with open(source, "a") as file:
            file.write(json.dumps({"text": f"more {number}"}) + "\n")
        folders.append(prepare(spec(source), BYTES, str(tmp_path / "c")).manifest.folder)
    assert sorted(path.name for path in (tmp_path / "c").glob("data-*")) == sorted(folders[1:])


def test_special_tokens_in_a_text_are_text_unless_asked_for(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one<|endoftext|>two")
    plain = {"sources": [{"uri": f"{tmp_path}/a.txt"}], "validationFraction": 0.01}
    corpus = prepare(Prepare.model_validate(plain), BYTES, str(tmp_path / "plain"))
    assert corpus.split("train").tokens == 19
    asked = prepare(Prepare.model_validate(plain | {"specialTokens": True}), BYTES, str(tmp_path / "asked"))
    assert asked.split("train").read(0, 7).tolist() == [*b"one", 256, *b"tw", 256]


def test_sources_that_are_not_there_leave_no_folder(tmp_path: Path) -> None:
    with pytest.raises(WindlassError, match="no such file"):
        prepare(spec(tmp_path / "none.jsonl"), BYTES, str(tmp_path / "c"))
    assert not (tmp_path / "c").exists()


def test_a_corpus_where_a_file_is_in_the_way_is_refused(source: Path) -> None:
    with pytest.raises(WindlassError, match="cannot be a folder: a file is in the way") as raised:
        prepare(spec(source), BYTES, str(source / "c"))
    assert raised.value.reason == "ConfigInvalid"
