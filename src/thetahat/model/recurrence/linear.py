"""Linear attention: a sum of keys and values in place of all of them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import elu, logsigmoid, pad, silu

from thetahat.model.config import LinearMixer, TransformerConfig
from thetahat.model.law import BIAS, MATRIX, VALUES, WRITER, Law
from thetahat.model.layers.norm import norm_of
from thetahat.model.precision import in_full
from thetahat.model.recurrence.chunks import Chunks
from thetahat.model.recurrence.scan import decayed_sum
from thetahat.model.recurrence.state import LayerState

SLOWEST = 16.0
"""What the log of a learned decay is divided by, so that it begins near 1: Yang et al., 2023 (arXiv 2312.06635)."""


@final
class LinearAttention(nn.Module):
    r"""$S_t = \lambda_t S_{t-1} + \phi(k_t) v_t^\top$, read as $\phi(q_t)^\top S_t$, for each head.

    Without decay $\phi(x) = \mathrm{elu}(x) + 1$, and what is read is divided by $\phi(q_t)^\top \sum_j \phi(k_j)$
    (Katharopoulos et al., Transformers are RNNs, 2020, arXiv 2006.16236). A fixed decay is $1 - 2^{-5-h}$ for head h
    (Sun et al., RetNet, 2023, arXiv 2307.08621), a learned one $\sigma(W x_t + b)^{1/16}$ (gated linear attention,
    arXiv 2312.06635, with one decay a head). With either, $\phi$ is the identity, keys are divided by $\sqrt{K}$, and
    what is read is normalised over each head and multiplied by a gate, $\mathrm{silu}(W x_t)$.
    """

    laws: ClassVar[Mapping[str, Law]] = {
        **{f"{name}.weight": MATRIX for name in ("query", "key", "gate", "rate")},
        "value.weight": VALUES,
        "output.weight": WRITER,
        "rate.bias": BIAS,
    }

    def __init__(self, config: TransformerConfig, mixer: LinearMixer) -> None:
        super().__init__()
        self.decay, self.num_heads = mixer.decay, config.num_heads
        inside = config.num_heads * config.head_width
        self.query, self.key, self.value = (nn.Linear(config.width, inside, bias=False) for _ in range(3))
        self.output = nn.Linear(inside, config.width, bias=False)
        self.norm = self.gate = self.rate = None
        if mixer.decay != "none":
            self.norm, self.gate = norm_of(config, config.head_width), nn.Linear(config.width, inside, bias=False)
        if mixer.decay == "learned":
            self.rate = nn.Linear(config.width, config.num_heads)

    def forward(
        self, x: Float[Tensor, "B T D"], way: Chunks, state: LayerState | None = None
    ) -> Float[Tensor, "B T D"]:
        row = way.whole(x)
        laid = (way.lay(one(row)).unflatten(-1, (self.num_heads, -1)) for one in (self.query, self.key, self.value))
        with in_full(x) as full:
            q, k, v = map(full, laid)
            before = None if state is None else state.state
            log_decay = self._log_decay(row, way)
            mixed, last = self._mixed(q, k, v, None if log_decay is None else full(log_decay), way, before)
        if state is not None:
            state.state = last
        read = way.restore(mixed.flatten(2)).to(x.dtype)
        if self.norm is not None and self.gate is not None:
            read = self.norm(read.unflatten(-1, (self.num_heads, -1))).flatten(2) * silu(self.gate(x))
        return self.output(read)

    def _mixed(
        self, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None, way: Chunks, before: Tensor | None
    ) -> tuple[Float[Tensor, "U W H O"], Tensor | None]:
        if self.decay != "none":
            return decayed_sum(q, k * k.shape[-1] ** -0.5, v, log_decay, way.rounds, before)
        is_there = way.is_there[..., None, None]
        k = (elu(k) + 1).masked_fill(~is_there, 0.0)
        counted = pad(v, (0, 1), value=1.0)  # the sum of weights is one more value
        sums, last = decayed_sum(elu(q) + 1, k, counted, log_decay, way.rounds, before)
        weight = sums[..., -1:].masked_fill(~is_there, 1.0)
        return sums[..., :-1] / weight, last

    def _log_decay(self, row: Float[Tensor, "B T D"], way: Chunks) -> Float[Tensor, "U W H"] | None:
        if self.rate is not None:
            return way.lay(logsigmoid(self.rate(row)) / SLOWEST)
        if self.decay == "none":
            return None
        head = torch.arange(self.num_heads, device=row.device, dtype=torch.float64)
        each = torch.log1p(-torch.exp2(-5 - head)).to(torch.promote_types(row.dtype, torch.float32))
        return each.expand(*way.place.shape, -1).masked_fill(~way.is_there[..., None], 0.0)

    if TYPE_CHECKING:
        __call__ = forward
