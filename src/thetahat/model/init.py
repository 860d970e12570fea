"""How parameters begin: a pure function of (seed, name), so of nothing that changes with device or rank."""

import torch
from torch import nn

from thetahat.core.random import generator


@torch.no_grad()
def initialize(model: nn.Module, seed: int, num_layers: int) -> None:
    r"""Gains 1; embeddings and head $\mathcal{N}(0, 0.02^2)$; matrices $\mathcal{N}(0, 1 / \mathrm{fan\_in})$.

    The matrices that write into the residual stream (attention's output, the network's down) are divided by
    $\sqrt{2L}$, so that its variance does not grow with depth (Radford et al., GPT-2, 2019); of a decoder that also
    reads a source there are three a layer, and they are divided by $\sqrt{3L}$.
    """
    has_source = any(".cross." in name for name, _ in model.named_parameters())
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2:
            parameter.fill_(1.0)
            continue
        num_writes = (3 if has_source and not name.startswith("encoder.") else 2) * num_layers
        values = torch.randn(parameter.shape, generator=generator(seed, f"init {name}"), dtype=torch.float32)
        parameter.copy_(values * _deviation(name, parameter.shape[-1], num_writes))


def _deviation(name: str, fan_in: int, num_writes: int) -> float:
    if name.startswith(("embedding.", "head.")):
        return 0.02
    writes_residual = name.endswith(("attention.output.weight", "cross.output.weight", "mlp.down.weight"))
    return fan_in**-0.5 / (num_writes**0.5 if writes_residual else 1.0)
