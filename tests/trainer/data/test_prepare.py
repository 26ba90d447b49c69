"""Preparing: every document whole and once, held-out text apart, nothing half-made, nothing made twice."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from windlass import lock
from windlass.data.blocks import Layout
from windlass.data.corpus import MANIFEST, Corpus, SplitName
from windlass.data.prepare import ensure_prepared, prepare
from windlass.data.tokenizers import BytesTokenizer, load_tokenizer
from windlass.errors import WindlassError
from windlass.spec.job import Prepare, Source
from windlass.storage import Storage

BYTES = BytesTokenizer()


def texts(corpus: Corpus, split: SplitName) -> list[str]:
    """Return a split's documents, cut at their recorded ends."""
    tokens = corpus.split(split).read(0, corpus.split(split).tokens)
    ends = corpus.split(split).document_ends().astype(int)
    assert (tokens[ends - 1] == 256).all()
    assert np.count_nonzero(tokens == 256) == len(ends)
    return [BYTES.decode(part[:-1].tolist()) for part in np.split(tokens, ends)[:-1]]


def write(folder: Path, files: dict[str, str | bytes]) -> str:
    """Write files and return the folder as a URI."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(folder)


def files_in(folder: Path) -> list[str]:
    """Return the files in a folder and below, but for the lock."""
    return sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name != ".lock"
    )


def one(uri: str, fraction: float = 0.25, **options: object) -> Prepare:
    """A preparation of one source."""
    return Prepare(sources=[Source.model_validate({"uri": uri, **options})], validation_fraction=fraction)


def test_every_document_is_there_once_and_whole(tmp_path: Path, small_blocks: Layout) -> None:
    files: dict[str, str | bytes] = {f"{i:02}.txt": f"text {i} é\r\n" * (i * 9 + 1) for i in range(20)}
    corpus = prepare(one(write(tmp_path / "raw", files)), BYTES, str(tmp_path / "corpus"))
    held_out = texts(corpus, "validation")
    assert sorted(texts(corpus, "train") + held_out) == sorted(str(text) for text in files.values())
    assert len(held_out) == 5
    assert len(corpus.manifest.splits["train"].shards) > 3
    for split in ("train", "validation"):
        assert corpus.split(split).bytes == sum(len(text.encode()) for text in texts(corpus, split))


def test_of_a_single_document_the_last_part_is_held_out(tmp_path: Path) -> None:
    text = "0123456789" * 7
    corpus = prepare(one(write(tmp_path / "raw", {"a.txt": text, "empty.txt": ""}), 0.3), BYTES, str(tmp_path / "c"))
    assert texts(corpus, "train") == [text[:49]]
    assert texts(corpus, "validation") == [text[49:]]


def test_nanogpts_split_of_shakespeare_comes_out(test_data: Path, tmp_path: Path) -> None:
    file = test_data / "tinyshakespeare.txt"
    corpus = prepare(one(str(file), 0.1), BYTES, str(tmp_path))
    data = file.read_text()
    assert texts(corpus, "train") == [data[: int(len(data) * 0.9)]]
    assert texts(corpus, "validation") == [data[int(len(data) * 0.9) :]]


def test_a_separator_splits_text_files(tmp_path: Path) -> None:
    uri = write(tmp_path / "raw", {"a.txt": "one\n---\ntwo\n---\nthree\n---\n", "b.txt": "four"})
    corpus = prepare(one(uri, document_separator="\n---\n"), BYTES, str(tmp_path / "corpus"))
    assert sorted(texts(corpus, "train") + texts(corpus, "validation")) == ["four", "one", "three", "two"]


def test_each_source_gives_validation_and_weights_repeat_training_documents(tmp_path: Path) -> None:
    uris = [write(tmp_path / name, {f"{name}{i}.txt": f"{name}{i}" for i in range(4)}) for name in "ab"]
    sources = [Source(uri=uris[0], weight=1.0), Source(uri=uris[1], weight=2.5)]
    corpus = prepare(Prepare(sources=sources, validation_fraction=0.5), BYTES, str(tmp_path / "corpus"))
    held_out, train = texts(corpus, "validation"), texts(corpus, "train")
    assert [text[0] for text in held_out] == ["a", "a", "b", "b"]
    a, b = [text for text in train if text[0] == "a"], [text for text in train if text[0] == "b"]
    assert train == a + b
    assert b == [b[0], b[1], b[0], b[1], b[1]]  # two passes over both, a third over every second
    assert sorted({*a, *b, *held_out}) == [f"{name}{i}" for name in "ab" for i in range(4)]


def test_files_that_are_not_utf8_or_empty_are_left_out_counted_and_named(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        "a.txt": "good",
        "b.txt": b"\xff\xfe bad",
        "c.txt": "",
        "d.txt": "good too",
        "e.txt": " \n",
    }
    lines: list[str] = []
    corpus = prepare(one(write(tmp_path / "raw", files)), BYTES, str(tmp_path / "corpus"), lines.append)
    assert sorted(texts(corpus, "train") + texts(corpus, "validation")) == ["good", "good too"]
    preparation = corpus.manifest.preparation
    assert (preparation.documents, preparation.tokens) == (5, 14)
    assert (preparation.not_utf8.count, preparation.empty.count) == (1, 2)
    assert preparation.not_utf8.names == [f"{tmp_path}/raw/b.txt"]
    assert "left out: 1 not UTF-8" in lines[-1]
    assert "b.txt" in lines[-1]


@pytest.mark.parametrize("files", [{"a.txt": ""}, {"a.txt": b"\xff"}])
def test_sources_without_a_usable_document_leave_nothing(tmp_path: Path, files: dict[str, str | bytes]) -> None:
    with pytest.raises(WindlassError, match="no document can be used; left out: 1 ") as raised:
        prepare(one(write(tmp_path / "raw", files)), BYTES, str(tmp_path / "corpus"))
    assert raised.value.reason == "DataNotFound"
    assert files_in(tmp_path / "corpus") == []


@pytest.mark.parametrize(
    ("name", "content", "reason", "words"),
    [
        ("a.txt", b"\x7fELF\x00\x01", "DataNotFound", r"a\.txt: no document can be used; left out: 1 not UTF-8"),
        ("a.txt", b"caf\xe9", "DataNotFound", r"a\.txt: no document can be used; left out: 1 not UTF-8"),
        ("a.txt", b"", "DataNotFound", r"a\.txt: no document can be used; left out: 1 empty"),
        ("a.jsonl", b"x", "DataCorrupt", r"a\.jsonl.* has a line of more than 64 MiB"),
        ("b.txt", b"text", "DataNotFound", r"b\.txt: there is no such file or folder; did you mean a\.txt"),
    ],
    ids=["binary", "invalid UTF-8", "empty", "a line of a gigabyte", "a mistyped name"],
)
def test_bad_input_gets_its_message_and_leaves_nothing_that_looks_whole(
    name: str, content: bytes, reason: str, words: str, tmp_path: Path
) -> None:
    source = tmp_path / name.replace("b.", "a.")
    source.write_bytes(content)
    if name == "a.jsonl":
        os.truncate(source, 1 << 30)
    with pytest.raises(WindlassError, match=words) as raised:
        prepare(one(str(tmp_path / name)), BYTES, str(tmp_path / "corpus"))
    assert raised.value.reason == reason
    assert files_in(tmp_path / "corpus") == []


def test_a_source_without_permission_is_named_and_leaves_no_corpus() -> None:
    if os.geteuid() != 0:
        pytest.skip("becoming another user needs root")
    program = (
        "import os, sys\nfrom windlass.data.prepare import prepare\n"
        "from windlass.data.tokenizers import BytesTokenizer\n"
        "from windlass.errors import WindlassError\nfrom windlass.spec.job import Prepare\n"
        "spec = Prepare.model_validate_json(sys.argv[1])\n"
        "os.setuid(65534)\n"
        "try: prepare(spec, BytesTokenizer(), sys.argv[2])\n"
        "except WindlassError as error: print(error.reason, error)\n"
    )
    with tempfile.TemporaryDirectory() as folder:  # that this other user can reach
        Path(folder).chmod(0o777)
        source = Path(folder, "a.txt")
        source.write_text("secret")
        source.chmod(0)
        command = [sys.executable, "-c", program, one(str(source)).model_dump_json(), f"{folder}/corpus"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert said.startswith(f"AccessDenied {source} may not be read by user 65534")
        with pytest.raises(WindlassError, match="no prepared corpus"):
            Corpus.open(f"{folder}/corpus")


def test_it_is_made_once_and_again_only_when_inputs_change(tmp_path: Path) -> None:
    uri = write(tmp_path / "raw", {f"{i}.txt": f"text {i}" for i in range(4)})
    target = str(tmp_path / "corpus")
    first, made = ensure_prepared(one(uri), BYTES, target)
    assert made
    assert ensure_prepared(one(uri), BYTES, target)[1] is False
    os.utime(tmp_path / "raw" / "0.txt", (1, 1))
    touched, made = ensure_prepared(one(uri), BYTES, target)
    assert made
    assert touched.id == first.id  # the same data: the same order of samples
    write(tmp_path / "raw", {"5.txt": "more"})
    grown, made = ensure_prepared(one(uri), BYTES, target)
    assert made
    assert grown.id != first.id
    assert ensure_prepared(one(uri, 0.5), BYTES, target)[1] is True
    assert ensure_prepared(one(uri, 0.5), load_tokenizer(_other_tokenizer(tmp_path)), target)[1] is True


def test_a_corpus_with_a_missing_or_shortened_file_is_made_again(tmp_path: Path) -> None:
    uri = write(tmp_path / "raw", {f"{i}.txt": f"text {i}" for i in range(4)})
    corpus = prepare(one(uri), BYTES, str(tmp_path / "corpus"))
    shard = tmp_path / "corpus" / corpus.manifest.folder / "train-00000.bin"
    for cut in (None, 5):
        shard.unlink() if cut is None else os.truncate(shard, cut)
        again, made = ensure_prepared(one(uri), BYTES, str(tmp_path / "corpus"))
        assert made
        assert texts(again, "train")


def test_a_manifest_that_cannot_be_written_leaves_no_shards(tmp_path: Path) -> None:
    uri = write(tmp_path / "raw", {f"{i}.txt": f"text {i}" for i in range(4)})
    (tmp_path / "corpus" / "manifest.json").mkdir(parents=True)  # in its way
    with pytest.raises(OSError, match="manifest"):
        prepare(one(uri), BYTES, str(tmp_path / "corpus"))
    assert not [name for name in files_in(tmp_path / "corpus") if not name.startswith(".work-")]


def test_a_reader_keeps_its_corpus_when_it_is_prepared_again(tmp_path: Path) -> None:
    uri = write(tmp_path / "raw", {f"{i}.txt": f"old {i}" for i in range(4)})
    old = prepare(one(uri), BYTES, str(tmp_path / "corpus"))
    write(tmp_path / "raw", {f"{i}.txt": f"newer {i}" for i in range(4)})
    new = prepare(one(uri), BYTES, str(tmp_path / "corpus"))
    assert all(text.startswith("old") for text in texts(old, "train"))
    assert all(text.startswith("newer") for text in texts(new, "train"))


def test_a_preparation_killed_in_the_middle_leaves_no_corpus_and_the_next_one_works(tmp_path: Path) -> None:
    uri = write(tmp_path / "raw", {f"{i}.txt": f"text {i}" for i in range(4)})
    target = tmp_path / "corpus"
    program = (
        "import os, sys\nfrom windlass.data import prepare as p\nfrom windlass.data.tokenizers import BytesTokenizer\n"
        "from windlass.spec.job import Prepare\nfrom windlass.storage import Storage\n"
        "write = Storage.write\n"
        "def dying(self, name, data):\n"
        "    if name == 'manifest.json': os.kill(os.getpid(), 9)\n"
        "    write(self, name, data)\n"
        "Storage.write = dying\n"
        "p.prepare(Prepare.model_validate_json(sys.argv[1]), BytesTokenizer(), sys.argv[2])"
    )
    command = [sys.executable, "-c", program, one(uri).model_dump_json(), str(target)]
    assert subprocess.run(command).returncode == -9
    assert list(target.iterdir())  # shards without a manifest
    with pytest.raises(WindlassError, match="no prepared corpus"):
        Corpus.open(str(target))
    corpus, made = ensure_prepared(one(uri), BYTES, str(target))
    assert made
    assert len(texts(corpus, "train")) == 3


def test_a_corpus_whose_manifest_is_there_stays_although_its_preparation_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = write(tmp_path / "raw", {f"{i}.txt": f"text {i}" for i in range(4)})
    whole = Storage.write

    def write_and_lose_the_answer(storage: Storage, name: str, data: bytes) -> None:
        whole(storage, name, data)
        if name == MANIFEST:
            raise WindlassError("StorageUnavailable", "did not answer")

    monkeypatch.setattr(Storage, "write", write_and_lose_the_answer)
    with pytest.raises(WindlassError, match="did not answer"):
        prepare(one(uri), BYTES, str(tmp_path / "corpus"))
    corpus, made = ensure_prepared(one(uri), BYTES, str(tmp_path / "corpus"))
    assert not made
    assert len(texts(corpus, "train")) == 3


def stop(_: str) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(("changed", "end"), [(False, stop), (True, lambda _: None)], ids=["stopped", "finished"])
def test_a_preparation_that_a_newer_head_has_taken_over_deletes_nothing(
    s3_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: bool, end: Callable[[str], None]
) -> None:
    uri, target = write(tmp_path / "raw", {f"{i}.txt": f"text {i}" for i in range(4)}), f"{s3_server.bucket()}/corpus"
    program = (
        "import sys\nfrom windlass.data.prepare import ensure_prepared\n"
        "from windlass.data.tokenizers import BytesTokenizer\nfrom windlass.spec.job import Prepare\n"
        "corpus, made = ensure_prepared(Prepare.model_validate_json(sys.argv[1]), BytesTokenizer(), sys.argv[2])\n"
        "print(corpus.manifest.folder)"
    )
    command = [sys.executable, "-c", program, one(uri).model_dump_json(), target]
    made: list[str] = []

    def be_taken_over(line: str) -> None:
        """When the shards are written: the newer head prepares the corpus to its end."""
        if line.startswith("prepared "):
            if changed:
                write(tmp_path / "raw", {"0.txt": "another text"})
            newer = os.environ | {lock.ATTEMPT: "2"}
            made.append(subprocess.run(command, env=newer, capture_output=True, text=True, check=True).stdout.strip())
            end(line)

    monkeypatch.setenv(lock.JOB, "one")
    monkeypatch.setenv(lock.ATTEMPT, "1")
    try:
        prepare(one(uri), BYTES, target, be_taken_over)
    except KeyboardInterrupt:
        assert not changed
    names = Storage(f"{target}/{made[0]}").list()
    assert {"train-00000.bin", "validation-00000.bin"} <= names.keys()


def test_a_full_disk_is_named_and_leaves_nothing(small_disk: Path, tmp_path: Path) -> None:
    uri = write(tmp_path / "raw", {"a.txt": "x" * (3 << 20)})
    with pytest.raises(WindlassError, match="no space is left") as raised:
        prepare(one(uri), BYTES, str(small_disk / "corpus"))
    assert raised.value.reason == "StorageFull"
    assert files_in(small_disk / "corpus") == []
    write(tmp_path / "raw", {"a.txt": "x" * 1000})
    assert prepare(one(uri), BYTES, str(small_disk / "corpus")).split("train").documents == 1


def test_neither_torch_nor_ray_is_needed() -> None:
    modules = ("prepare", "stream", "inspect", "tokenizers", "sources.documents")
    program = f"import sys, {', '.join(f'windlass.data.{name}' for name in modules)}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "ray", "transformers"} & set(loaded)


def test_big_vocabularies_get_wider_tokens(tmp_path: Path) -> None:
    uri = write(tmp_path / "raw", {"a.txt": "some text"})
    corpus = prepare(one(uri), BytesTokenizer(vocab_size=100_000), str(tmp_path / "corpus"))
    assert corpus.split("train").read(0, 4).dtype == np.uint32
    assert texts(corpus, "train") + texts(corpus, "validation") == ["some t", "ext"]


def test_the_standard_library_prepares_in_full(tmp_path: Path) -> None:
    corpus = prepare(one("python://stdlib", 0.05), BYTES, str(tmp_path))
    preparation = corpus.manifest.preparation
    assert preparation.tokens > 5_000_000
    assert preparation.not_utf8.count == 0
    assert corpus.split("validation").tokens > 100_000


def test_the_same_corpus_lands_in_an_object_store(s3_server: object, tmp_path: Path) -> None:
    uri = write(tmp_path / "raw", {f"{i}.txt": f"text {i}" for i in range(4)})
    bucket = s3_server.bucket()  # type: ignore[attr-defined]
    raw = Storage(f"{bucket}/raw")
    for file in Path(uri).iterdir():
        raw.upload(file, file.name)
    local = prepare(one(uri), BYTES, str(tmp_path / "corpus"))
    remote, made = ensure_prepared(one(f"{bucket}/raw/*.txt"), BYTES, f"{bucket}/corpora/plays")
    assert made
    assert remote.id == local.id
    assert texts(remote, "train") == texts(local, "train")
    assert ensure_prepared(one(f"{bucket}/raw/*.txt"), BYTES, f"{bucket}/corpora/plays")[1] is False
    raw.write("0.txt", b"changed")
    assert ensure_prepared(one(f"{bucket}/raw/*.txt"), BYTES, f"{bucket}/corpora/plays")[1] is True


def _other_tokenizer(folder: Path) -> str:
    BYTES.save(folder / "other")
    (folder / "other" / "tokenizer_config.json").write_text('{"eos_token": "<|endoftext|>"}')
    return str(folder / "other")
