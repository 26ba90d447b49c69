"""How a model is spread over the ranks, in the order in which it is applied: checkpointing, compiling, sharding."""

from contextlib import AbstractContextManager, nullcontext
from typing import cast

import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from windlass.models.decoder import Decoder
from windlass.models.foreign import AnyModel
from windlass.models.generation import uncompiled
from windlass.planning.choices import Strategy
from windlass.spec.job import Parallelism
from windlass.training.ranks import Ranks


def parallelise(
    model: AnyModel, strategy: Strategy, precision: str, parallelism: Parallelism, ranks: Ranks
) -> nn.Module:
    """Apply activation checkpointing, torch.compile, then DDP or FSDP2; the result is called like the model."""
    for index, block in enumerate(model.blocks):
        every = {"None": 0, "Selective": 2, "Full": 1}[parallelism.activation_checkpointing]
        if every and index % every == 0:
            model.blocks[index] = checkpoint_wrapper(block)
    if parallelism.compile:
        for block in model.blocks:
            block.compile()  # in place: parameter names stay
    match strategy:
        case "Single":
            return model
        case "DDP":
            devices = [ranks.device.index] if ranks.device.type == "cuda" else None
            unused = not isinstance(model, Decoder)  # others may have parameters that the loss does not depend on
            return DistributedDataParallel(
                model, device_ids=devices, gradient_as_bucket_view=True, find_unused_parameters=unused
            )
        case "FSDP" | "HSDP":
            return _shard(model, strategy, precision, ranks)


def _shard(model: AnyModel, strategy: Strategy, precision: str, ranks: Ranks) -> nn.Module:
    """FSDP2: each block gathered by itself, then the rest. HSDP has two replicas, each sharded."""
    device = ranks.device.type
    if strategy == "HSDP":
        mesh = init_device_mesh(device, (2, ranks.world_size // 2), mesh_dim_names=("replicate", "shard"))
    else:
        mesh = init_device_mesh(device, (ranks.world_size,))
    dtype = {"BF16": torch.bfloat16, "FP16": torch.float16}.get(precision)
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    for block in model.blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    return model


def settle_buckets(model: nn.Module, device: torch.device) -> None:
    """Let DDP build its final gradient buckets before the first step.

    DDP orders its buckets anew after the first backward pass, and the order of additions in an all-reduce over three
    or more ranks follows the buckets. Without this, the first step after a resume would differ in its last bits.
    Two tokens are enough for that; without autocast, a micro-batch might not fit.
    """
    if not isinstance(model, DistributedDataParallel):
        return
    with uncompiled():
        model(torch.zeros((1, 2), dtype=torch.long, device=device)).sum().mul(0).backward()
    model.zero_grad(set_to_none=True)


def accumulate(model: nn.Module, last: bool) -> AbstractContextManager[None]:
    """Context of one micro batch: gradients are reduced over the ranks on the last one only."""
    if isinstance(model, DistributedDataParallel) and not last:
        return model.no_sync()
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(last)
    return nullcontext()


def unwrapped(model: nn.Module) -> AnyModel:
    """The model itself, for passes without gradients."""
    return cast(AnyModel, model.module if isinstance(model, DistributedDataParallel) else model)


def autocast(strategy: Strategy, precision: str, device: torch.device) -> AbstractContextManager[None]:
    """Mixed precision for a forward pass; FSDP casts by its own policy."""
    dtype = {"BF16": torch.bfloat16, "FP16": torch.float16}.get(precision)
    if dtype is None or strategy in {"FSDP", "HSDP"}:
        return nullcontext()
    return torch.autocast(device.type, dtype=dtype)


def clip_gradients(model: nn.Module, limit: float, scale: float) -> torch.Tensor:
    """Divide all gradients by `scale`, then clip them; returns their norm over all ranks' shards before clipping.

    `limit` is the largest norm (Pascanu et al. 2013); 0 means no clipping.
    """
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    if isinstance(norm, DTensor):
        norm = norm.full_tensor()
    norm = norm / scale
    factor = torch.clamp(limit / (norm + 1e-6), max=1.0) if limit > 0 else torch.ones_like(norm)
    if scale != 1.0 or limit > 0:
        torch._foreach_mul_([local(gradient) for gradient in gradients], factor / scale)
    return norm


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This rank's part of a tensor that may be sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
