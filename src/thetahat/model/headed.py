"""A stack whose states a head turns into logits."""

import torch
from jaxtyping import Float
from torch import Tensor

from thetahat.core.absent import is_absent
from thetahat.model.config import TransformerConfig
from thetahat.model.layers.head import Head, Transform
from thetahat.model.stack import Stack


class Headed(Stack):
    """A stack with a head, which may be tied to its table of tokens.

    Hidden states and logits are apart because the objective decides for which positions, and in which portions, logits
    exist at all. With `num_labels` the head is a matrix of its own, [num_labels, D], tied to nothing.
    """

    def __init__(
        self,
        config: TransformerConfig,
        vocab_size: int,
        num_labels: int = 0,
        *,
        is_causal: bool,
        encoder: Stack | None = None,
    ) -> None:
        super().__init__(config, config.num_layers, vocab_size, is_causal=is_causal, encoder=encoder)
        self.vocab_size = vocab_size
        choices = config.head
        self.transform = Transform(config, choices.transform) if choices.transform else None
        width = (config.embedding.width or config.width) if choices.transform else config.width
        self.head = Head(width, num_labels or vocab_size, has_bias=choices.has_bias, cap=choices.cap)
        if config.ties_embeddings and not num_labels:
            self.head.weight = self.embedding.weight

    def finished(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T E"]:
        """What the head reads of the last block's states."""
        x = x if self.transform is None else self.transform(x)
        return x if self.config.head.scale == 1 else x * self.config.head.scale

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        here = (parameter.device for parameter in self.parameters() if not is_absent(parameter))
        return next(here)
