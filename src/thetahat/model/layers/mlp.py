"""The feed-forward network, and the functions between its matrices."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, ClassVar, final

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import gelu, relu, silu

from thetahat.model.config import Activation, TransformerConfig
from thetahat.model.law import BIAS, MATRIX, VALUES, WRITER, WRITER_BIAS, Law


def squared_relu(x: Tensor) -> Tensor:
    r"""$\max(x, 0)^2$: So et al., Primer, 2021 (arXiv 2109.08668)."""
    return relu(x).square()


ACTIVATIONS: Mapping[Activation, Callable[[Tensor], Tensor]] = {
    "silu": silu,
    "gelu": gelu,
    "gelu_tanh": partial(gelu, approximate="tanh"),
    "relu": relu,
    "relu2": squared_relu,
}


@final
class MLP(nn.Module):
    r"""$W_\mathrm{down}\left(f(W_\mathrm{gate}\,x) \odot W_\mathrm{up}\,x\right)$; the gate may be absent.

    f is the activation; each matrix may have a bias. With silu and a gate it is SwiGLU: Shazeer, GLU Variants Improve
    Transformer, 2020 (arXiv 2002.05202).
    """

    laws: ClassVar[Mapping[str, Law]] = {
        "gate.weight": MATRIX,
        "up.weight": VALUES,
        "down.weight": WRITER,
        **{f"{name}.bias": BIAS for name in ("gate", "up")},
        "down.bias": WRITER_BIAS,
    }

    def __init__(self, config: TransformerConfig, inner_width: int | None = None) -> None:
        super().__init__()
        bias, inner = config.mlp.has_bias, inner_width or config.inner_width
        self.gate = nn.Linear(config.width, inner, bias=bias) if config.mlp.is_gated else None
        self.up = nn.Linear(config.width, inner, bias=bias)
        self.down = nn.Linear(inner, config.width, bias=bias)
        self.activation = ACTIVATIONS[config.mlp.activation]

    def forward(self, x: Float[Tensor, "*axes D"]) -> Float[Tensor, "*axes D"]:
        if self.gate is None:
            return self.down(self.activation(self.up(x)))
        return self.down(self.activation(self.gate(x)) * self.up(x))

    if TYPE_CHECKING:
        __call__ = forward
