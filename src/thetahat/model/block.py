"""One layer: what every family is composed of."""

from functools import partial
from typing import TYPE_CHECKING, NamedTuple, final

from jaxtyping import Float
from torch import Tensor, nn

from thetahat.model.attention.attention import Attention, Memory, Way
from thetahat.model.attention.cache import LayerCache
from thetahat.model.attention.latent import LatentAttention
from thetahat.model.config import (
    AttentionMixer,
    DeltaMixer,
    LatentMixer,
    LinearMixer,
    Placement,
    StateSpaceMixer,
    TransformerConfig,
)
from thetahat.model.layers.experts import network_of
from thetahat.model.layers.norm import norm_of
from thetahat.model.layers.residual import law_in_branch, residual_of
from thetahat.model.recurrence.chunks import Chunks
from thetahat.model.recurrence.delta import GatedDelta
from thetahat.model.recurrence.linear import LinearAttention
from thetahat.model.recurrence.state import LayerState
from thetahat.model.recurrence.state_space import StateSpace

PLACES: dict[Placement, tuple[str, ...]] = {
    "pre": ("before",),
    "post": ("sum",),
    "sandwich": ("before", "out"),
    "branch": ("out",),
    "parallel": ("before",),
    "none": (),
}
"""Where the norms of a block stand: before f, behind it, or behind the sum with the residual stream."""


def mixing(config: TransformerConfig, layer: int, num_tokens: int = 0) -> nn.Module:
    """What mixes positions in a layer: it is called with x, how it reads the batch, and what it has kept."""
    match mixer := config.mixer(layer):
        case AttentionMixer():
            return Attention(config, num_tokens, is_reader=config.keys_of(layer) != layer)
        case LatentMixer():
            return LatentAttention(config, mixer)
        case LinearMixer():
            return LinearAttention(config, mixer)
        case DeltaMixer():
            return GatedDelta(config, mixer)
        case StateSpaceMixer():
            return StateSpace(config, mixer)


class OfSource(NamedTuple):
    """A source as one layer reads it, and how."""

    memory: Memory
    way: Way


@final
class Block(nn.Module):
    r"""$x \leftarrow \mathrm{sum}(x + \mathrm{out}(f(\mathrm{before}(x))))$ for f the attention, then for the network.

    `before`, `out` and `sum` are norms, or nothing: the placement says which. A block that `reads_source` has the
    attention to it in between (Vaswani et al., 2017, arXiv 1706.03762, whose norms are those of `post`). In `parallel`,
    attentions and network read the same x (GPT-NeoX, Black et al., 2022, arXiv 2204.06745). `layers/residual.py` has
    the sums with scales.
    """

    def __init__(
        self, config: TransformerConfig, *, reads_source: bool = False, layer: int = 0, num_tokens: int = 0
    ) -> None:
        super().__init__()

        def norm(place: str) -> nn.Module:
            return norm_of(config, config.width) if place in PLACES[config.placement] else nn.Identity()

        self.is_parallel = config.placement == "parallel"
        self.attention_norm = nn.Identity() if layer == 0 and config.skips_first_norm else norm("before")
        self.attention = mixing(config, layer, num_tokens)
        self.attention_out_norm, self.attention_sum_norm = norm("out"), norm("sum")
        self.attention_add = residual_of(config, reads_source=reads_source)
        if reads_source:
            self.cross_norm = norm("before")
            self.cross_attention = Attention(config)
            self.cross_out_norm, self.cross_sum_norm = norm("out"), norm("sum")
            self.cross_add = residual_of(config, reads_source=reads_source)
        self.mlp_norm = norm("before")
        self.mlp = network_of(config, layer)
        self.mlp_out_norm, self.mlp_sum_norm = norm("out"), norm("sum")
        self.mlp_add = residual_of(config, reads_source=reads_source)
        self.dropout = nn.Dropout(config.dropout)
        self.changes_law = partial(law_in_branch, config=config, reads_source=reads_source)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        way: Way | Chunks,
        cache: LayerCache | LayerState | None = None,
        source: OfSource | None = None,
    ) -> Float[Tensor, "B T D"]:
        read = self.dropout(self.attention_out_norm(self.attention(self.attention_norm(x), way, cache)))
        if self.is_parallel:
            total = self.attention_add(x, read)
            total = total if source is None else self.cross_add(total, self._of_source(x, source))
            return self.mlp_add(total, self._network(x))
        x = self.attention_sum_norm(self.attention_add(x, read))
        if source is not None:
            x = self.cross_sum_norm(self.cross_add(x, self._of_source(x, source)))
        return self.mlp_sum_norm(self.mlp_add(x, self._network(x)))

    def remember(self, states: Float[Tensor, "B S D"]) -> Memory:
        """What the attention to a source reads of it: its keys and values."""
        return self.cross_attention.remember(states)

    def _of_source(self, x: Float[Tensor, "B T D"], source: OfSource) -> Float[Tensor, "B T D"]:
        read = self.cross_attention(self.cross_norm(x), source.way, memory=source.memory)
        return self.dropout(self.cross_out_norm(read))

    def _network(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        return self.dropout(self.mlp_out_norm(self.mlp(self.mlp_norm(x))))

    if TYPE_CHECKING:
        __call__ = forward
