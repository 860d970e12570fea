"""Mamba-2's state space layer."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import silu, softplus

from thetahat.model.config import StateSpaceMixer, TransformerConfig
from thetahat.model.law import GAIN, MATRIX, RATE, STEP, VALUES, WRITER, Law
from thetahat.model.layers.norm import norm_of
from thetahat.model.precision import in_full
from thetahat.model.recurrence.chunks import Chunks
from thetahat.model.recurrence.conv import ShortConv
from thetahat.model.recurrence.scan import decayed_sum
from thetahat.model.recurrence.state import LayerState


@final
class StateSpace(nn.Module):
    r"""$S_t = e^{-e^a \Delta_t} S_{t-1} + \Delta_t B_t x_t^\top$ for each head, read as $C_t^\top S_t + d\,x_t$.

    x, B and C pass a short convolution, B and C are those of all heads, and the length of a step is
    $\Delta_t = \mathrm{softplus}(W u_t + b)$ of the layer's input u. What is read is multiplied by a gate,
    $\mathrm{silu}(W' u_t)$, and normalised over all heads. Dao and Gu, Transformers are SSMs, 2024 (arXiv 2405.21060).
    """

    laws: ClassVar[Mapping[str, Law]] = {
        **{f"{name}.weight": MATRIX for name in ("key", "query", "gate", "step")},
        "value.weight": VALUES,
        "output.weight": WRITER,
        "log_rate": RATE,
        "step_bias": STEP,
        "skip": GAIN,
    }

    def __init__(self, config: TransformerConfig, mixer: StateSpaceMixer) -> None:
        super().__init__()
        inside = mixer.expansion * config.width
        self.head_width, self.widths = config.head_width, (inside, mixer.state_width, mixer.state_width)
        heads = inside // config.head_width
        self.value, self.gate = (nn.Linear(config.width, inside, bias=False) for _ in range(2))
        self.key, self.query = (nn.Linear(config.width, mixer.state_width, bias=False) for _ in range(2))
        self.step = nn.Linear(config.width, heads, bias=False)
        self.log_rate, self.step_bias, self.skip = (nn.Parameter(torch.empty(heads)) for _ in range(3))
        self.conv = ShortConv(sum(self.widths), mixer.conv, has_bias=True)
        self.norm = norm_of(config, inside)
        self.output = nn.Linear(inside, config.width, bias=False)

    def forward(
        self, x: Float[Tensor, "B T D"], way: Chunks, state: LayerState | None = None
    ) -> Float[Tensor, "B T D"]:
        row = way.whole(x)
        read = torch.cat([self.value(row), self.key(row), self.query(row)], -1)
        laid = self.conv(read, way, state).split(self.widths, -1)
        with in_full(x) as full:
            v, k, q = map(full, laid)
            v = v.unflatten(-1, (-1, self.head_width))
            step = way.lay(softplus(full(self.step(row)) + self.step_bias))
            before = None if state is None else state.state
            log_decay = -self.log_rate.exp() * step
            mixed, last = decayed_sum(q[:, :, None], k[:, :, None], v * step[..., None], log_decay, way.rounds, before)
            mixed = mixed + self.skip[:, None] * v
        if state is not None:
            state.state = last
        return self.output(self.norm(way.restore(mixed.flatten(2)).to(x.dtype) * silu(self.gate(x))))

    if TYPE_CHECKING:
        __call__ = forward
