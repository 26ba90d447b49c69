"""The decoder under FSDP2, in two real processes."""

from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.multiprocessing.spawn import start_processes

from windlass.models.decoder import Decoder
from windlass.models.generation import generate
from windlass.spec.presets import PRESETS
from windlass.tasks.pretrain import output_loss, token_loss

CONFIG = PRESETS["llama-tiny"].config.model_copy(
    update={"layers": 2, "hidden_size": 32, "intermediate_size": 48, "context_length": 12, "vocab_size": 13}
)
TOKENS = torch.randint(13, (2, 12), generator=torch.Generator().manual_seed(0))


def sharded(dtype: torch.dtype | None) -> Decoder:
    """Made as training makes it: without memory, sharded, then initialised."""
    with torch.device("meta"):
        model = Decoder(CONFIG)
    mesh, policy = init_device_mesh("cpu", (2,)), MixedPrecisionPolicy(param_dtype=dtype)
    for module in (*model.blocks, model):
        fully_shard(module, mesh=mesh, mp_policy=policy)
    model.to_empty(device="cpu").initialise(1)
    return model


def rank(index: int, rendezvous: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=index, world_size=2)
    alone = Decoder(CONFIG)
    alone.initialise(1)
    model = sharded(None)
    for name, parameter in model.named_parameters():
        assert isinstance(parameter, DTensor)
        assert torch.equal(parameter.full_tensor(), alone.get_parameter(name)), name
    torch.testing.assert_close(model(TOKENS), alone(TOKENS))
    assert list(generate(model, [1, 2], 20)) == list(generate(alone, [1, 2], 20))

    model = sharded(torch.bfloat16)
    list(generate(model, [1, 2], 20, use_cache=True))  # the cache has the dtype that FSDP computes in
    loss = model(TOKENS, head=partial(output_loss, labels=TOKENS))  # and training goes on after it
    torch.autograd.backward(loss)
    torch.testing.assert_close(loss, token_loss(alone(TOKENS), TOKENS), rtol=0.01, atol=0)
    assert all(parameter.grad is not None for parameter in model.parameters())
    dist.destroy_process_group()


@pytest.mark.usefixtures("processes")  # which have torch
def test_a_sharded_decoder_has_the_same_weights_logits_and_text(tmp_path: Path) -> None:
    start_processes(rank, (tmp_path / "rendezvous",), nprocs=2, start_method="forkserver")
