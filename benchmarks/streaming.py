"""Streaming tokens from object storage: Windlass against MosaicML Streaming and LitData, alternated in one run.

    python benchmarks/streaming.py --peers /path/to/venv/bin/python     # 168 M tokens; a quiet machine, 20 minutes
    python benchmarks/streaming.py --tokens 20e6 --rounds 1             # Windlass alone, in a minute

The peers' interpreter needs `mosaicml-streaming litdata obstore psutil`, ours `windlass[train,obstore]`; versitygw, the
S3 server, is on the PATH or packed in the test cluster. All read the same tokens from that server on this machine, in
batches of [16, 2049] uint16, shuffled, with a disk cache. Every measurement is a process of its own, whose clock starts
after its imports; the libraries take turns, and a row of the table is the median of the rounds.

Peers as their documentation advises: MosaicML with shards of 64 MiB, StreamingDataLoader and the batch size told to the
dataset; LitData with TokensLoader, chunks of 64 MB and obstore; both with --workers processes each.
"""

import argparse
import contextlib
import json
import lzma
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BATCH, LENGTH, SEED = 16, 2048, 7
LIBRARIES = {
    "windlass": "Windlass (obstore)",
    "windlass-s3fs": "Windlass (s3fs)",
    "mosaicml": "MosaicML Streaming",
    "litdata": "LitData",
}
KEYS = {"AWS_ACCESS_KEY_ID": "windlass", "AWS_SECRET_ACCESS_KEY": "windlass-secret", "AWS_REGION": "us-east-1"}
Json = dict[str, Any]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--peers", help="the Python that has the peers installed; without it, Windlass alone")
    options.add_argument("--tokens", type=float, default=168e6)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--workers", type=int, default=2, help="of each peer's loader")
    options.add_argument("--libraries", nargs="*", choices=LIBRARIES)
    options.add_argument("--child", help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.child:
        print(json.dumps(child(json.loads(chosen.child))))
        return
    chosen.libraries = chosen.libraries or [name for name in LIBRARIES if chosen.peers or name.startswith("windlass")]
    with tempfile.TemporaryDirectory(prefix="windlass-streaming-") as folder, s3_server(Path(folder)) as environment:
        run(chosen, Path(folder), environment)


def run(chosen: argparse.Namespace, folder: Path, environment: dict[str, str]) -> None:
    """Write the data once per library, measure in turns, print the table."""
    settings = {"bucket": str(folder / "s3" / "bench"), "tokens": int(chosen.tokens), "workers": chosen.workers}

    def ask(library: str, measure: str, cache: Path, **more: Any) -> subprocess.Popen[str]:
        python = sys.executable if library.startswith("windlass") else chosen.peers
        request = {"library": library, "measure": measure, "cache": str(cache), **settings, **more}
        # -P: this file is called as the package of one of them
        command = [python, "-P", __file__, "--child", json.dumps(request)]
        return subprocess.Popen(command, env=os.environ | environment, stdout=subprocess.PIPE, text=True)

    def answer(process: subprocess.Popen[str]) -> Json:
        output, _ = process.communicate()
        if process.returncode:
            return {"failed": process.returncode}
        found: Json = json.loads(output.splitlines()[-1])
        return found

    for library in ["windlass", *(name for name in chosen.libraries if not name.startswith("windlass"))]:
        print("written for", library, answer(ask(library, "write", folder / "cache")), file=sys.stderr)

    results: dict[str, list[Json]] = {library: [] for library in chosen.libraries}
    for turn in range(chosen.rounds):
        for library in chosen.libraries:
            cache = folder / f"cache-{library}-{turn}"
            found = answer(ask(library, "epochs", cache))
            for name, where in (("resume_warm", cache), ("resume_cold", folder / "cold")):
                found[name] = answer(ask(library, "resume", where)).get("first")
                shutil.rmtree(folder / "cold", ignore_errors=True)
            shutil.rmtree(cache, ignore_errors=True)
            results[library].append(found)
            print(library, found, file=sys.stderr)
        if "windlass" in results:
            results["windlass"][-1]["memory_ram"] = answer(ask("windlass", "ram", folder / "none")).get("memory")

    def ranks(library: str, world: int, start: int, steps: int) -> list[list[int]] | None:
        port = free_port()
        members = [
            ask(
                library,
                "order",
                folder / f"order-{world}-{start}",
                rank=rank,
                world=world,
                port=port,
                start=start,
                steps=steps,
            )
            for rank in range(world)
        ]
        rows = [answer(member) for member in members]
        shutil.rmtree(folder / f"order-{world}-{start}", ignore_errors=True)
        if any("steps" not in row for row in rows):
            return None
        return [[sample for row in rows for sample in row["steps"][step]] for step in range(steps)]

    orders: dict[str, str] = {}
    for library in chosen.libraries:
        one = ranks(library, 1, 0, 8)
        likeness = {number: same(ranks(library, number, 0, 8), one) for number in (2, 4, 8)}
        resumed = ranks(library, 4, 4, 4)
        orders[library] = ", ".join(f"{world}: {word}" for world, word in likeness.items())
        orders[library] += f"; 4 from step 4: {same(resumed, one and one[4:])}"
        print(library, orders[library], file=sys.stderr)
    print(table(chosen, results, orders))


def same(order: list[list[int]] | None, reference: list[list[int]] | None) -> str:
    """How like are two global orders, step by step."""
    if order is None or reference is None:
        return "fails"
    if order == reference:
        return "same"
    alike = [sorted(mine) == sorted(theirs) for mine, theirs in zip(order, reference, strict=True)]
    return "same samples a step" if all(alike) else "differs"


def table(chosen: argparse.Namespace, results: dict[str, list[Json]], orders: dict[str, str]) -> str:
    """The Markdown table of the medians."""

    def middle(library: str, name: str, form: str) -> str:
        values = [turn[name] for turn in results[library] if turn.get(name) is not None]
        return format(statistics.median(values), form) if values else "-"

    rows = {
        "first epoch, cold, disk cache on, M tokens/s": ("cold", ".1f"),
        "second epoch, cached, M tokens/s": ("cached", ".1f"),
        "first batch after a cold start, s": ("first", ".3f"),
        "resume in mid-epoch to the first batch, warm, s": ("resume_warm", ".3f"),
        "resume in mid-epoch to the first batch, cold, s": ("resume_cold", ".3f"),
        "memory of the loader over its imports, MB": ("memory", ".0f"),
        "the same without a disk cache, MB": ("memory_ram", ".0f"),
    }
    lines = [["what", *(LIBRARIES[library] for library in results)], ["---"] * (len(results) + 1)]
    lines += [[label, *(middle(library, *how) for library in results)] for label, how in rows.items()]
    lines += [["order of 2, 4, 8 ranks against 1", *(orders[library] for library in results)]]
    size = f"{chosen.tokens / 1e6:.0f} M tokens, {os.cpu_count()} cores"
    heading = f"{size}, {chosen.rounds} rounds, peers' workers: {chosen.workers}"
    return "\n".join([heading, "", *(f"| {' | '.join(line)} |" for line in lines)])


@contextlib.contextmanager
def s3_server(folder: Path) -> Iterator[dict[str, str]]:
    """A versitygw over the folder s3/; yields what a client's environment needs."""
    program = shutil.which("versitygw")
    if program is None:
        program = str(folder / "versitygw")
        packed = Path(os.environ["WINDLASS_TEST_CLUSTER"]).parent / "bin" / "versitygw.xz"
        with lzma.open(packed) as source, open(program, "wb") as target:
            shutil.copyfileobj(source, target)
        os.chmod(program, 0o755)
    (folder / "s3" / "bench").mkdir(parents=True)
    address = f"127.0.0.1:{free_port()}"
    keys = {"ROOT_ACCESS_KEY": KEYS["AWS_ACCESS_KEY_ID"], "ROOT_SECRET_KEY": KEYS["AWS_SECRET_ACCESS_KEY"]}
    server = subprocess.Popen([program, "--quiet", "--port", address, "posix", str(folder / "s3")], env=keys)
    try:
        url = f"http://{address}"
        time.sleep(1)
        endpoints = dict.fromkeys(("AWS_ENDPOINT_URL", "AWS_ENDPOINT", "S3_ENDPOINT_URL"), url)
        yield KEYS | endpoints | {"AWS_EC2_METADATA_DISABLED": "true", "AWS_ALLOW_HTTP": "true", "HOME": str(folder)}
    finally:
        server.kill()
        server.wait()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def child(request: Json) -> Json:
    """One measurement, in its own process; the library is imported before the clock starts."""
    libraries: dict[str, Any] = {"mosaicml": MosaicML, "litdata": LitData}
    library = libraries.get(request["library"], Windlass)(request)
    if request["measure"] == "write":
        return library.write() or {}
    return {"epochs": epochs, "ram": epochs, "resume": resume, "order": order}[request["measure"]](library, request)


def epochs(library: Any, request: Json) -> Json:
    """Two epochs: the first batch, the speed of each, the most memory."""
    batches = request["tokens"] // LENGTH // BATCH
    before, most = memory(), 0.0
    seconds = []
    start = time.perf_counter()
    first = None
    loader = library.batches()
    for _ in range(2):
        begin = time.perf_counter() if first else start
        for number, batch in enumerate(library.epoch(loader, batches), 1):
            if first is None:
                first = time.perf_counter() - start
                assert batch.shape == (BATCH, LENGTH + 1), batch.shape
            if number % max(1, batches // 4) == 0:
                looking = time.perf_counter()
                most = max(most, memory() - before)
                begin += time.perf_counter() - looking
        seconds.append(time.perf_counter() - begin)
    speeds = [number * BATCH * (LENGTH + 1) / 1e6 / each for each in seconds]
    library.close(loader)
    return {"first": first, "cold": speeds[0], "cached": speeds[1], "memory": most / 1e6}


def resume(library: Any, request: Json) -> Json:
    """Seconds to the first batch from the middle of the epoch."""
    state = library.state(request["tokens"] // LENGTH // BATCH // 2)
    start = time.perf_counter()
    loader = library.batches(state)
    next(iter(loader))
    seconds = time.perf_counter() - start
    library.close(loader)
    return {"first": seconds}


def order(library: Any, request: Json) -> Json:
    """The samples that this rank has in each step, as checksums."""
    world = request["world"]
    os.environ |= {
        "RANK": str(request["rank"]),
        "LOCAL_RANK": str(request["rank"]),
        "MASTER_PORT": str(request["port"]),
    }
    os.environ |= {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1"}
    if world > 1:
        library.join_ranks()
    rows = iter(library.batches(library.state(request["start"]), rank=request["rank"], world=world))
    return {"steps": [[zlib.crc32(bytes(row)) for row in rows_of(next(rows))] for _ in range(request["steps"])]}


def rows_of(batch: Any) -> Any:
    return batch.numpy() if hasattr(batch, "numpy") else batch


def memory() -> float:
    """Bytes of memory that are this process's and its workers' own: no files that are mapped, nothing counted twice."""
    import psutil

    process = psutil.Process()
    total = 0
    for member in [process, *process.children(recursive=True)]:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{member.pid}/smaps_rollup").read_text().splitlines():
                if line.startswith(("Pss_Anon:", "Pss_Shmem:")):
                    total += int(line.split()[1]) << 10
    return total


class Windlass:
    """Ours, with obstore or as if that were not installed."""

    def __init__(self, request: Json) -> None:
        from windlass.data.corpus import Corpus
        from windlass.data.stream import TokenStream

        if request["library"] == "windlass-s3fs":
            sys.modules["obstore.store"] = None  # type: ignore[assignment]  # as if it were not installed
            import s3fs  # noqa: F401
        else:
            import botocore.session  # noqa: F401
            import obstore.store  # noqa: F401
        self.request, self.corpus, self.stream = request, Corpus, TokenStream
        os.environ["WINDLASS_CACHE"] = request["cache"]
        if request["measure"] == "ram":
            os.environ["WINDLASS_CACHE_BYTES"] = "0"

    def write(self) -> None:
        """Random letters as a corpus of the byte tokenizer."""
        import numpy as np

        from windlass.data.prepare import prepare
        from windlass.data.tokenizers import BytesTokenizer
        from windlass.spec.job import Prepare, Source

        letters = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz     \n", np.uint8)
        with tempfile.TemporaryDirectory() as folder:
            for number in range(int(self.request["tokens"] * 1.02) >> 20 or 1):
                text = np.random.default_rng(number).integers(0, len(letters), 1 << 20, np.uint8)
                Path(folder, f"{number:05}.txt").write_bytes(letters[text].tobytes())
            spec = Prepare(sources=[Source(uri=folder)], validation_fraction=0.01)
            prepare(spec, BytesTokenizer(), self.request["bucket"] + "/windlass")

    def batches(self, first: int = 0, rank: int = 0, world: int = 1) -> Any:
        corpus = self.corpus.open("s3://bench/windlass")
        how = {"sequence_length": LENGTH, "seed": SEED, "global_batch_size": BATCH, "start_sample": first * BATCH}
        return self.stream([(corpus, 1.0)], rank=rank, world_size=world, **how)

    def epoch(self, stream: Any, batches: int) -> Iterator[Any]:
        return (next(stream) for _ in range(batches))

    def state(self, batch: int) -> int:
        return batch

    def close(self, stream: Any) -> None:
        stream.close()

    def join_ranks(self) -> None:
        """There is nothing to agree on."""


class Peer:
    """What both have in common."""

    def __init__(self, request: Json) -> None:
        import numpy
        import torch

        self.request, self.numpy, self.torch = request, numpy, torch

    def epoch(self, loader: Any, batches: int) -> Iterator[Any]:
        return iter(loader)

    def close(self, loader: Any) -> None:
        """Its workers end with the process."""

    def join_ranks(self) -> None:
        self.torch.distributed.init_process_group("gloo")

    def samples(self) -> Iterator[Any]:
        """The windows of the corpus that Windlass wrote: the same tokens."""
        folder = next(Path(self.request["bucket"], "windlass").glob("data-*"))
        shards = [self.numpy.fromfile(file, "<u2") for file in sorted(folder.glob("train-[0-9]*.bin"))]
        tokens = self.numpy.concatenate(shards)[: self.request["tokens"] + 1]
        for start in range(0, len(tokens) - LENGTH, LENGTH):
            yield tokens[start : start + LENGTH + 1]


class MosaicML(Peer):
    """MosaicML Streaming."""

    def __init__(self, request: Json) -> None:
        super().__init__(request)
        # It imports torchvision for its image data sets. Beside a CPU build of PyTorch, PyPI's torchvision, built for
        # CUDA, lacks the operators that it describes; tokens need none of them.
        self.torch.library.register_fake = lambda *_, **__: lambda function: function
        import streaming

        self.streaming = streaming

    def write(self) -> None:
        columns = {"tokens": f"ndarray:uint16:{LENGTH + 1}"}
        with self.streaming.MDSWriter(
            out=self.request["bucket"] + "/mosaicml", columns=columns, size_limit=1 << 26
        ) as out:
            for sample in self.samples():
                out.write({"tokens": sample})

    def batches(self, state: Any = None, rank: int = 0, world: int = 1) -> Any:
        dataset = self.streaming.StreamingDataset(
            remote="s3://bench/mosaicml",
            local=self.request["cache"],
            shuffle=True,
            shuffle_seed=SEED,
            batch_size=BATCH // world,
            num_canonical_nodes=1,
        )
        loader = self.streaming.StreamingDataLoader(
            dataset,
            batch_size=BATCH // world,
            num_workers=self.request["workers"],
            persistent_workers=bool(self.request["workers"]),
        )
        if state:
            loader.load_state_dict(state)
        return Tokens(loader)

    def state(self, batch: int) -> Any:
        if not batch:
            return None
        names = {"num_canonical_nodes": 1, "shuffle_seed": SEED, "initial_physical_nodes": 1}
        return {"epoch": 0, "sample_in_epoch": batch * BATCH, **names}


class Tokens:
    """A loader of {"tokens": batch} as one of batches."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[Any]:
        return (batch["tokens"] for batch in self.loader)


class LitData(Peer):
    """Lightning's LitData."""

    def __init__(self, request: Json) -> None:
        super().__init__(request)
        import litdata
        from litdata.streaming import downloader

        downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = True  # it has no setting for a server without TLS
        self.litdata = litdata

    def write(self) -> None:
        out = self.request["bucket"] + "/litdata"
        loader = self.litdata.TokensLoader(block_size=LENGTH + 1)
        from litdata.streaming.cache import Cache

        cache = Cache(out, chunk_bytes="64MB", item_loader=loader)
        for number, sample in enumerate(self.samples()):
            cache[number] = self.torch.from_numpy(sample.copy())
        cache.done()
        cache.merge()

    def batches(self, state: Any = None, rank: int = 0, world: int = 1) -> Any:
        dataset = self.litdata.StreamingDataset(
            "s3://bench/litdata",
            cache_dir=self.request["cache"],
            item_loader=self.litdata.TokensLoader(block_size=LENGTH + 1),
            shuffle=True,
            seed=SEED,
            drop_last=True,
            storage_options={"endpoint_url": os.environ["AWS_ENDPOINT_URL"]},
            force_override_state_dict=True,  # the state was taken beside another cache
        )
        loader = self.litdata.StreamingDataLoader(
            dataset, batch_size=BATCH // world, num_workers=self.request["workers"]
        )
        if state:
            loader.load_state_dict(state)
        return loader

    def state(self, batch: int) -> Any:
        """Its state has the dataset's own fields, so a loader has to have come there; that is not timed."""
        if not batch:
            return None
        cache = self.request["cache"]
        with tempfile.TemporaryDirectory() as folder:
            self.request["cache"] = folder
            loader = self.batches()
            for _, _ in zip(range(batch), loader, strict=False):
                pass
            state = loader.state_dict()
        self.request["cache"] = cache
        return state


if __name__ == "__main__":
    main()
