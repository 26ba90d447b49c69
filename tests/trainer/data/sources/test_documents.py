"""Sources: which files a URI means, and the documents in each format."""

import bz2
import gzip
import io
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from windlass.data.sources.documents import Part, documents
from windlass.data.sources.files import require_unchanged
from windlass.data.sources.listing import list_files
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
    with pytest.raises(WindlassError, match="there are python://stdlib and python://docstrings only"):
        list_files(Source(uri="python://site-packages"))


def test_a_web_page_is_a_file(serve: Callable[[Path], str], folder: Path) -> None:
    web = serve(folder)
    assert read(f"{web}/notes.md") == [("notes.md", "notes")]
    (folder / "data.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    assert [text for _, text in read(f"{web}/data.jsonl")] == ["one", "two"]
    with pytest.raises(WindlassError, match="there is no such page") as raised:
        read(f"{web}/nothing.txt")
    assert raised.value.reason == "DataNotFound"


@pytest.mark.parametrize("compression", ["gzip", "zstd", "bz2"])
def test_compressed_files_are_read_as_what_is_in_them(compression: str, tmp_path: Path) -> None:
    ending = {"gzip": "gz", "zstd": "zst", "bz2": "bz2"}[compression]
    for name, content in (("data.jsonl", b'{"text": "one"}\n' * 3), ("notes.txt", b"notes")):
        packed = pyarrow.compress(content, codec=compression, asbytes=True) if compression == "zstd" else None
        if packed is None:
            packed = (gzip if compression == "gzip" else bz2).compress(content)
        (tmp_path / f"{name}.{ending}").write_bytes(packed + packed)  # members follow one another in many archives
    found = read(str(tmp_path))
    assert [text for _, text in found] == ["one"] * 6 + ["notesnotes"]


def test_a_compressed_file_that_is_cut_short_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(os.urandom(10_000))[:5000])
    with pytest.raises(WindlassError, match=r"a\.txt\.gz cannot be decompressed") as raised:
        read(str(tmp_path))
    assert raised.value.reason == "DataCorrupt"


def test_tables_of_text_hold_a_document_each_row(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text('label\ttext\nham\t"two\nlines"\nspam\tone\n')
    (tmp_path / "b.csv").write_bytes(b"text,label\ngood,1\n\xff,2\n")
    assert read(str(tmp_path)) == [
        ("a.tsv:3", "two\nlines"),
        ("a.tsv:4", "one"),
        ("b.csv:2", "good"),
        ("b.csv:3", None),
    ]
    (tmp_path / "a.tsv").write_text("label\ttext\nham\n")
    with pytest.raises(WindlassError, match=r"a\.tsv:2 has no text in field text; it has label, text; set textField"):
        read(f"{tmp_path}/a.tsv")


def test_several_fields_make_one_text(test_data: Path, tmp_path: Path) -> None:
    name, text = read(f"{test_data}/gsm8k-test.jsonl", text_field="Q: {question}\nA: {answer}")[0]
    assert name == "gsm8k-test.jsonl:1"
    assert text is not None
    assert text.startswith("Q: Janet")
    assert "\nA: " in text
    (tmp_path / "a.jsonl").write_text('{"q": "1"}')
    with pytest.raises(WindlassError, match="has no text in field answer; it has q"):
        read(f"{tmp_path}/a.jsonl", text_field="{q}{answer}")
    with pytest.raises(WindlassError, match="a name in braces each"):
        read(f"{tmp_path}/a.jsonl", text_field="{q")


def page(number: int) -> bytes:
    text = f"A paragraph of the article, number {number}, with an é. " * 5
    return (
        f'<html><head><meta charset="utf-8"><title>T</title></head><body><nav><a href="/">Home</a></nav>'
        f"<main><p>{text}</p></main><footer>Imprint</footer></body></html>"
    ).encode()


def test_web_pages_give_their_main_text(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_bytes(page(0))
    ((_, text),) = read(str(tmp_path))
    assert text is not None
    assert text.startswith("A paragraph of the article, number 0, with an é.")
    assert "Home" not in text
    assert "Imprint" not in text


def test_archives_of_the_web_give_each_html_response(tmp_path: Path) -> None:
    with open(tmp_path / "crawl.warc.gz", "wb") as archive:
        writer = WARCWriter(archive, gzip=True)
        for number, kind in enumerate(("text/html; charset=utf-8", "image/png", "text/html")):
            headers = StatusAndHeaders("200 OK", [("Content-Type", kind)], protocol="HTTP/1.0")
            arguments = {"payload": io.BytesIO(page(number)), "http_headers": headers}
            writer.write_record(writer.create_warc_record(f"http://site/{number}", "response", **arguments))
    texts = [text or "" for _, text in read(str(tmp_path))]
    assert ["number 0" in texts[0], "number 2" in texts[1], len(texts)] == [True, True, 2]


def test_a_dataset_is_read_by_name(tmp_path: Path) -> None:
    made = datasets.DatasetDict({"train": datasets.Dataset.from_dict({"text": [f"row {i}" for i in range(5)]})})
    made.save_to_disk(str(tmp_path / "saved"))
    uri = f"hf-datasets://{tmp_path}/saved?split=train"
    assert [text for _, text in read(uri)] == [f"row {i}" for i in range(5)]
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "train.jsonl").write_text('{"body": "one"}\n{"body": "two"}\n')
    relative = os.path.relpath(tmp_path / "plain")  # a folder of files in the place of org/name: the hub's own loader
    assert [text for _, text in read(f"hf-datasets://{relative}", text_field="body")] == ["one", "two"]
    for wrong, words in ((f"{uri}x", "cannot be loaded"), (f"{uri}&splt=a", "no option splt")):
        with pytest.raises(WindlassError, match=words):
            read(wrong)


def parts(source: Source, cuts: list[int]) -> list[str | None]:
    """Return the texts of the only file, read in parts between these bytes."""
    (file,) = list_files(source)
    bounds = [0, *cuts, file.size]
    return [
        document.text for start, stop in pairwise(bounds) for document in documents(source, file, Part(start, stop))
    ]


@pytest.mark.parametrize("cut", [1, 2, 3, 4])
def test_a_part_that_ends_within_the_last_character_has_all_of_it(tmp_path: Path, cut: int) -> None:
    (tmp_path / "a.txt").write_text("a\N{SLIGHTLY SMILING FACE}")
    pieces = parts(Source(uri=f"{tmp_path}/a.txt"), [cut])
    assert "".join(piece or "" for piece in pieces) == "a\N{SLIGHTLY SMILING FACE}"


@given(st.lists(st.text(st.sampled_from("ab é\n"), max_size=30), max_size=8), st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_parts_of_a_file_have_every_line_once(tmp_path: Path, lines: list[str], data: st.DataObject) -> None:
    content = "".join(json.dumps({"text": line}) + "\n" for line in lines)
    (tmp_path / "a.jsonl").write_text(content)
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(content) - 1)), max_size=5)))
    assert parts(Source(uri=f"{tmp_path}/a.jsonl"), cuts) == lines
    text = "\n".join(lines)
    (tmp_path / "a.txt").write_text(text)
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(text.encode()) - 1)), max_size=5)))
    pieces = parts(Source(uri=f"{tmp_path}/a.txt"), cuts)
    assert "".join(piece or "" for piece in pieces) == text


def test_a_line_of_a_gigabyte_needs_little_memory(tmp_path: Path) -> None:
    """A text is cut; a .jsonl line that long is no record."""
    with open(tmp_path / "a.txt", "wb") as file:
        for _ in range(1024):
            file.write(b"x" * (1 << 20))
    os.link(tmp_path / "a.txt", tmp_path / "b.jsonl")
    program = (
        "import resource, sys\n"
        "from windlass.data.sources.documents import documents\n"
        "from windlass.data.sources.listing import list_files\n"
        "from windlass.errors import WindlassError\n"
        "from windlass.spec.job import Source\n"
        "source = Source(uri=sys.argv[1])\n"
        "(file,) = list_files(source)\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (150 << 20),) * 2)\n"
        "try: print(sum(len(document.text) for document in documents(source, file)))\n"
        "except WindlassError as error: print(error)\n"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", program, str(tmp_path / name)], capture_output=True, text=True, check=True
        ).stdout
        for name in ("a.txt", "b.jsonl")
    ]
    assert said[0] == f"{1 << 30}\n"
    assert "b.jsonl has a line of more than 64 MiB; JsonLines wants one record a line" in said[1]


def test_a_file_that_changes_is_told(folder: Path) -> None:
    (file,) = list_files(Source(uri=f"{folder}/notes.md"))
    require_unchanged(file)
    (folder / "notes.md").write_text("longer than before")
    with pytest.raises(WindlassError, match=r"notes\.md changed while it was read: 8 bytes then, 18 now"):
        require_unchanged(file)
    (folder / "notes.md").unlink()
    with pytest.raises(WindlassError, match="is gone since it was listed"):
        require_unchanged(file)


def test_a_changed_object_is_told(s3_server: Any) -> None:
    store = Storage(s3_server.bucket())
    store.write("a.txt", b"first")
    (file,) = list_files(Source(uri=f"{store.uri}/a.txt"))
    require_unchanged(file)
    store.write("a.txt", b"other")
    with pytest.raises(WindlassError, match="changed while it was read"):
        require_unchanged(file)


def test_a_file_without_permission_is_refused(folder: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("becoming another user needs root")
    (folder / "notes.md").chmod(0)
    source = Source(uri=f"{folder}/notes.md")
    (file,) = list_files(source)
    program = (
        "import os, pickle, sys\n"
        "from windlass.data.sources.documents import documents\n"
        "from windlass.errors import WindlassError\n"
        "source, file = pickle.load(sys.stdin.buffer)\n"
        "os.setuid(65534)\n"
        "try: list(documents(source, file))\n"
        "except WindlassError as error: print(error.reason, error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], input=pickle.dumps((source, file)), capture_output=True, check=True
    )
    assert done.stdout.decode().startswith(f"AccessDenied {file.uri} may not be read by user 65534")


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n\x00\x00", b"caf\xe9", "text".encode("utf-16")])
def test_what_is_no_utf8_text_is_no_document(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    assert read(str(tmp_path)) == [("a", None)]


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("s3:/bucket/a", "did you mean s3://bucket/a?"),
        ("s4://bucket/a", r"there is no protocol s4://; did you mean s3://"),
        ("python://site", "there are python://stdlib and python://docstrings only"),
    ],
)
def test_a_mistyped_uri_gets_the_right_one(uri: str, words: str) -> None:
    with pytest.raises(WindlassError, match=words) as raised:
        read(uri)
    assert raised.value.reason == "ConfigInvalid"
