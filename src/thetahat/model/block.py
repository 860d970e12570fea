"""One layer, without and with a source: what every family of ours is composed of."""

from typing import TYPE_CHECKING, final

from jaxtyping import Float
from torch import Tensor, nn

from thetahat.model.attention.attention import Attention
from thetahat.model.attention.cache import LayerCache
from thetahat.model.attention.cross_attention import CrossAttention, Memory
from thetahat.model.attention.kernels import Attend
from thetahat.model.config import TransformerConfig
from thetahat.model.mlp import SwiGLU
from thetahat.model.norm import RMSNorm
from thetahat.model.rope import Rotation


@final
class Block(nn.Module):
    r"""Adds to the residual stream: $x \leftarrow x + \mathrm{attention}(\mathrm{norm}(x))$, then so with the mlp."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.width, config.norm_epsilon)
        self.attention = Attention(config)
        self.mlp_norm = RMSNorm(config.width, config.norm_epsilon)
        self.mlp = SwiGLU(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Float[Tensor, "B T D"], rotation: Rotation, attend: Attend, cache: LayerCache | None = None
    ) -> Float[Tensor, "B T D"]:
        x = x + self.dropout(self.attention(self.attention_norm(x), rotation, attend, cache))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))

    if TYPE_CHECKING:
        __call__ = forward


@final
class CrossBlock(nn.Module):
    r"""A Block that reads a source between its two steps.

    $x \leftarrow x + \mathrm{cross\_attention}(\mathrm{norm}(x), \text{memory})$ comes second of three.
    Vaswani et al., Attention Is All You Need, 2017 (arXiv 1706.03762), with the norms before, not after.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.width, config.norm_epsilon)
        self.attention = Attention(config)
        self.cross_norm = RMSNorm(config.width, config.norm_epsilon)
        self.cross_attention = CrossAttention(config)
        self.mlp_norm = RMSNorm(config.width, config.norm_epsilon)
        self.mlp = SwiGLU(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        rotation: Rotation,
        attend: Attend,
        memory: Memory,
        attend_source: Attend,
        cache: LayerCache | None = None,
    ) -> Float[Tensor, "B T D"]:
        x = x + self.dropout(self.attention(self.attention_norm(x), rotation, attend, cache))
        x = x + self.dropout(self.cross_attention(self.cross_norm(x), memory, attend_source))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))

    if TYPE_CHECKING:
        __call__ = forward
