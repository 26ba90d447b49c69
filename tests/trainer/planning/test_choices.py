from typing import Any

import pytest

from windlass.errors import WindlassError
from windlass.planning.choices import resolve_precision, resolve_strategy

GPU: dict[str, Any] = {"device": "cuda", "device_memory": 80 * 2**30, "parameters": 10**9}
CPU: dict[str, Any] = {"device": "cpu", "device_memory": 8 * 2**30, "parameters": 10**6}


@pytest.mark.parametrize(
    ("asked", "ranks", "where", "strategy", "reason"),
    [
        ("Auto", 1, CPU, "Single", "one rank has nothing to share"),
        ("DDP", 1, GPU, "Single", "DDP was asked for, but one rank has nothing to share"),
        ("FSDP", 1, GPU, "Single", "FSDP was asked for, but one rank has nothing to share"),
        ("Auto", 2, CPU, "DDP", "at most 60%: each rank holds a replica"),
        ("Auto", 2, GPU, "DDP", "take 19% of a rank's memory"),
        ("Auto", 2, GPU | {"parameters": 8 * 10**9}, "FSDP", "take 149% of a rank's memory, more than 60%"),
        ("Auto", 2, CPU | {"parameters": 10**9}, "FSDP", "more than 60%"),
        ("Auto", 2, GPU | {"parameters": 8 * 10**9, "quantised": 1}, "DDP", "quantised weights are not sharded"),
        ("FSDP", 2, CPU, "FSDP", "as asked"),
        ("DDP", 2, GPU | {"parameters": 8 * 10**9}, "DDP", "as asked"),
        ("HSDP", 4, GPU, "HSDP", "as asked"),
    ],
)
def test_the_strategy_has_a_reason(asked: Any, ranks: int, where: dict[str, Any], strategy: str, reason: str) -> None:
    chosen, why = resolve_strategy(asked, world_size=ranks, **where)
    assert chosen == strategy
    assert reason in why


@pytest.mark.parametrize(
    ("ranks", "where", "message"),
    [
        (4, CPU, "HSDP needs GPUs"),
        (1, CPU, "HSDP needs GPUs"),
        (4, CPU | {"device": "mps"}, "HSDP needs GPUs"),
        (2, GPU, "4 or more; here are 2; use FSDP"),
        (5, GPU, "an even number of GPUs"),
    ],
)
def test_hsdp_is_refused_where_it_cannot_work(ranks: int, where: dict[str, Any], message: str) -> None:
    with pytest.raises(WindlassError, match=message) as caught:
        resolve_strategy("HSDP", world_size=ranks, **where)
    assert caught.value.reason == "ConfigInvalid"


@pytest.mark.parametrize(
    ("asked", "device", "capability", "precision"),
    [
        ("Auto", "cpu", None, "FP32"),
        ("Auto", "mps", None, "FP32"),
        ("Auto", "cuda", (9, 0), "BF16"),
        ("Auto", "cuda", None, "BF16"),
        ("Auto", "cuda", (7, 5), "FP32"),
        ("BF16", "cpu", None, "BF16"),
        ("FP16", "cpu", None, "FP16"),
        ("FP16", "cuda", (7, 0), "FP16"),
        ("FP32", "cuda", (9, 0), "FP32"),
    ],
)
def test_the_precision_is_one_that_the_device_has(asked: Any, device: Any, capability: Any, precision: str) -> None:
    chosen, why = resolve_precision(asked, device=device, compute_capability=capability)
    assert chosen == precision
    assert why


@pytest.mark.parametrize(
    ("asked", "device", "capability", "message"),
    [
        ("FP8", "cpu", None, "FP8 needs a GPU of compute capability 8.9 or newer"),
        ("FP8", "cuda", (8, 0), "FP8 needs a GPU of compute capability 8.9 or newer"),
        ("FP8", "cuda", (9, 0), "the GPU has it, but training does not use it yet"),
        ("BF16", "cuda", (7, 5), "BF16 needs compute capability 8.0 or newer; use FP16 or FP32"),
    ],
)
def test_a_precision_that_is_not_there_is_refused(asked: Any, device: Any, capability: Any, message: str) -> None:
    with pytest.raises(WindlassError, match=message) as caught:
        resolve_precision(asked, device=device, compute_capability=capability)
    assert caught.value.reason == "ConfigInvalid"
