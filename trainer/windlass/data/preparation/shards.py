"""Tokens of one split, written as shards as they fill."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from windlass.data.blocks import Layout, Shard
from windlass.data.corpus import SplitManifest, SplitName
from windlass.storage import Storage


class SplitWriter:
    """Takes documents in their order; holds no more than a shard and what was added last."""

    def __init__(self, storage: Storage, name: SplitName, dtype: np.dtype[Any], layout: Layout) -> None:
        """Write nothing yet."""
        self._storage = storage
        self._name = name
        self._dtype = dtype
        self._layout = layout
        self._parts: list[NDArray[Any]] = []
        self._waiting = 0  # bytes in parts
        self._bytes = 0
        self._ends: list[NDArray[np.uint64]] = []
        self._shards: list[Shard] = []
        self.tokens = 0

    def add(self, tokens: NDArray[Any], lengths: NDArray[np.int64], text_bytes: int) -> None:
        """Append documents: their tokens, how many each has (the one that ends it included), bytes of their text."""
        self._ends.append(np.cumsum(lengths).astype(np.uint64) + np.uint64(self.tokens))
        self.tokens += len(tokens)
        self._bytes += text_bytes
        self._parts.append(tokens)
        self._waiting += tokens.nbytes
        if self._waiting >= self._layout.shard:
            data = self._joined()
            full = len(data) // self._layout.shard * self._layout.shard
            for at in range(0, full, self._layout.shard):
                self._next_shard(data[at : at + self._layout.shard])
            self._parts = [np.frombuffer(data[full:], self._dtype)]
            self._waiting = len(data) - full

    def finish(self) -> SplitManifest:
        """Write what is left, and the ends of the documents."""
        if self._waiting:
            self._next_shard(self._joined())
        ends = np.concatenate([np.empty(0, np.uint64), *self._ends]).astype("<u8").tobytes()
        size = self._layout.shard
        pieces = [ends[at : at + size] for at in range(0, len(ends), size)]
        return SplitManifest(
            tokens=self.tokens,
            documents=len(ends) // 8,
            bytes=self._bytes,
            shards=self._shards,
            document_ends=[self._write(f"{self._name}-ends-{i:05}.bin", piece) for i, piece in enumerate(pieces)],
        )

    def _joined(self) -> bytes:
        return np.concatenate(self._parts).astype(self._dtype).tobytes()

    def _next_shard(self, data: bytes) -> None:
        self._shards.append(self._write(f"{self._name}-{len(self._shards):05}.bin", data))

    def _write(self, name: str, data: bytes) -> Shard:
        self._storage.write(name, data)
        return self._layout.describe(name, data)
