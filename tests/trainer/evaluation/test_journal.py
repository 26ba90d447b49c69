import json
from pathlib import Path

import pytest

from windlass.errors import WindlassError
from windlass.evaluation.journal import Journal, read_journal


@pytest.mark.parametrize("broken", [b'{"n": 3', b'{"n": "\xc3', b"[1]\n", b"\x00\x00\x00"])
def test_a_broken_last_line_is_left_out_and_cut_off_before_the_next_record(tmp_path: Path, broken: bytes) -> None:
    path = tmp_path / "votes.jsonl"
    path.write_bytes(b'{"n": 1}\n{"n": 2}\n' + broken)
    assert read_journal(path) == [{"n": 1}, {"n": 2}]
    with Journal(path) as journal:
        journal.append({"n": "drei\ud800"})
    assert path.read_bytes() == b'{"n": 1}\n{"n": 2}\n{"n": "drei?"}\n'


def test_a_last_record_without_a_line_end_stays(tmp_path: Path) -> None:
    path = tmp_path / "new" / "votes.jsonl"
    assert read_journal(path) == []
    with Journal(path) as journal:
        journal.append({"n": 1})
    path.write_text(path.read_text().rstrip("\n"))
    with Journal(path) as journal:
        journal.append({"n": 2})
        assert journal.records == [{"n": 1}, {"n": 2}]
    assert [json.loads(line)["n"] for line in path.read_text().splitlines()] == [1, 2]


def test_a_broken_line_before_the_last_names_its_place(tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"
    path.write_text('{"n": 1}\n{"n": \n{"n": 3}\n')
    with pytest.raises(WindlassError, match=r"votes\.jsonl:2 is no JSON record") as raised:
        Journal(path)
    assert raised.value.reason == "DataCorrupt"
