"""L and Σ: the weighted log-likelihood of a batch under a model."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from thetahat.core.batch import Batch, Inputs
from thetahat.core.total import Total
from thetahat.objective.log_prob import LogProbs, token_log_probs

Note = Callable[[Batch, Tensor], None]  # is told the log-probability of each asked token of a batch


@runtime_checkable
class Model(Protocol):
    """What the objective needs of a model: hidden states, and logits from them."""

    def hidden(self, inputs: Inputs) -> Float[Tensor, "B T D"]:
        """One state a position."""
        ...

    def logits(self, hidden: Float[Tensor, "N D"], tokens: slice | None = None) -> Float[Tensor, "N V"]:
        """Unnormalised log-probabilities of every token, or of those in a slice of the vocabulary."""
        ...

    @property
    def num_outputs(self) -> int:
        """How many tokens, or labels, have logits."""
        ...


def log_likelihood(
    model: Model, batch: Batch, log_probs: LogProbs = token_log_probs, note: Note | None = None
) -> Total:
    r"""$\sum_i w_i \log \Pr_\theta(t_i \mid \mathrm{visible}_i)$ and $\sum_i w_i$ over the batch, in float64.

    Divide by the weight of the *global* batch, not by this one's: then the value and the gradient do not depend on how
    the global batch was cut.
    """
    hidden_ND, targets_N, weights_N = (
        model.hidden(batch.inputs).flatten(0, 1),
        batch.targets.flatten(),
        batch.weights.flatten(),
    )
    if batch.asked is not None:  # what counts for nothing needs no logits
        hidden_ND, targets_N, weights_N = (values[batch.asked] for values in (hidden_ND, targets_N, weights_N))
    log_probs_N = log_probs(hidden_ND, model.logits, targets_N)
    if note:
        note(batch, log_probs_N.detach())
    return Total((weights_N * log_probs_N.to(torch.float64)).sum(), batch.weight())
