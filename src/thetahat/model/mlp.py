"""The feed-forward network."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, final

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import silu

from thetahat.model.config import TransformerConfig
from thetahat.model.law import MATRIX, WRITER, Law


@final
class SwiGLU(nn.Module):
    r"""$W_\mathrm{down}\left(\mathrm{silu}(W_\mathrm{gate}\,x) \odot W_\mathrm{up}\,x\right)$.

    Shazeer, GLU Variants Improve Transformer, 2020 (arXiv 2002.05202).
    """

    laws: ClassVar[Mapping[str, Law]] = {"gate.weight": MATRIX, "up.weight": MATRIX, "down.weight": WRITER}

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.width, config.inner_width, bias=False)
        self.up = nn.Linear(config.width, config.inner_width, bias=False)
        self.down = nn.Linear(config.inner_width, config.width, bias=False)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        return self.down(silu(self.gate(x)) * self.up(x))

    if TYPE_CHECKING:
        __call__ = forward
