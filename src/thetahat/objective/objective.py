"""L and Σ: the weighted log-likelihood of a batch under a model, and what may be subtracted from it in training."""

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float, Float64
from torch import Tensor

from thetahat.core.batch import Batch, Inputs
from thetahat.core.total import Total
from thetahat.core.work.regions import OBJECTIVE, region
from thetahat.objective.chunked import Chunked, squares, weighed
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


class Terms(NamedTuple):
    """Sums over the targets of a batch. The likelihood is a term by itself, whatever is subtracted from it."""

    value: Float64[Tensor, ""]  # Σ w (log Pr - c (log Z)²), which has a gradient
    total: Total  # without one
    z_loss: Float64[Tensor, ""]  # Σ w (log Z)², without one


def log_likelihood(model: Model, batch: Batch, kernel: Kernel = reference, note: Note | None = None) -> Total:
    r"""$\sum_i w_i \log \Pr_\theta(t_i \mid \mathrm{visible}_i)$ and $\sum_i w_i$ over the batch, in float64.

    Divide by the weight of the *global* batch, not by this one's: then the value and the gradient do not depend on how
    the global batch was cut.
    """
    found = terms(model, batch, kernel, note)
    return Total(found.value, found.total.weight)


def terms(
    model: Model, batch: Batch, kernel: Kernel = reference, note: Note | None = None, z_loss: float = 0.0
) -> Terms:
    r"""The log-likelihood of a batch, and $c \sum_i w_i (\log Z_i)^2$ with c = `z_loss`, which is subtracted from it.

    $Z_i$ is the normalizer of target i. The penalty keeps logits where their arithmetic is precise, and their sum from
    drifting, which no likelihood sees: de Brébisson & Vincent, The Z-loss, 2016 (arXiv 1604.08859); Chowdhery et al.,
    PaLM, 2022 (arXiv 2204.02311).
    """
    hidden_ND, targets_N, weights_N = (
        model.hidden(batch.inputs).flatten(0, 1),
        batch.targets.flatten(),
        batch.weights.flatten(),
    )
    if batch.supervised is not None:  # no logits where the loss weight is 0
        hidden_ND, targets_N, weights_N = (values[batch.supervised] for values in (hidden_ND, targets_N, weights_N))
    with region(OBJECTIVE):
        if isinstance(kernel, Chunked):
            value, told = kernel.summed(hidden_ND, model.head, targets_N, weights_N, z_loss)
        else:
            told = kernel(hidden_ND, model.head, targets_N)
            value = weighed(told, weights_N, z_loss)
    told = Told(*(values.detach() for values in told))
    if note:
        note(batch, told)
    log_prob = weighed(told, weights_N) if z_loss else value.detach()
    return Terms(value, Total(log_prob, batch.weight()), squares(told, weights_N))
