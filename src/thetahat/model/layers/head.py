"""What all three families end with: one matrix that turns hidden states into logits, and what may stand before it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear

from thetahat.model.config import TransformConfig, TransformerConfig
from thetahat.model.law import BIAS, HEAD, HEAD_BIAS, MATRIX, Law
from thetahat.model.layers.mlp import ACTIVATIONS
from thetahat.model.layers.norm import norm_of


@final
class Head(nn.Module):
    r"""$z = W h + b$, or $c \tanh((W h + b) / c)$ with a soft cap c: one logit a token of the vocabulary, or a label.

    W [V D] may be the table of the embedding. The cap is Gemma 2's (Gemma Team, 2024, arXiv 2408.00118). A head of a
    model of your own has values at once: a normal distribution of variance 1 / D for W, 0 for b.
    """

    weight: Tensor

    laws: ClassVar[Mapping[str, Law]] = {"weight": HEAD, "bias": HEAD_BIAS}

    def __init__(self, width: int, num_outputs: int, *, has_bias: bool = False, cap: float | None = None) -> None:
        super().__init__()
        weight = torch.empty(num_outputs, width)
        if not weight.is_meta:  # there, drawing imports the compiler
            weight.normal_(std=width**-0.5)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(num_outputs)) if has_bias else None
        self.cap = cap

    def forward(self, hidden: Float[Tensor, "*axes D"], tokens: slice | None = None) -> Float[Tensor, "*axes V"]:
        """Unnormalised log-probabilities of every token of the vocabulary, or of every label, or of a slice of them."""
        return self.capped(self.uncapped(hidden, tokens))

    def uncapped(self, hidden: Float[Tensor, "*axes D"], tokens: slice | None = None) -> Float[Tensor, "*axes V"]:
        r"""$W h + b$."""
        weight, bias = self.weight, self.bias
        if tokens is not None:
            weight, bias = weight[tokens], None if bias is None else bias[tokens]
        return linear(hidden, weight, bias)

    def capped(self, logits: Float[Tensor, "*axes V"]) -> Float[Tensor, "*axes V"]:
        """With the soft cap, where there is one."""
        return logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)

    @property
    def num_outputs(self) -> int:
        """V: how many tokens, or labels, have logits."""
        return len(self.weight)

    if TYPE_CHECKING:
        __call__ = forward


@final
class Transform(nn.Module):
    r"""$\mathrm{norm}(f(W h + b))$ between the last block and the head (BERT, Devlin et al., arXiv 1810.04805)."""

    laws: ClassVar[Mapping[str, Law]] = {"linear.weight": MATRIX, "linear.bias": BIAS}

    def __init__(self, config: TransformerConfig, transform: TransformConfig) -> None:
        super().__init__()
        width = config.embedding.width or config.width
        self.linear = nn.Linear(config.width, width, bias=transform.has_bias)
        self.activation = ACTIVATIONS[transform.activation]
        self.norm = norm_of(config, width) if transform.has_norm else nn.Identity()

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T E"]:
        return self.norm(self.activation(self.linear(x)))

    if TYPE_CHECKING:
        __call__ = forward
