"""Attention from the positions of a decoder to the states of an encoder."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, NamedTuple, final

from jaxtyping import Float, Int
from torch import Tensor, nn

from thetahat.model.attention.kernels import Attend
from thetahat.model.config import TransformerConfig
from thetahat.model.law import MATRIX, WRITER, Law
from thetahat.model.norm import RMSNorm


class Memory(NamedTuple):
    """The keys and values of a source in one layer, made once however often they are read."""

    keys: Float[Tensor, "B G S K"]
    values: Float[Tensor, "B G S K"]

    def select(self, rows: Int[Tensor, " B"]) -> "Memory":
        """These rows, in this order."""
        return Memory(self.keys[rows], self.values[rows])


@final
class CrossAttention(nn.Module):
    r"""$\mathrm{softmax}\left(q k^\top / \sqrt{K}\right) v$ for each head, joined and projected.

    $q$ is of the decoder's positions, $k$ and $v$ of the encoder's states.
    Queries and keys are normalised over the head width; nothing is rotated, since the two sides count positions apart.
    """

    laws: ClassVar[Mapping[str, Law]] = {
        "query.weight": MATRIX,
        "key.weight": MATRIX,
        "value.weight": MATRIX,
        "output.weight": WRITER,
    }

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.head_width = config.head_width
        self.query = nn.Linear(config.width, config.num_heads * config.head_width, bias=False)
        self.key = nn.Linear(config.width, config.num_kv_heads * config.head_width, bias=False)
        self.value = nn.Linear(config.width, config.num_kv_heads * config.head_width, bias=False)
        self.output = nn.Linear(config.num_heads * config.head_width, config.width, bias=False)
        self.query_norm = RMSNorm(config.head_width, config.norm_epsilon)
        self.key_norm = RMSNorm(config.head_width, config.norm_epsilon)

    def remember(self, states: Float[Tensor, "B S D"]) -> Memory:
        """What this layer reads of the encoder's states."""
        heads = (-1, self.head_width)
        k_BSGK = self.key_norm(self.key(states).unflatten(-1, heads))
        v_BSGK = self.value(states).unflatten(-1, heads)
        return Memory(k_BSGK.transpose(1, 2), v_BSGK.transpose(1, 2))

    def forward(self, x: Float[Tensor, "B T D"], memory: Memory, attend: Attend) -> Float[Tensor, "B T D"]:
        q_BTHK = self.query_norm(self.query(x).unflatten(-1, (-1, self.head_width)))
        return self.output(attend(q_BTHK.transpose(1, 2), *memory).transpose(1, 2).flatten(2))

    if TYPE_CHECKING:
        __call__ = forward
