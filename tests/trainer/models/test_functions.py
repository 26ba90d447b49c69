import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from windlass.models.functions import RMSNorm, turn


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype).requires_grad_()


def angles(*shape: int) -> tuple[Tensor, Tensor]:
    of_positions = random(*shape, seed=1).detach() * 4
    return of_positions.cos(), of_positions.sin()


def turned_by_definition(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    pairs = cosine.shape[-1]
    first, second, rest = x.split([pairs, pairs, x.shape[-1] - 2 * pairs], dim=-1)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine, rest), dim=-1)


ANGLES = pytest.mark.parametrize("shape", [(5, 4), (5, 3), (2, 1, 5, 4), (2, 1, 5, 1)], ids=str)
"""Of whole heads of 8 and of a part of them, the same for each sequence and each sequence's own."""


@ANGLES
def test_turning_and_its_gradients_are_those_of_the_definition(shape: tuple[int, ...]) -> None:
    x, rotation, gradient = random(2, 3, 5, 8), angles(*shape), random(2, 3, 5, 8, seed=2).detach()
    outcomes = turn(x, *rotation), turned_by_definition(x, *rotation)
    torch.testing.assert_close(*outcomes)
    torch.testing.assert_close(*(torch.autograd.grad(outcome, x, gradient)[0] for outcome in outcomes))
    assert torch.autograd.gradcheck(turn, (x, *rotation))
    assert torch.autograd.gradgradcheck(turn, (x, *rotation))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64], ids=str)
def test_what_is_turned_keeps_its_type_and_is_not_changed(dtype: torch.dtype) -> None:
    x = random(2, 5, 3, 8, dtype=dtype).transpose(1, 2)  # as it comes from the projection
    before = x.detach().clone()
    cosine, sine = (part.float() for part in angles(5, 4))
    outcome = turn(x, cosine, sine)
    assert outcome.dtype == dtype
    torch.testing.assert_close(outcome, turned_by_definition(x, cosine, sine).to(dtype))
    torch.autograd.backward(outcome.sum())
    assert torch.equal(x, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(6,), (3, 6), (2, 3, 4, 6)], ids=str)
def test_rms_norm_is_pytorchs_bit_by_bit_and_its_gradients_are(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    norm, x = RMSNorm(6, 1e-3).to(dtype), random(*shape, dtype=dtype)
    norm.weight.data = random(6, seed=1, dtype=dtype).data
    outcomes = norm(x), F.rms_norm(x, (6,), norm.weight, 1e-3)
    assert torch.equal(*outcomes)
    gradient = random(*shape, seed=2, dtype=dtype).detach()
    found, expected = (torch.autograd.grad(outcome, (x, norm.weight), gradient) for outcome in outcomes)
    torch.testing.assert_close(found, expected)


def test_gradients_of_rms_norm_are_its_slopes() -> None:
    norm = RMSNorm(6, 1e-3).double()
    assert torch.autograd.gradcheck(norm, (random(2, 3, 6),))
    assert torch.autograd.gradcheck(
        lambda weight: torch.func.functional_call(norm, {"weight": weight}, random(3, 6)), (random(6, seed=1),)
    )


def test_rms_norm_of_other_types_and_without_gradients_is_pytorchs() -> None:
    norm, theirs = RMSNorm(6, 1e-3), nn.RMSNorm(6, 1e-3)
    x = random(3, 6, dtype=torch.bfloat16)
    assert torch.equal(norm(x), theirs(x))
    with torch.no_grad():
        assert norm(random(3, 6, dtype=torch.float32)).grad_fn is None
    assert list(norm.state_dict()) == list(theirs.state_dict())


def test_of_rms_norm_one_tensor_of_the_size_of_x_is_kept() -> None:
    x, kept = random(64, 6, dtype=torch.float32), list[int]()

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        RMSNorm(6, 1e-3)(x)
    assert kept.count(x.numel()) == 1


@pytest.mark.parametrize("frozen", [False, True])
def test_both_compile_without_a_break(frozen: bool) -> None:
    norm, x, rotation = RMSNorm(8, 1e-3), random(2, 3, 5, 8, dtype=torch.float32), angles(5, 3)
    norm.weight.requires_grad_(not frozen)

    def both(x: Tensor) -> Tensor:
        return turn(norm(x), *(part.float() for part in rotation))

    torch.compiler.reset()
    outcomes = torch.compile(both, backend="aot_eager", fullgraph=True)(x), both(x)
    torch.testing.assert_close(*outcomes)
    torch.testing.assert_close(*(torch.autograd.grad(outcome.square().sum(), x)[0] for outcome in outcomes))
