"""The gated delta rule: what a key stands for is replaced, not added to."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import silu, softplus

from thetahat.model.config import DeltaMixer, TransformerConfig
from thetahat.model.law import MATRIX, RATE, STEP, VALUES, WRITER, Law
from thetahat.model.layers.norm import norm_of
from thetahat.model.precision import in_full
from thetahat.model.recurrence.chunks import Chunks
from thetahat.model.recurrence.conv import ShortConv
from thetahat.model.recurrence.scan import delta_rule
from thetahat.model.recurrence.state import LayerState

SHORTEST = 1e-6
"""What is added to the square of a length, so that the direction of next to nothing is next to nothing, too."""


@final
class GatedDelta(nn.Module):
    r"""$S_t = \lambda_t (I - \beta_t k_t k_t^\top) S_{t-1} + \beta_t k_t v_t^\top$ for each head, read by $q_t$.

    Queries, keys and values pass a short convolution; queries and keys are divided by their length (`SHORTEST`), and
    queries by $\sqrt{K}$, too. $\beta_t = \sigma(W x_t)$ is how far a key's old value is replaced, and
    $\ln \lambda_t = -e^{a} \mathrm{softplus}(W' x_t + b)$ what is forgotten of all; without decay it is 0. What is read
    is normalised over each head and multiplied by a gate, $\mathrm{silu}(W'' x_t)$. Yang et al., Gated Delta Networks,
    2024 (arXiv 2412.06464).
    """

    laws: ClassVar[Mapping[str, Law]] = {
        **{f"{name}.weight": MATRIX for name in ("query", "key", "gate", "beta", "decay")},
        "value.weight": VALUES,
        "output.weight": WRITER,
        "log_rate": RATE,
        "step_bias": STEP,
    }

    def __init__(self, config: TransformerConfig, mixer: DeltaMixer) -> None:
        super().__init__()
        heads, value_width = config.num_heads, mixer.value_width or config.head_width
        keys, values = heads * config.head_width, heads * value_width
        self.num_heads, self.widths = heads, (keys, keys, values)
        self.query, self.key = (nn.Linear(config.width, keys, bias=False) for _ in range(2))
        self.value, self.gate = (nn.Linear(config.width, values, bias=False) for _ in range(2))
        self.beta = nn.Linear(config.width, heads, bias=False)
        self.decay = self.log_rate = self.step_bias = None
        if mixer.has_decay:
            self.decay = nn.Linear(config.width, heads, bias=False)
            self.log_rate, self.step_bias = (nn.Parameter(torch.empty(heads)) for _ in range(2))
        self.conv = ShortConv(sum(self.widths), mixer.conv)
        self.norm = norm_of(config, value_width)
        self.output = nn.Linear(values, config.width, bias=False)

    def forward(
        self, x: Float[Tensor, "B T D"], way: Chunks, state: LayerState | None = None
    ) -> Float[Tensor, "B T D"]:
        row = way.whole(x)
        read = torch.cat([self.query(row), self.key(row), self.value(row)], -1)
        laid = self.conv(read, way, state).split(self.widths, -1)
        with in_full(x) as full:
            q, k, v = (full(one).unflatten(-1, (self.num_heads, -1)) for one in laid)
            q, k = _unit(q) * q.shape[-1] ** -0.5, _unit(k)
            rates = way.lay(full(self.beta(row)).sigmoid()), way.lay(full(self._log_decay(row)))
            before = None if state is None else state.state
            mixed, last = delta_rule(q, k, v, rates, way.rounds, before)
        if state is not None:
            state.state = last
        heads = way.restore(mixed.flatten(2)).to(x.dtype).unflatten(-1, (self.num_heads, -1))
        return self.output(self.norm(heads).flatten(2) * silu(self.gate(x)))

    def _log_decay(self, row: Float[Tensor, "B T D"]) -> Float[Tensor, "B T H"]:
        if self.decay is None or self.log_rate is None or self.step_bias is None:
            return row.new_zeros(*row.shape[:2], self.num_heads)
        return -self.log_rate.exp() * softplus(self.decay(row) + self.step_bias)

    if TYPE_CHECKING:
        __call__ = forward


def _unit(x: Float[Tensor, "U W H K"]) -> Float[Tensor, "U W H K"]:
    return x * (x.square().sum(-1, keepdim=True) + SHORTEST).rsqrt()
