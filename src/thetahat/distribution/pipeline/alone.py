"""One process that draws as the stages of a pipeline do."""

from functools import partial
from typing import Any, cast

import torch
from torch import nn

from thetahat.distribution.pipeline.schedule import groups_of, seed_of_group


def draw_as_stages(model: nn.Module, num_groups: int) -> None:
    """From here on each group of layers of a decoder draws its own dropout, as where stages have them."""
    blocks, begun = cast(nn.ModuleList, model.blocks), list[int]()
    for group, layers in enumerate(groups_of(len(blocks), num_groups)):
        blocks[layers[0]].register_forward_pre_hook(partial(_seed, begun, group))


def _seed(begun: list[int], group: int, module: nn.Module, _arguments: Any) -> None:
    """`begun` has the seed of the micro-batch, which the first group notes."""
    if group == 0:
        begun[:] = [torch.initial_seed()]
    elif module.training:
        torch.manual_seed(seed_of_group(begun[0], group))
