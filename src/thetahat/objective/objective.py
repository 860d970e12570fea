"""L and Σ: the weighted log-likelihood of a batch under a model."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from thetahat.core.batch import Batch, Inputs
from thetahat.core.total import Total
from thetahat.objective.log_prob import Head, Kernel, Told, reference

Note = Callable[[Batch, Told], None]  # is called with what the kernel computed for the targets of a batch


@runtime_checkable
class Model(Protocol):
    """What the objective needs from a model: hidden states, and a head that turns them into logits."""

    def hidden(self, inputs: Inputs) -> Float[Tensor, "B T D"]:
        """One state for each position."""
        ...

    @property
    def head(self) -> Head:
        """Turns hidden states into logits, of every token or of those in a slice of the vocabulary."""
        ...


def log_likelihood(model: Model, batch: Batch, kernel: Kernel = reference, note: Note | None = None) -> Total:
    r"""$\sum_i w_i \log \Pr_\theta(t_i \mid \mathrm{visible}_i)$ and $\sum_i w_i$ over the batch, in float64.

    Divide by the weight of the *global* batch, not by this one's: then the value and the gradient do not depend on how
    the global batch was cut.
    """
    hidden_ND, targets_N, weights_N = (
        model.hidden(batch.inputs).flatten(0, 1),
        batch.targets.flatten(),
        batch.weights.flatten(),
    )
    if batch.supervised is not None:  # no logits where the loss weight is 0
        hidden_ND, targets_N, weights_N = (values[batch.supervised] for values in (hidden_ND, targets_N, weights_N))
    told = kernel(hidden_ND, model.head, targets_N)
    if note:
        note(batch, Told(*(values.detach() for values in told)))
    return Total((weights_N * told.log_prob.to(torch.float64)).sum(), batch.weight())
