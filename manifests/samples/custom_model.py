"""The model of custom.yaml: causal convolutions that see twice as far in each layer (Oord et al. 2016, WaveNet)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH = 128
LAYERS = 6


def build(vocab_size: int, context_length: int) -> nn.Module:
    """What spec.model.custom names: a module from tokens [batch, length] to logits [batch, length, vocabulary]."""
    return Convolutions(vocab_size)


class Convolutions(nn.Module):
    """An embedding, layers that add what they see to the residual stream, and logits."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, WIDTH)
        self.layers = nn.ModuleList(Layer(2**number) for number in range(LAYERS))
        self.output = nn.Linear(WIDTH, vocab_size)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for layer in self.layers:
            x = x + layer(x)
        return self.output(x)


class Layer(nn.Module):
    """Each token with the one `distance` before it, gated as in WaveNet."""

    def __init__(self, distance: int) -> None:
        super().__init__()
        self.distance = distance
        self.norm = nn.LayerNorm(WIDTH)
        self.mix = nn.Linear(2 * WIDTH, 2 * WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        before = F.pad(x, (0, 0, self.distance, 0))[:, : x.shape[1]]  # of the first tokens, zeros
        gate, value = self.mix(torch.cat((before, x), dim=-1)).chunk(2, dim=-1)
        return torch.sigmoid(gate) * torch.tanh(value)
