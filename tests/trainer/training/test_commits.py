"""Which checkpoints count: complete ones, in the history that every newer attempt continued."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windlass.errors import WindlassError
from windlass.storage import Storage
from windlass.training.commits import COMMIT, Attempt, Commit, CommitLog, FileRecord, is_valid

FILE = {"data": FileRecord(bytes=3, xxh3="-")}


@pytest.fixture
def log(tmp_path: Path) -> CommitLog:
    return CommitLog(Storage(str(tmp_path / "checkpoints")))


def write(log: CommitLog, step: int, attempt: int) -> Commit:
    commit = Commit(step, attempt, FILE, state={})
    log.storage.write(f"{commit.folder}/data", b"abc")
    log.commit(commit)
    return commit


def steps(log: CommitLog) -> list[int]:
    return [commit.step for commit in log.valid_commits()]


def test_an_empty_folder_has_no_checkpoints(log: CommitLog) -> None:
    assert steps(log) == []


def test_checkpoints_come_newest_first(log: CommitLog) -> None:
    log.begin_attempt(0, {})
    for step in (5, 15, 10):
        write(log, step, 1)
    assert steps(log) == [15, 10, 5]


def test_a_checkpoint_without_its_commit_or_with_a_short_file_does_not_count(log: CommitLog) -> None:
    log.begin_attempt(0, {})
    write(log, 5, 1)
    short = write(log, 10, 1)
    log.storage.write(f"{short.folder}/data", b"a")
    unfinished = Commit(15, 1, FILE, {})
    log.storage.write(f"{unfinished.folder}/data", b"abc")
    assert steps(log) == [5]


def test_a_damaged_manifest_does_not_count(log: CommitLog) -> None:
    log.begin_attempt(0, {})
    write(log, 5, 1)
    damaged = write(log, 10, 1)
    log.storage.write(f"{damaged.folder}/{COMMIT}", b'{"step": 10')
    assert steps(log) == [5]


def test_an_older_attempt_cannot_commit(log: CommitLog) -> None:
    log.begin_attempt(0, {})
    write(log, 5, 1)
    log.begin_attempt(5, {})
    with pytest.raises(WindlassError, match="Attempt 2 has taken over"):
        write(log, 10, 1)


def test_what_an_older_attempt_commits_in_the_very_moment_is_fenced(log: CommitLog) -> None:
    """Its check came before the newer attempt's record, its commit after: no lock can exclude that."""
    log.begin_attempt(0, {})
    write(log, 5, 1)
    late = write(log, 10, 1)
    record = log.storage.read(f"{late.folder}/{COMMIT}")
    log.storage.delete(f"{late.folder}/{COMMIT}")
    log.begin_attempt(5, {})
    log.storage.write(f"{late.folder}/{COMMIT}", record)
    write(log, 7, 2)
    assert steps(log) == [7, 5]


def test_two_writers_cannot_begin_the_same_attempt(log: CommitLog) -> None:
    first = log.begin_attempt(0, {})
    assert not log.storage.create(f"attempts/{first.number:06d}.json", b"{}")
    assert log.begin_attempt(0, {}).number == 2


def test_clean_up_keeps_the_newest_and_what_is_being_written(log: CommitLog) -> None:
    log.begin_attempt(0, {})
    for step in (5, 10, 15):
        write(log, step, 1)
    log.storage.write("step-00000018-attempt-000001/data", b"half")
    log.begin_attempt(15, {})
    write(log, 20, 2)
    log.storage.write("step-00000025-attempt-000002/data", b"being written")
    log.clean_up(keep=2, attempt=2)
    assert steps(log) == [20, 15]
    left = {name.split("/")[0] for name in log.storage.list() if name.startswith("step-")}
    assert left == {
        "step-00000015-attempt-000001",
        "step-00000020-attempt-000002",
        "step-00000025-attempt-000002",
    }


def test_an_older_attempt_leaves_alone_what_a_newer_one_writes(log: CommitLog) -> None:
    log.begin_attempt(0, {})
    write(log, 5, 1)
    log.begin_attempt(5, {})
    log.storage.write("step-00000010-attempt-000002/data", b"half")
    log.clean_up(keep=1, attempt=1)
    assert log.storage.exists("step-00000010-attempt-000002/data")


@given(
    resumed=st.lists(st.integers(0, 30), min_size=1, max_size=6),
    commits=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 6)), max_size=20),
)
def test_valid_checkpoints_form_one_history(resumed: list[int], commits: list[tuple[int, int]]) -> None:
    """Of two valid checkpoints of different attempts, the older attempt's is not beyond where the newer one began."""
    attempts = [Attempt(number, step) for number, step in enumerate(resumed, start=1)]
    made = [Commit(step, attempt, FILE, {}) for step, attempt in commits if attempt <= len(attempts)]
    sizes = {f"{commit.folder}/data": 3 for commit in made}
    valid = [commit for commit in made if is_valid(commit, attempts, sizes)]
    for old in valid:
        for newer in attempts[old.attempt :]:
            assert old.step <= newer.resumed_from
    newest = [commit for commit in made if commit.attempt == len(attempts)]
    assert all(commit in valid for commit in newest), "the newest attempt's checkpoints always count"
