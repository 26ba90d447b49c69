"""What `Auto` becomes, and what the hardware refuses: strategy and precision, each with the reason in a sentence."""

from typing import Literal, NoReturn

from windlass.errors import WindlassError

Device = Literal["cpu", "cuda", "mps"]
Strategy = Literal["Single", "DDP", "FSDP", "HSDP"]
Precision = Literal["BF16", "FP16", "FP32"]

STATE_BYTES = 16
"""Bytes a parameter takes in float32 with its gradient and AdamW's two moments."""
REPLICA_SHARE = 0.6
"""Largest share of a device's memory that a replica's state may take under DDP; the rest is for activations."""
HSDP_RANKS = 4
"""Two replicas of two shards: fewer ranks are DDP or FSDP."""


def resolve_strategy(
    strategy: Literal["Auto", "DDP", "FSDP", "HSDP"],
    *,
    world_size: int,
    device: Device,
    device_memory: int,
    parameters: int,
    quantised: int = 0,
) -> tuple[Strategy, str]:
    """How the ranks share the work, and why. `device_memory` is what one rank has, in bytes.

    Of the parameters, those that are `quantised` are not sharded.

    Raises:
        WindlassError: ConfigInvalid, for HSDP where it cannot work.
    """
    if strategy == "HSDP":
        _refuse_hsdp(world_size, device)
        return "HSDP", "as asked: sharded within groups of ranks, replicated between them"
    if world_size == 1:
        asked = "" if strategy == "Auto" else f"{strategy} was asked for, but "
        return "Single", f"{asked}one rank has nothing to share"
    if strategy != "Auto":
        return strategy, "as asked"
    if quantised:
        return "DDP", "quantised weights are not sharded: each rank holds a replica"
    share = parameters * STATE_BYTES / device_memory
    size = f"weights, gradients and optimizer of a replica take {share:.0%} of a rank's memory"
    if share <= REPLICA_SHARE:
        return "DDP", f"{size}, at most {REPLICA_SHARE:.0%}: each rank holds a replica"
    return "FSDP", f"{size}, more than {REPLICA_SHARE:.0%}: the ranks share one"


def _refuse_hsdp(world_size: int, device: Device) -> None:
    where = "spec.training.parallelism.strategy: HSDP"
    if device != "cuda":
        raise WindlassError(
            "ConfigInvalid", f"{where} needs GPUs (on gloo it gave wrong results without an error); use DDP or FSDP"
        )
    if world_size < HSDP_RANKS or world_size % 2:
        raise WindlassError(
            "ConfigInvalid",
            f"{where} needs an even number of GPUs, {HSDP_RANKS} or more; here are {world_size}; use FSDP",
        )


def resolve_precision(
    precision: Literal["Auto", "BF16", "FP16", "FP32", "FP8"],
    *,
    device: Device,
    compute_capability: tuple[int, int] | None = None,
) -> tuple[Precision, str]:
    """What matrices are multiplied in, and why; weights and optimizer stay in float32.

    `compute_capability` is the GPU's, as torch.cuda.get_device_capability gives it; None where it is not known, and
    BF16 is assumed then.

    Raises:
        WindlassError: ConfigInvalid, for a precision that the device or this version does not have.
    """
    has_bf16 = device != "cuda" or compute_capability is None or compute_capability >= (8, 0)
    where = f"spec.training.precision: {precision}"
    if precision == "FP8":
        _refuse_fp8(where, device, compute_capability)
    elif precision == "Auto":
        if device != "cuda":
            return "FP32", "the default without a CUDA GPU"
        if has_bf16:
            return "BF16", "the default on a GPU that has it"
        return "FP32", "the GPU has no BF16; FP16 is faster there"
    elif precision == "BF16" and not has_bf16:
        raise WindlassError("ConfigInvalid", f"{where} needs compute capability 8.0 or newer; use FP16 or FP32")
    elif precision == "FP16":
        return "FP16", "as asked, with a scaled loss"
    return precision, "as asked"


def _refuse_fp8(where: str, device: Device, compute_capability: tuple[int, int] | None) -> NoReturn:
    if device != "cuda" or (compute_capability is not None and compute_capability < (8, 9)):
        raise WindlassError(
            "ConfigInvalid", f"{where} needs a GPU of compute capability 8.9 or newer; use BF16 or FP32"
        )
    raise WindlassError("ConfigInvalid", f"{where}: the GPU has it, but training does not use it yet; use BF16")
