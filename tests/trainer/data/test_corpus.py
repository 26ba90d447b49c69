"""Reading a corpus: the tokens that were written or a loud stop, from disk and from an object store."""

import hashlib
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash

from windlass.data.cache import DiskCache
from windlass.data.corpus import Corpus
from windlass.data.prepare import prepare
from windlass.data.tokenizers import BytesTokenizer, load_tokenizer
from windlass.errors import WindlassError
from windlass.ranges import ReadCounts
from windlass.spec.job import Prepare, Source
from windlass.storage import Storage

MakeCorpus = Callable[..., Corpus]


def shard(corpus: Corpus, server: Any = None, name: str = "train-00001.bin") -> Path:
    """Return the file of a shard, on disk or behind the server."""
    folder = f"{corpus.uri}/{corpus.manifest.folder}"
    return Path(server.file(folder) if server else folder) / name


def flip(file: Path, at: int = 700) -> None:
    """Flip a bit of a byte in the file's second block."""
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    with open(file, "r+b") as opened:  # in place, as a disk does it
        opened.write(data)


def all_tokens(corpus: Corpus) -> list[int]:
    """Return the training tokens."""
    split = corpus.split("train")
    tokens: list[int] = split.read(0, split.tokens).tolist()
    return tokens


@pytest.fixture
def remote(make_corpus: MakeCorpus, s3_server: Any) -> Corpus:
    """A corpus in the object store, none of it cached."""
    return make_corpus(uri=f"{s3_server.bucket()}/corpus")


@pytest.mark.parametrize("where", ["local", "s3"])
def test_any_range_of_tokens_is_what_was_written(
    where: str, make_corpus: MakeCorpus, request: pytest.FixtureRequest
) -> None:
    expected = all_tokens(make_corpus())
    corpus = request.getfixturevalue("remote") if where == "s3" else make_corpus()
    split = corpus.split("train")
    assert len(split._blocks) > 18
    random = np.random.default_rng(1)
    for start, stop in np.sort(random.integers(0, split.tokens + 1, (30, 2))).tolist():
        assert split.read(start, stop).tolist() == expected[start:stop]
    starts = random.integers(0, split.tokens - 300, 40)
    assert split.windows(starts, 300).tolist() == [expected[start : start + 300] for start in starts.tolist()]
    with pytest.raises(IndexError):
        split.read(0, split.tokens + 1)
    with pytest.raises(ValueError, match="read-only"):
        split.read(0, 10)[0] = 1


def test_the_format_never_changes(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("alpha" * 10)
    (tmp_path / "b.txt").write_text("beta" * 10)
    spec = Prepare(sources=[Source(uri=f"{tmp_path}/*.txt")], validation_fraction=0.5)
    corpus = prepare(spec, BytesTokenizer(), str(tmp_path / "corpus"))
    folder = tmp_path / "corpus" / corpus.manifest.folder
    assert (folder / "train-00000.bin").read_bytes() == np.array([*b"alpha" * 10, 256], "<u2").tobytes()
    assert (folder / "train-ends-00000.bin").read_bytes() == np.array([51], "<u8").tobytes()
    assert (folder / "validation-00000.bin").read_bytes() == np.array([*b"beta" * 10, 256], "<u2").tobytes()
    assert corpus.manifest.splits["train"].shards[0].blocks == ["80c3ee42449c68fa"]
    assert corpus.id == "abd952f8fc66ac77552edbe4dc07dc39"


def test_a_flipped_byte_on_disk_is_found_and_stops_loudly(make_corpus: MakeCorpus) -> None:
    corpus = make_corpus()
    flip(shard(corpus))
    split = corpus.split("train")
    split.read(0, 1024 + 256)  # the blocks before it are good
    with pytest.raises(
        WindlassError, match=r"train-00001\.bin: block 1 \(bytes 512 to 1024\) does not match"
    ) as raised:
        split.read(1024 + 256, 1024 + 257)
    assert raised.value.reason == "DataCorrupt"
    assert "delete the corpus and prepare it again" in str(raised.value)
    with pytest.raises(WindlassError, match="does not match"):
        list(split.verify())


def test_a_flipped_byte_in_the_store_is_fetched_again_then_stops_loudly(
    remote: Corpus, s3_server: Any, caplog: pytest.LogCaptureFixture
) -> None:
    flip(shard(remote, s3_server))
    with pytest.raises(WindlassError, match=r"block 1 .* does not match its hash, read twice"):
        all_tokens(remote)
    assert len([line for line in caplog.messages if "block 1 does not match" in line]) == 2


def test_verification_looks_past_the_cache(remote: Corpus, s3_server: Any) -> None:
    all_tokens(remote)
    flip(shard(remote, s3_server))
    with pytest.raises(WindlassError, match="does not match its hash, read twice"):
        list(remote.split("train").verify())


def test_a_byte_that_flips_on_the_way_is_fetched_again_and_never_seen(
    make_corpus: MakeCorpus, remote: Corpus, s3_server: Any
) -> None:
    file = shard(remote, s3_server)
    flip(file)

    class Repair(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "does not match" in record.getMessage():
                flip(file)  # back

    repair = Repair()
    logging.getLogger("windlass.data.blocks").addHandler(repair)
    try:
        assert all_tokens(remote) == all_tokens(make_corpus())
    finally:
        logging.getLogger("windlass.data.blocks").removeHandler(repair)


def test_a_flipped_byte_in_the_cache_is_fetched_again(remote: Corpus, make_corpus: MakeCorpus, tmp_path: Path) -> None:
    expected = all_tokens(make_corpus())
    assert all_tokens(Corpus.open(remote.uri, tmp_path / "cache")) == expected
    blocks = list((tmp_path / "cache" / "blocks").glob("*train-0*"))
    assert len(blocks) > 18
    for number, block in enumerate(blocks):
        if number % 2:
            flip(block, at=3)
        else:
            os.truncate(block, number)
    assert all_tokens(Corpus.open(remote.uri, tmp_path / "cache")) == expected


@pytest.mark.parametrize("where", ["local", "s3"])
@pytest.mark.parametrize(("size", "reason"), [(None, "DataNotFound"), (0, "DataCorrupt"), (600, "DataCorrupt")])
def test_a_missing_or_shortened_shard_is_named(
    where: str, size: int | None, reason: str, make_corpus: MakeCorpus, request: pytest.FixtureRequest
) -> None:
    corpus = request.getfixturevalue("remote") if where == "s3" else make_corpus()
    if where == "local":
        file = shard(corpus)
        file.unlink() if size is None else os.truncate(file, size)
    else:
        storage = Storage(f"{corpus.uri}/{corpus.manifest.folder}")
        data = storage.read("train-00001.bin")
        storage.delete("train-00001.bin") if size is None else storage.write("train-00001.bin", data[:size])
    with pytest.raises(WindlassError, match=r"train-00001\.bin") as raised:
        all_tokens(corpus)
    assert raised.value.reason == reason


def test_a_server_that_dies_and_returns_in_mid_read_is_survived(
    make_corpus: MakeCorpus, remote: Corpus, s3_server: Any
) -> None:
    expected = all_tokens(make_corpus())
    split = remote.split("train")
    first = split.read(0, 300).tolist()
    s3_server.kill()
    threading.Timer(1.0, s3_server.start).start()
    assert first + split.read(300, split.tokens).tolist() == expected


def test_cached_blocks_need_no_server(remote: Corpus, s3_server: Any, make_corpus: MakeCorpus) -> None:
    again = Corpus.open(remote.uri)
    tokens = all_tokens(remote)
    s3_server.kill()
    assert all_tokens(again) == tokens


def test_a_corpus_is_read_from_a_plain_web_server(
    make_corpus: MakeCorpus, serve: Callable[[Path], str], tmp_path: Path
) -> None:
    corpus = make_corpus()
    assert all_tokens(Corpus.open(serve(Path(corpus.uri)), tmp_path / "cache")) == all_tokens(corpus)


def test_the_cache_keeps_its_limit_and_what_was_used_last(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, limit=10_000)
    fetched: list[str] = []

    def get(name: str) -> None:
        data = name.encode() * 500

        def fetch() -> bytes:
            fetched.append(name)
            return data

        cache.get(name, xxhash.xxh3_64_hexdigest(data), fetch, ReadCounts())
        time.sleep(0.002)  # file systems' clocks tick in milliseconds

    for number in range(30):
        get("a0")
        get(f"b{number}")
    assert fetched.count("a0") == 1
    sizes = {file.name: file.stat().st_size for file in (tmp_path / "blocks").iterdir() if file.name[0] != "."}
    assert sum(sizes.values()) <= 10_000
    assert {"a0", "b29", "b28", "b27"} <= set(sizes)


def test_a_cache_that_cannot_be_written_is_done_without(
    remote: Corpus, make_corpus: MakeCorpus, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    assert all_tokens(Corpus.open(remote.uri, tmp_path / "file")) == all_tokens(make_corpus())
    assert ["going on without" in line for line in caplog.messages] == [True]


def test_a_full_cache_disk_is_done_without(remote: Corpus, make_corpus: MakeCorpus, small_disk: Path) -> None:
    (small_disk / "ballast").write_bytes(bytes((1 << 20) - 8192))
    assert all_tokens(Corpus.open(remote.uri, small_disk)) == all_tokens(make_corpus())


def test_processes_that_share_a_cold_cache_agree_though_one_is_killed(
    remote: Corpus, make_corpus: MakeCorpus, tmp_path: Path
) -> None:
    program = (
        "import sys, hashlib; from windlass.data.corpus import Corpus\n"
        "split = Corpus.open(sys.argv[1]).split('train')\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "print(hashlib.sha256(split.read(0, split.tokens).tobytes()).hexdigest())"
    )
    environment = os.environ | {"WINDLASS_CACHE": str(tmp_path / "cache")}
    start = [sys.executable, "-c", program, remote.uri]
    pipe = subprocess.PIPE
    ranks = [subprocess.Popen(start, env=environment, stdin=pipe, stdout=pipe, text=True) for _ in range(3)]
    for rank in ranks:
        assert rank.stdout
        assert rank.stdout.readline() == "ready\n"
    for rank in ranks:
        assert rank.stdin
        rank.stdin.write("\n")
        rank.stdin.flush()
    time.sleep(0.05)
    ranks[0].kill()
    expected = hashlib.sha256(np.array(all_tokens(make_corpus()), "<u2").tobytes()).hexdigest()
    assert [rank.communicate()[0].strip() for rank in ranks[1:]] == [expected, expected]
    ranks[0].communicate()


def test_no_corpus_is_said_with_what_makes_one(tmp_path: Path, s3_server: Any) -> None:
    for uri in (str(tmp_path), str(tmp_path / "nothing"), f"{s3_server.bucket()}/nothing"):
        with pytest.raises(WindlassError, match=r"there is no prepared corpus at .*windlass data prepare") as raised:
            Corpus.open(uri)
        assert raised.value.reason == "DataNotFound"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": "other/9"}'])
def test_a_manifest_that_makes_no_sense_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(WindlassError, match=r"manifest\.json is no manifest of a corpus") as raised:
        Corpus.open(str(tmp_path))
    assert raised.value.reason == "DataCorrupt"
    assert "\n" not in str(raised.value)


def test_a_tokenizer_that_does_not_match_is_refused_by_name(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    corpus = make_corpus()
    corpus.require_tokenizer(BytesTokenizer())
    BytesTokenizer().save(tmp_path / "other")
    (tmp_path / "other" / "tokenizer_config.json").unlink()
    with pytest.raises(WindlassError, match=r"was made with tokenizer bytes \(257 tokens\), not .*; set spec"):
        corpus.require_tokenizer(load_tokenizer(str(tmp_path / "other")))


def test_a_corpus_brings_its_tokenizer(s3_server: Any, tmp_path: Path) -> None:
    BytesTokenizer().save(tmp_path / "mine")
    (tmp_path / "mine" / "tokenizer_config.json").unlink()
    mine = load_tokenizer(str(tmp_path / "mine"))
    (tmp_path / "text.txt").write_text("some text")
    spec = Prepare(sources=[Source(uri=f"{tmp_path}/text.txt")], validation_fraction=0.2)
    corpus = prepare(spec, mine, f"{s3_server.bucket()}/corpus")
    again = Corpus.open(corpus.uri).tokenizer()
    assert again.fingerprint == mine.fingerprint
    corpus.require_tokenizer(again)
    assert again.decode(corpus.split("train").read(0, 4).tolist()) == "some"
