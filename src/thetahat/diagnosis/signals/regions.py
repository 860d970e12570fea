"""Parts of a model that are told apart: its tables, attention and network of each block, and all gains and biases."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor, nn

from thetahat.model.law import laws_of

VECTORS = "vectors"  # gains and biases, wherever they are
_IN_A_BLOCK = re.compile(r"^(.*\bblocks\.\d+\.\w+)\.")


@dataclass(frozen=True)
class Regions:
    """The region of each parameter of a model, in its order; that of a frozen one is empty."""

    of: tuple[str, ...]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The regions, in the order of the model."""
        return tuple(dict.fromkeys(name for name in self.of if name))

    def index(self, device: torch.device) -> Int[Tensor, " n"]:
        """The number of each parameter's region, of a frozen one that behind the last."""
        number = {name: place for place, name in enumerate([*self.names, ""])}
        return torch.tensor([number[name] for name in self.of], dtype=torch.int64, device=device)

    @property
    def blocks(self) -> Sequence[tuple[str, ...]]:
        """The regions of each block of the last stack of blocks, from the first to the last."""
        of: dict[str, list[str]] = {}
        for name in self.names:
            if name != VECTORS and ".blocks." in f".{name}" and "encoder." not in name:
                of.setdefault(name.rpartition(".")[0], []).append(name)
        return [tuple(names) for names in of.values()]


def regions_of(model: nn.Module) -> Regions:
    """The regions of a model, as its modules declare what their parameters are."""
    laws = laws_of(model)
    named = model.named_parameters()
    return Regions(tuple(_region(name, laws[name].group) if one.requires_grad else "" for name, one in named))


def _region(name: str, group: str) -> str:
    if group == "vectors":
        return VECTORS
    found = _IN_A_BLOCK.match(name)
    return found[1] if found else name.rpartition(".")[0] or name


def joined_norms(norms: Float[Tensor, " n"], index: Int[Tensor, " n"], num_regions: int) -> Float64[Tensor, " R"]:
    r"""$\sqrt{\sum_{p \in r} \lVert g_p \rVert^2}$ for each region r."""
    squares = torch.zeros(num_regions + 1, dtype=torch.float64, device=norms.device)
    return squares.index_add_(0, index, norms.to(torch.float64).square())[:num_regions].sqrt()
