"""Sources: which files a URI means, and the documents in each format."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from windlass.data.sources import documents, list_files
from windlass.errors import WindlassError
from windlass.spec.job import Source
from windlass.storage import Storage


def read(uri: str, **options: Any) -> list[tuple[str, str | None]]:
    """Return (name, text) of all documents, the name without its folder."""
    source = Source(uri=uri, **options)
    found = [document for file in list_files(source) for document in documents(source, file)]
    return [(document.name.rpartition("/")[2], document.text) for document in found]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files of several kinds."""
    (tmp_path / "plays").mkdir()
    (tmp_path / "plays" / "b.txt").write_text("b")
    (tmp_path / "plays" / "a.txt").write_text("a")
    (tmp_path / "plays" / ".hidden").write_text("no")
    (tmp_path / "notes.md").write_bytes(b"\xef\xbb\xbfnotes")
    return tmp_path


@pytest.fixture(params=["path", "file", "s3"])
def root(request: pytest.FixtureRequest, folder: Path) -> str:
    """The same files at a path, at a file URI and in an object store."""
    if request.param != "s3":
        return str(folder) if request.param == "path" else f"file://{folder}"
    bucket: str = request.getfixturevalue("s3_server").bucket()
    for name in ("plays/b.txt", "plays/a.txt", "plays/.hidden", "notes.md"):
        Storage(bucket).upload(folder / name, name)
    return bucket


def test_a_file_a_folder_and_patterns_name_files_in_order(root: str) -> None:
    assert read(f"{root}/notes.md") == [("notes.md", "notes")]
    assert read(root) == [("notes.md", "notes"), ("a.txt", "a"), ("b.txt", "b")]
    assert read(f"{root}/plays/*.txt") == [("a.txt", "a"), ("b.txt", "b")]
    assert read(f"{root}/**/b.*") == [("b.txt", "b")]


def test_what_is_not_there_is_said(root: str) -> None:
    for uri, words in ((f"{root}/nothing", "no such file or folder"), (f"{root}/plays/*.csv", "no file matches")):
        with pytest.raises(WindlassError, match=words) as raised:
            read(uri)
        assert raised.value.reason == "DataNotFound"
        assert uri in str(raised.value)


def test_a_mistyped_file_gets_the_nearest_name(folder: Path) -> None:
    with pytest.raises(WindlassError, match=r"did you mean notes\.md\?"):
        read(f"{folder}/note.md")


def test_an_empty_folder_is_said_to_be_empty(tmp_path: Path) -> None:
    with pytest.raises(WindlassError, match="the folder has no files"):
        read(str(tmp_path))


def test_links_to_files_are_read_as_config_maps_mount_them(folder: Path) -> None:
    (folder / "linked").mkdir()
    (folder / "linked" / "a.txt").symlink_to(folder / "plays" / "a.txt")
    assert read(f"{folder}/linked") == [("a.txt", "a")]
    assert read(f"{folder}/linked/a.txt") == [("a.txt", "a")]


def test_relative_paths_work(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert read("notes.md") == [("notes.md", "notes")]
    assert read("plays/a*") == [("a.txt", "a")]
    assert read("*.md") == [("notes.md", "notes")]


def test_a_file_that_goes_after_it_was_listed_is_named(folder: Path) -> None:
    source = Source(uri=f"{folder}/notes.md")
    (file,) = list_files(source)
    (folder / "notes.md").unlink()
    with pytest.raises(WindlassError, match=r"notes\.md is gone since it was listed"):
        list(documents(source, file))


@pytest.mark.parametrize("remote", [False, True])
def test_json_lines_hold_a_document_each(remote: bool, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    lines = [
        b'\xef\xbb\xbf{"text": "one"}',
        b'{"text": "tw\\u00f6", "more": 1}',
        b"",
        b'{"text": "\xff"}',
        b'{"text": "\\ud800"}',
    ]
    file = tmp_path / "data.jsonl"
    file.write_bytes(b"\n".join(lines))
    uri = str(file)
    if remote:
        uri = request.getfixturevalue("s3_server").bucket() + "/data.jsonl"
        Storage(uri.rpartition("/")[0]).upload(file, "data.jsonl")
    expected = [("data.jsonl:1", "one"), ("data.jsonl:2", "twö"), ("data.jsonl:4", None), ("data.jsonl:5", None)]
    assert read(uri) == expected


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"question": "q", "answer": "a"}', r"data\.jsonl:2 has no text in field text; it has answer, question"),
        ('{"text": 5}', r"data\.jsonl:2 has no text in field text"),
        ("[1]", "it is a list"),
        ("{broken", r"data\.jsonl:2 is no JSON"),
    ],
)
def test_a_broken_record_is_named_with_its_line(tmp_path: Path, line: str, words: str) -> None:
    (tmp_path / "data.jsonl").write_text('{"text": "fine"}\n' + line)
    with pytest.raises(WindlassError, match=words) as raised:
        read(f"{tmp_path}/data.jsonl")
    assert raised.value.reason == "DataCorrupt"


def test_a_real_json_lines_file_reads(test_data: Path) -> None:
    assert len(read(f"{test_data}/gsm8k-test.jsonl", text_field="question")) == 1319


@pytest.mark.parametrize("remote", [False, True])
def test_parquet_holds_a_document_each_row(remote: bool, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    file = tmp_path / "data.parquet"
    columns = {"body": [f"text {i}" for i in range(3000)], "id": list(range(3000))}
    pyarrow.parquet.write_table(pyarrow.table(columns), file, row_group_size=500)
    uri = str(file)
    if remote:
        uri = request.getfixturevalue("s3_server").bucket() + "/data.parquet"
        Storage(uri.rpartition("/")[0]).upload(file, "data.parquet")
    rows = read(uri, text_field="body")
    assert rows == [(f"data.parquet:{i + 1}", f"text {i}") for i in range(3000)]
    with pytest.raises(WindlassError, match="has no column text; it has body, id; set textField"):
        read(uri)


def test_a_broken_parquet_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "data.parquet").write_bytes(b"PAR1 broken PAR1")
    with pytest.raises(WindlassError, match=r"data\.parquet cannot be read as Parquet") as raised:
        read(str(tmp_path))
    assert raised.value.reason == "DataCorrupt"


def test_the_standard_library_has_modules_and_no_tests() -> None:
    names = [file.name for file in list_files(Source(uri="python://stdlib"))]
    assert {"argparse.py", "asyncio/events.py", "email/message.py"} <= set(names)
    assert names == sorted(names)
    assert not [name for name in names if {"test", "tests", "site-packages"} & set(name.split("/"))]
    with pytest.raises(WindlassError, match="there is python://stdlib only"):
        list_files(Source(uri="python://site-packages"))


def test_a_web_page_is_a_file(serve: Callable[[Path], str], folder: Path) -> None:
    web = serve(folder)
    assert read(f"{web}/notes.md") == [("notes.md", "notes")]
    (folder / "data.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    assert [text for _, text in read(f"{web}/data.jsonl")] == ["one", "two"]
    with pytest.raises(WindlassError, match="there is no such page") as raised:
        read(f"{web}/nothing.txt")
    assert raised.value.reason == "DataNotFound"
