"""Attention with grouped queries, QK-norm and rotary positions; who sees whom is handed in."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, final

from jaxtyping import Float
from torch import Tensor, nn

from thetahat.model.attention.cache import LayerCache
from thetahat.model.attention.kernels import Attend
from thetahat.model.config import TransformerConfig
from thetahat.model.law import MATRIX, WRITER, Law
from thetahat.model.norm import RMSNorm
from thetahat.model.rope import Rotation, rotate


@final
class Attention(nn.Module):
    r"""$\mathrm{softmax}\left(q k^\top / \sqrt{K}\right) v$ for each head, joined and projected.

    Queries and keys are normalised over the head width before the rotation (Qwen3, arXiv 2505.09388).
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

    def forward(
        self, x: Float[Tensor, "B T D"], rotation: Rotation, attend: Attend, cache: LayerCache | None = None
    ) -> Float[Tensor, "B T D"]:
        heads = (-1, self.head_width)
        q_BTHK = rotate(self.query_norm(self.query(x).unflatten(-1, heads)), rotation)
        k_BTGK = rotate(self.key_norm(self.key(x).unflatten(-1, heads)), rotation)
        v_BTGK = self.value(x).unflatten(-1, heads)
        q, k, v = (projected.transpose(1, 2) for projected in (q_BTHK, k_BTGK, v_BTGK))
        if cache is not None:
            k, v = cache.append(k, v)
        return self.output(attend(q, k, v).transpose(1, 2).flatten(2))

    if TYPE_CHECKING:
        __call__ = forward
