"""What preparing a corpus costs: against the field's tools, and as the text grows.

    python -m venv peers && peers/bin/pip install 'datatrove==0.10.1' tokenizers datasets orjson xxhash regex
    python benchmarks/preparation.py tokenizing --mb 100                  # Hugging Face tokenizers, datasets.map
    python benchmarks/preparation.py duplicates --mb 30 --peers peers/bin/python
    python benchmarks/preparation.py growth --mb 100 300 1000             # every step; time and memory
    python benchmarks/preparation.py growth --mb 10000 --tokenizing-only
    python benchmarks/preparation.py planted                              # 1,000 exact and 1,000 near copies, found?
    python benchmarks/preparation.py encodings                            # all of that code: tiktoken's tokens?

The text is source code of this Python's packages, shuffled by runs of lines into documents of about 4 KB, of which 2 %
are copies and 2 % copies with a line changed: as many bytes as asked for, always the same. All sides get the same
files and as many processes. Clocks start after the imports and include the writing of results: shards here, Arrow
files for datasets.map, nothing for encode_batch. Peers' words are split at white space, which is their fastest way.

`planted` takes all modules of this Python and its packages, and compares what deduplication removes with the
similarity of every module to every other, counted without MinHash.
"""

import argparse
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

WORKERS = 2


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("what", choices=["tokenizing", "duplicates", "growth", "planted", "encodings", "peer"])
    options.add_argument("--mb", type=int, nargs="+", default=[30], help="millions of bytes of text")
    options.add_argument("--rounds", type=int, default=3, help="turns of each side, alternated; the best counts")
    options.add_argument("--tokenizer", default="r50k_base")
    options.add_argument("--peers", default=sys.executable, help="the Python that has datatrove")
    options.add_argument("--tokenizing-only", action="store_true")
    options.add_argument("--folder", type=Path, help="of a peer's turn")
    chosen = options.parse_args()
    if chosen.what == "peer":
        print(json.dumps(datatrove(chosen.folder)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if chosen.what == "growth":
            growth(folder, chosen.mb, chosen.tokenizer, chosen.tokenizing_only)
            return
        if chosen.what in ("planted", "encodings"):
            {"planted": planted, "encodings": encodings}[chosen.what](folder)
            return
        write_text(folder / "raw", chosen.mb[0] * 10**6)
        if chosen.what == "tokenizing":
            tokenizing(folder, chosen.tokenizer, chosen.rounds)
        else:
            duplicates(folder, chosen.peers, chosen.rounds)


def tokenizing(folder: Path, name: str, rounds: int) -> None:
    """Print tokens per second of each way to tokenize the same text in as many processes."""
    import datasets
    from tokenizers import Tokenizer

    from windlass.data.tokenizers import load_tokenizer

    os.environ["RAYON_NUM_THREADS"] = str(WORKERS)
    datasets.disable_progress_bars()
    load_tokenizer(name).save(folder / "tokenizer")
    fast = Tokenizer.from_file(str(folder / "tokenizer" / "tokenizer.json"))
    texts = [document["text"] for document in read(folder / "raw")]
    table = datasets.load_dataset(
        "json", data_files=str(folder / "raw" / "*.jsonl"), cache_dir=str(folder), split="train"
    )

    def encode_batch() -> int:
        return sum(
            len(one.ids) + 1 for at in range(0, len(texts), 1000) for one in fast.encode_batch(texts[at : at + 1000])
        )

    def datasets_map() -> int:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        encode = lambda rows: {"ids": [one.ids for one in fast.encode_batch(rows["text"])]}  # noqa: E731
        mapped = table.map(encode, batched=True, num_proc=WORKERS, remove_columns=["text"], load_from_cache_file=False)
        return sum(map(len, mapped["ids"])) + len(mapped)

    def ours() -> int:
        return int(prepared(folder, name).manifest.preparation.tokens)

    ways = {"windlass prepare": ours, "tokenizers encode_batch": encode_batch, "datasets.map": datasets_map}
    best = dict.fromkeys(ways, 0.0)
    for _ in range(rounds):
        for way, run in ways.items():
            began = time.perf_counter()
            tokens = run()
            best[way] = max(best[way], tokens / (time.perf_counter() - began))
    for way, speed in best.items():
        print(f"{way:<24} {speed / 1e6:6.2f} M tokens/s  {best['windlass prepare'] / speed:5.2f}x")


def duplicates(folder: Path, python: str, rounds: int) -> None:
    """Print the time of finding near duplicates, and whether both sides find the same on the same signatures."""
    from windlass.data.deduplication.minhash import bands_of

    write_signatures(folder)
    best: dict[str, float] = {}
    found: dict[str, object] = {}
    for _ in range(rounds):
        began = time.perf_counter()
        ours = signatures_and_join(folder)
        turn = {"windlass": time.perf_counter() - began}
        command = [python, __file__, "peer", "--folder", str(folder)]
        theirs = last_line(command)
        turn |= {"datatrove": theirs["seconds"]}
        best = {side: min(seconds, best.get(side, seconds)) for side, seconds in turn.items()}
        found = {"windlass": ours, "datatrove, own signatures": theirs["removed"]}
        same = set(theirs["removed_of_our_signatures"])
    print(f"{bands_of(128, 0.7)}, 5-grams, {WORKERS} processes")
    for side, seconds in best.items():
        print(f"{side:<12} {seconds:6.2f} s  {seconds / best['windlass']:5.2f}x")
    clusters: dict[int, list[int]] = {}
    for document, first in enumerate(ours):
        clusters.setdefault(first, []).append(document)
    agree = all(len(same & set(cluster)) == len(cluster) - 1 for cluster in clusters.values())
    removed = sum(first != document for document, first in enumerate(ours))
    print(f"duplicates: {removed} here, {len(same)} by datatrove on these signatures; the same clusters: {agree}")
    print(f"            {found['datatrove, own signatures']} by datatrove on signatures of its own")


def growth(folder: Path, sizes: list[int], tokenizer: str, tokenizing_only: bool) -> None:
    """Print time and memory of the whole preparation at each size; CPU seconds hardly tell of a busy machine."""
    heads = f"{'MB':>6} {'seconds':>8} {'MB/s':>6} {'CPU s':>7} {'MB/CPU s':>9}"
    print(f"{heads} {'parent MB':>10} {'process MB':>11} {'removed':>8}", flush=True)
    settings = (
        {}
        if tokenizing_only
        else {
            "clean": {"gopherRepetition": False},
            "deduplicate": {"near": {}},
        }
    )
    for size in sizes:
        write_text(folder / str(size) / "raw", size * 10**6)
        program = "import sys; sys.path.insert(0, sys.argv[1]); import preparation; preparation.one_size(*sys.argv[2:])"
        arguments = [str(Path(__file__).parent), str(folder / str(size)), tokenizer, json.dumps(settings)]
        seconds, cpu, parent, child, removed = last_line([sys.executable, "-c", program, *arguments])
        speeds = f"{size:>6} {seconds:>8.1f} {size / seconds:>6.1f} {cpu:>7.1f} {size / cpu:>9.2f}"
        print(f"{speeds} {parent:>10.0f} {child:>11.0f} {removed:>8}", flush=True)


def encodings(folder: Path) -> None:
    """Print how many modules of this Python's code have tiktoken's own tokens in a corpus."""
    import tiktoken

    code = [text for text in map(read_code, code_files()) if text.strip()]
    (folder / "raw").mkdir()
    (folder / "raw" / "code.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in code))
    size = sum(map(len, code)) / 1e6
    for name in ("r50k_base", "cl100k_base"):
        corpus = prepared(folder, name)
        expected = Counter(token_hash(tiktoken.get_encoding(name).encode_ordinary(text)) for text in code)
        same = expected & document_hashes(corpus)
        tokens = sum(split.tokens for split in corpus.manifest.splits.values())
        print(f"{name}: {same.total()} of {len(code)} modules, {size:.0f} MB, {tokens:,} tokens as tiktoken's")
        shutil.rmtree(folder / "corpus")


def planted(folder: Path, copies: int = 1000) -> None:
    """Print how many planted duplicates are found in this Python's code, and how many documents are taken for one."""
    import numpy as np

    from windlass.data.deduplication.minhash import bands_of
    from windlass.data.deduplication.ngrams import ngram_hashes, word_hashes

    chance = random.Random(1)
    code = list(dict.fromkeys(text for text in map(read_code, code_files()) if len(text.split()) > 50))
    exact = [text.replace("\n", "\r\n") for text in chance.sample(code, copies)]
    near_of = chance.sample([number for number, text in enumerate(code) if len(text.split()) > 1000], copies)
    near = []
    for number in near_of:
        lines = code[number].splitlines()
        lines[len(lines) // 2] = "changed = True  # one line in the middle"
        near.append("\n".join([*lines, "# and one at the end"]))
    (folder / "raw").mkdir()
    for name, texts in (("a", code), ("b", exact), ("c", near)):
        rows = (json.dumps({"text": text}) + "\n" for text in texts)
        (folder / "raw" / f"{name}.jsonl").write_text("".join(rows))

    began = time.perf_counter()
    corpus = prepared(folder, "bytes", {"deduplicate": {"near": {}}})
    seconds = time.perf_counter() - began
    kept = document_hashes(corpus)

    def is_kept(text: str) -> bool:
        return token_hash(list(text.encode())) in kept

    size = sum(map(len, code)) / 1e6
    print(f"{len(code)} modules, {size:.0f} MB, {copies} exact and {copies} near copies: {seconds:.0f} s")
    print(f"exact copies found: {sum(not is_kept(text) for text in exact)} of {copies}")
    found = sum(not (is_kept(text) and is_kept(code[number])) for text, number in zip(near, near_of, strict=True))
    print(f"near copies found:  {found} of {copies}")

    # The similarity of each module to those before it, through the lists of the documents that have an n-gram.
    grams = [np.unique(ngram_hashes(word_hashes(text), 5)) for text in code]
    counts = np.array([len(each) for each in grams])
    owners = np.repeat(np.arange(len(code), dtype=np.int32), counts)
    everything = np.concatenate(grams)
    order = np.argsort(everything, kind="stable")
    everything, owners = everything[order], owners[order]
    bands = bands_of(128, 0.7)
    below, expected, similar = [], 0.0, 0
    for number, each in enumerate(grams):
        first, last = np.searchsorted(everything, each), np.searchsorted(everything, each, "right")
        places = np.repeat(last - np.cumsum(last - first), last - first) + np.arange((last - first).sum())
        shared = np.bincount(owners[places], minlength=len(code))
        shared[number] = 0
        similarities = shared / (counts + counts[number] - shared)
        if similarities.max() < 0.7:
            expected += 1 - float(np.prod(1 - bands.probability(similarities[:number])))
            below += [similarities.max()] if not is_kept(code[number]) else []
        else:
            similar += not is_kept(code[number])
    print(f"modules removed besides, at least 0.7 similar to another: {similar}")
    print(f"modules removed besides, less similar: {len(below)}, by the error of {bands} {expected:.0f} are expected")
    print(f"the least similar of them: {min(below, default=1.0):.2f}")


def document_hashes(corpus: Any) -> Counter[int]:
    """How often each sequence of tokens is a document of the corpus, by its hash."""
    import numpy as np

    found = Counter[int]()
    for name in corpus.manifest.splits:
        split = corpus.split(name)
        ends = split.document_ends().astype(int)
        found.update(token_hash(part[:-1]) for part in np.split(split.read(0, split.tokens), ends)[:-1])
    return found


def token_hash(tokens: Any) -> int:
    import numpy as np
    import xxhash

    return xxhash.xxh3_64_intdigest(np.asarray(tokens, "<u4").tobytes())


def code_files() -> list[Path]:
    """All modules of this Python and its packages."""
    return sorted(path for place in sys.path if "python3" in place for path in Path(place).rglob("*.py"))


def read_code(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def last_line(command: list[str]) -> Any:
    """Return the JSON in the last line that another process prints."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])


def one_size(folder: str, tokenizer: str, settings: str) -> None:
    """Prepare once in a process of its own, whose peak memory is then that of the preparation."""
    began = time.perf_counter()
    corpus = prepared(Path(folder), tokenizer, json.loads(settings))
    seconds = time.perf_counter() - began
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(each.ru_utime + each.ru_stime for each in used)
    peaks = [each.ru_maxrss / 1e3 for each in used]
    kept = sum(split.documents for split in corpus.manifest.splits.values())
    print(json.dumps([seconds, cpu, *peaks, corpus.manifest.preparation.documents - kept]))


def prepared(folder: Path, tokenizer: str, settings: dict[str, Any] | None = None) -> Any:
    from windlass.data.prepare import prepare
    from windlass.data.tokenizers import load_tokenizer
    from windlass.spec.job import Prepare

    spec = Prepare.model_validate({"sources": [{"uri": str(folder / "raw")}], **(settings or {})})
    return prepare(spec, load_tokenizer(tokenizer), str(folder / "corpus"), workers=WORKERS)


def signatures_and_join(folder: Path) -> list[int]:
    """Return for each document the first of its cluster: files read, signed in processes, joined."""
    import numpy as np

    from windlass.data.deduplication.join import clusters, pairs_of_equals
    from windlass.data.deduplication.minhash import band_hashes, bands_of
    from windlass.data.preparation.processes import process_pool

    with process_pool(WORKERS) as pool:
        assert pool
        signed = np.concatenate(list(pool.map(signatures_of, sorted((folder / "raw").glob("*.jsonl")))))
    bands = band_hashes(signed, bands_of(128, 0.7))
    pairs = [pairs_of_equals(partial(np.asarray, band), len(signed)) for band in bands]
    return list(map(int, clusters(len(signed), np.concatenate(pairs))))


def signatures_of(file: Path) -> Any:
    import numpy as np

    from windlass.data.deduplication.minhash import signature
    from windlass.data.deduplication.ngrams import ngram_hashes, word_hashes

    return np.array([signature(ngram_hashes(word_hashes(row["text"]), 5), 128) for row in read_file(file)])


def write_signatures(folder: Path) -> None:
    """Write our signatures as datatrove keeps its own: a file for each bucket, sorted."""
    import numpy as np

    signed = np.concatenate([signatures_of(file) for file in sorted((folder / "raw").glob("*.jsonl"))])
    for bucket in range(14):
        rows = np.column_stack([signed[:, 9 * bucket : 9 * bucket + 9], np.arange(len(signed), dtype=np.uint32)])
        (folder / "ours" / f"bucket_{bucket:03}").mkdir(parents=True)
        ordered = rows[np.lexsort(rows.T[::-1])].astype("<u4")
        (folder / "ours" / f"bucket_{bucket:03}" / "00000.minhash.sig").write_bytes(ordered.tobytes())


def datatrove(folder: Path) -> dict[str, Any]:
    """A turn of datatrove: its signatures, buckets and clusters; and its buckets and clusters of our signatures."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupSignature
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.utils.hashing import HashConfig
    from datatrove.utils.word_tokenizers import WordTokenizer
    from loguru import logger

    class Words(WordTokenizer):  # type: ignore[misc]  # of a library without types
        def word_tokenize(self, text: str) -> list[str]:
            return text.split()

        sent_tokenize = span_tokenize = word_tokenize

    logger.remove()
    with tempfile.TemporaryDirectory(dir=folder) as work:

        def run(steps: list[Any], tasks: int, name: str) -> None:
            logs = f"{work}/logs-{name}"
            LocalPipelineExecutor(pipeline=steps, tasks=tasks, workers=WORKERS, logging_dir=logs).run()

        def joined(signatures: str, config: MinhashConfig, name: str) -> list[int]:
            buckets, removed = f"{work}/{name}-buckets", f"{work}/{name}-removed"
            run([MinhashDedupBuckets(signatures, buckets, config=config, only_dedup_in_index=False)], 14, f"{name}-b")
            run([MinhashDedupCluster(buckets, removed, config=config)], 1, f"{name}-c")
            data = b"".join(path.read_bytes() for path in sorted(Path(removed).glob("*.remove")))
            return [int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data), 4)]

        config = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=9)
        began = time.perf_counter()
        files = len(list((folder / "raw").glob("*.jsonl")))
        signing = MinhashDedupSignature(f"{work}/signatures", config=config, language=Words())
        run([JsonlReader(str(folder / "raw"), glob_pattern="*.jsonl"), signing], files, "s")
        removed = len(joined(f"{work}/signatures", config, "own"))
        seconds = time.perf_counter() - began
        ours = MinhashConfig(5, 14, 9, hash_config=HashConfig(precision=32))
        return {
            "seconds": seconds,
            "removed": removed,
            "removed_of_our_signatures": joined(str(folder / "ours"), ours, "ours"),
        }


def write_text(folder: Path, size: int) -> None:
    """Write .jsonl files of about 16 MB, as many bytes as asked for."""
    folder.mkdir(parents=True)
    documents = make_documents(size)
    for number in range(max(WORKERS, size // (16 * 10**6))):
        with open(folder / f"{number:05}.jsonl", "w") as file:
            share = size / max(WORKERS, size // (16 * 10**6))
            while file.tell() < share and (text := next(documents, None)) is not None:
                file.write(json.dumps({"text": text}) + "\n")


def make_documents(size: int) -> Iterator[str]:
    chance = random.Random(1)
    files = code_files()[:4000]
    lines = [line for path in files for line in path.read_text(errors="replace").splitlines() if line.strip()]
    recent: list[str] = []
    while True:
        kind = chance.random()
        if recent and kind < 0.02:
            yield chance.choice(recent)
        elif recent and kind < 0.04:
            changed = chance.choice(recent).splitlines()
            changed[len(changed) // 2] = "a line that is another one"
            yield "\n".join(changed)
        else:
            runs = [chance.randrange(len(lines) - 20) for _ in range(8)]
            text = "\n".join(line for at in runs for line in lines[at : at + 12])
            recent = [*recent[-999:], text]
            yield text


def read(folder: Path) -> Iterator[dict[str, Any]]:
    for file in sorted(folder.glob("*.jsonl")):
        yield from read_file(file)


def read_file(file: Path) -> Iterator[dict[str, Any]]:
    with open(file) as lines:
        yield from map(json.loads, lines)


if __name__ == "__main__":
    main()
