"""What a decoder's layer has beside the block when it also reads a source."""

from typing import TYPE_CHECKING, NamedTuple, final

from jaxtyping import Float
from torch import Tensor, nn

from thetahat.model.attention import Attend, Attention
from thetahat.model.cache import LayerCache
from thetahat.model.config import BlockConfig
from thetahat.model.mlp import SwiGLU
from thetahat.model.norm import RMSNorm
from thetahat.model.rope import Rotation


@final
class CrossAttention(nn.Module):
    r"""$\mathrm{softmax}\left(q k^\top / \sqrt{K}\right) v$, queries from the decoder, keys and values from the source.

    Queries and keys are normalised over the head width as in `Attention`; neither is turned, since a distance between
    positions of two texts means nothing. Vaswani et al., Attention Is All You Need, 2017, section 3.2.3.
    """

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        self.head_width = config.head_width
        self.query = nn.Linear(config.width, config.num_heads * config.head_width, bias=False)
        self.key = nn.Linear(config.width, config.num_kv_heads * config.head_width, bias=False)
        self.value = nn.Linear(config.width, config.num_kv_heads * config.head_width, bias=False)
        self.output = nn.Linear(config.num_heads * config.head_width, config.width, bias=False)
        self.query_norm = RMSNorm(config.head_width, config.norm_epsilon)
        self.key_norm = RMSNorm(config.head_width, config.norm_epsilon)

    def keys_and_values(
        self, source: Float[Tensor, "B S D"]
    ) -> tuple[Float[Tensor, "B G S K"], Float[Tensor, "B G S K"]]:
        """What the decoder looks at: the same for every token that it writes."""
        heads = (-1, self.head_width)
        k_BSGK = self.key_norm(self.key(source).unflatten(-1, heads))
        v_BSGK = self.value(source).unflatten(-1, heads)
        return k_BSGK.transpose(1, 2), v_BSGK.transpose(1, 2)

    def forward(
        self, x: Float[Tensor, "B T D"], k: Float[Tensor, "B G S K"], v: Float[Tensor, "B G S K"], attend: Attend
    ) -> Float[Tensor, "B T D"]:
        q_BTHK = self.query_norm(self.query(x).unflatten(-1, (-1, self.head_width)))
        return self.output(attend(q_BTHK.transpose(1, 2), k, v).transpose(1, 2).flatten(2))

    if TYPE_CHECKING:
        __call__ = forward


class Look(NamedTuple):
    """What one layer sees of a source."""

    keys: Float[Tensor, "B G S K"]
    values: Float[Tensor, "B G S K"]
    attend: Attend


@final
class CrossBlock(nn.Module):
    r"""Adds to the residual stream what it sees of the target so far, then of the source, then the mlp's word."""

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.width, config.norm_epsilon)
        self.attention = Attention(config)
        self.cross_norm = RMSNorm(config.width, config.norm_epsilon)
        self.cross = CrossAttention(config)
        self.mlp_norm = RMSNorm(config.width, config.norm_epsilon)
        self.mlp = SwiGLU(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        turn: Rotation,
        attend: Attend,
        look: Look,
        cache: LayerCache | None = None,
    ) -> Float[Tensor, "B T D"]:
        x = x + self.dropout(self.attention(self.attention_norm(x), turn, attend, cache))
        x = x + self.dropout(self.cross(self.cross_norm(x), look.keys, look.values, look.attend))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))

    if TYPE_CHECKING:
        __call__ = forward
