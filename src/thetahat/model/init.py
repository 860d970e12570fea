"""How parameters begin: a pure function of (seed, name), so of nothing that changes with device or rank."""

import torch
from torch import nn

from thetahat.core.random import generator


@torch.no_grad()
def initialize(model: nn.Module, seed: int, num_layers: int) -> None:
    r"""Gains 1; embeddings and head $\mathcal{N}(0, 0.02^2)$; matrices $\mathcal{N}(0, 1 / \mathrm{fan\_in})$.

    The two matrices that write into the residual stream (attention's output, the network's down) are divided by
    $\sqrt{2L}$, so that its variance does not grow with depth (Radford et al., GPT-2, 2019).
    """
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2:
            parameter.fill_(1.0)
            continue
        values = torch.randn(parameter.shape, generator=generator(seed, f"init {name}"), dtype=torch.float32)
        parameter.copy_(values * _deviation(name, parameter.shape[-1], num_layers))


def _deviation(name: str, fan_in: int, num_layers: int) -> float:
    if name.startswith(("embedding.", "head.")):
        return 0.02
    writes_residual = name.endswith(("attention.output.weight", "mlp.down.weight"))
    return fan_in**-0.5 / ((2 * num_layers) ** 0.5 if writes_residual else 1.0)
