"""A share of the position before each, mixed in before the first block."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from thetahat.core.transfer import onto
from thetahat.core.visibility import Visibility
from thetahat.model.law import BIAS, Law
from thetahat.model.recurrence.state import LayerState


@final
class Smear(nn.Module):
    r"""$x_t + \lambda\, \sigma(w\, x_{t,:n})\, x_{t'}$ with t' the position before t: nothing at the first of a text.

    The first position of a piece that continues another has the last one of that before it. $\lambda$ and w begin at 0,
    so a model begins as without. What nanochat and modded-nanogpt (2025) do to embeddings.
    """

    laws: ClassVar[Mapping[str, Law]] = {"scale": BIAS, "gate": BIAS}

    def __init__(self, width: int, gate_width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.empty(1))
        self.gate = nn.Parameter(torch.empty(min(gate_width, width)))

    def forward(
        self, x: Float[Tensor, "B T D"], visibility: Visibility, state: LayerState | None
    ) -> Float[Tensor, "B T D"]:
        first = x[..., : len(self.gate)].contiguous()  # a copy, so that the backward pass does not keep all of x
        share = self.scale * (first * self.gate).sum(-1, keepdim=True).sigmoid()
        if state is None:
            return x + share * _before(x, visibility)
        return x + share * state.behind(x, visibility.piece >= 0, 1)[:, :-1]

    if TYPE_CHECKING:
        __call__ = forward


def _before(x: Float[Tensor, "B t D"], visibility: Visibility) -> Float[Tensor, "B t D"]:
    """What stands before each position; 0: nothing. Where others have read some positions of a row, they are asked."""
    place = onto(_places(visibility.row), x.device)
    if visibility.whole is not None:
        x, place = visibility.whole.gathered(x[:, None])[:, 0], place[:, visibility.whole.mine]
    found = x.flatten(0, 1).index_select(0, place.clamp(min=0).flatten()).unflatten(0, place.shape)
    return found.masked_fill((place < 0)[..., None], 0.0)


def _places(row: Visibility) -> Int[Tensor, "B T"]:
    """Where in B x T the position before each one lies, on the host; -1: nowhere."""
    spans, shape = row.found_spans(), row.piece.shape
    before = torch.full((shape.numel(),), -1)
    for start, length, parent in spans:
        before[start : start + length] = torch.arange(start - 1, start + length - 1)
        before[start] = -1 if parent < 0 else spans[parent].start + spans[parent].length - 1
    return before.view(shape)
