"""How parameters begin: a pure function of (seed, name), so of nothing that changes with device or rank."""

from collections import Counter

import torch
from torch import nn

from thetahat.core.random import generator

WRITERS = ("attention.output.weight", "mlp.down.weight")  # cross_attention.output.weight ends so as well


@torch.no_grad()
def initialize(model: nn.Module, seed: int) -> None:
    r"""Gains 1; embeddings and head $\mathcal{N}(0, 0.02^2)$; matrices $\mathcal{N}(0, 1 / \mathrm{fan\_in})$.

    The W matrices that write into one residual stream (attention's output, cross-attention's output, the network's
    down) are divided by $\sqrt{W}$, so that its variance does not grow with depth (Radford et al., GPT-2, 2019).
    W is 2L in a decoder and in an encoder; in an encoder-decoder, 2L of the encoder and 3L of the decoder, apart.
    """
    num_writers = Counter(_stream(name) for name, _ in model.named_parameters() if name.endswith(WRITERS))
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2:
            parameter.fill_(1.0)
            continue
        values = torch.randn(parameter.shape, generator=generator(seed, f"init {name}"), dtype=torch.float32)
        parameter.copy_(values * _deviation(name, parameter.shape[-1], num_writers))


def _stream(name: str) -> str:
    """The residual stream that a layer belongs to: `blocks` or `encoder_blocks`."""
    return name.split(".")[0]


def _deviation(name: str, fan_in: int, num_writers: Counter[str]) -> float:
    if name.startswith(("embedding.", "head.")):
        return 0.02
    return fan_in**-0.5 / (num_writers[_stream(name)] ** 0.5 if name.endswith(WRITERS) else 1.0)
