"""Parts of the decoder with a backward pass of their own, where autograd's takes more time and memory."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class Turn(torch.autograd.Function):
    """Rotary positions (Su et al. 2021, section 3.2.2): pairs (i, i + pairs) of x turned by angles.

    x is [..., head size]; cosine and sine of the angles broadcast to [..., pairs]. What is behind the pairs stays.
    Turning back is turning by the negative angles, so the backward pass needs nothing of x.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        ctx.save_for_backward(cosine, sine)
        pairs = cosine.shape[-1]
        rest = x.shape[-1] - 2 * pairs
        turned = x * F.pad(torch.cat((cosine, cosine), dim=-1), (0, rest), value=1.0)
        turned[..., :pairs].addcmul_(x[..., pairs : 2 * pairs], sine, value=-1)
        turned[..., pairs : 2 * pairs].addcmul_(x[..., :pairs], sine)
        return turned.type_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        cosine, sine = ctx.saved_tensors
        return turn(gradients[0], cosine, -sine), None, None


turn: Callable[[Tensor, Tensor, Tensor], Tensor] = Turn.apply


class RootMeanSquareNorm(torch.autograd.Function):
    """RMSNorm (Zhang and Sennrich 2019), x / sqrt(mean(x^2) + epsilon) * weight; only x and the roots are kept.

    x is [..., size], weight [size].
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        inverse = x.square().mean(-1, keepdim=True).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, weight, inverse)
        return (x * inverse).mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None]:
        x, weight, inverse = ctx.saved_tensors
        normed = x * inverse
        of_weight = (gradient * normed).sum_to_size(weight.shape) if ctx.needs_input_grad[1] else None
        of_normed = gradient * weight
        along = (of_normed * normed).mean(-1, keepdim=True)  # a change along x alters only its length
        return of_normed.addcmul_(normed, along, value=-1).mul_(inverse), of_weight, None


rms_norm: Callable[[Tensor, Tensor, float | None], Tensor] = RootMeanSquareNorm.apply


class RMSNorm(nn.RMSNorm):
    """PyTorch's, which on CPUs (2.13) has no kernel but is put together of operations for autograd."""

    def forward(self, x: Tensor) -> Tensor:
        """x [..., size] by its root mean square, times weight [size]."""
        wide = x.dtype == self.weight.dtype and x.dtype in (torch.float32, torch.float64)
        if not (wide and x.is_cpu and torch.is_grad_enabled()):
            return super().forward(x)
        return rms_norm(x, self.weight, self.eps)
