"""What all three families end with: one matrix that turns hidden states into logits."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear


class Headed(nn.Module):
    """A model with a head, which may be tied to its embedding."""

    head: nn.Linear  # [V D], of every token of the vocabulary, or of every label

    def logits(self, hidden: Float[Tensor, "N D"], tokens: slice | None = None) -> Float[Tensor, "N V"]:
        """Unnormalised log-probabilities of every token of the vocabulary, or of every label, or of some."""
        return linear(hidden, self.head.weight if tokens is None else self.head.weight[tokens])

    @property
    def num_outputs(self) -> int:
        """How many tokens, or labels, have logits."""
        return len(self.head.weight)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.head.weight.device
