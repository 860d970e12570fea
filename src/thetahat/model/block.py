"""One layer: what every family of ours is composed of."""

from typing import TYPE_CHECKING, final

from jaxtyping import Float
from torch import Tensor, nn

from thetahat.model.attention import Attend, Attention
from thetahat.model.cache import LayerCache
from thetahat.model.config import BlockConfig
from thetahat.model.mlp import SwiGLU
from thetahat.model.norm import RMSNorm
from thetahat.model.rope import Rotation


@final
class Block(nn.Module):
    r"""Adds to the residual stream: $x \leftarrow x + \mathrm{attention}(\mathrm{norm}(x))$, then so with the mlp."""

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.width, config.norm_epsilon)
        self.attention = Attention(config)
        self.mlp_norm = RMSNorm(config.width, config.norm_epsilon)
        self.mlp = SwiGLU(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Float[Tensor, "B T D"], turn: Rotation, attend: Attend, cache: LayerCache | None = None
    ) -> Float[Tensor, "B T D"]:
        x = x + self.dropout(self.attention(self.attention_norm(x), turn, attend, cache))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))

    if TYPE_CHECKING:
        __call__ = forward
