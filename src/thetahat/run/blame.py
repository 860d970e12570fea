"""Which sequences, or which parameters, made a step non-finite."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from thetahat.core.batch import Batch, Inputs
from thetahat.core.errors import NonFiniteError
from thetahat.core.visibility import Visibility
from thetahat.model.precision import computing_in
from thetahat.objective.objective import log_likelihood
from thetahat.run.state import State


def non_finite_error(state: State, batches: Sequence[Batch], divisor: float) -> NonFiniteError:
    """The error that names step and culprits, after reading each sequence alone.

    Alone, since a NaN reaches its row-mates through a masked product (0 x NaN), so in company all look sick.
    """
    where = f"step {state.step + 1}: the likelihood or its gradient is not finite; nothing was updated"
    if sick := _sick_parameters(state):
        return NonFiniteError(f"{where}. Already non-finite before it: {', '.join(sick[:5])}", cure=_CURE)
    alone = [pair for batch in batches for pair in _sequences(batch)]
    named = list(dict.fromkeys(name for name, batch in alone if not _is_finite(state, batch, divisor)))
    if not named:
        return NonFiniteError(f"{where}. No sequence of this rank is at fault alone: their sum overflows", cure=_CURE)
    more = f" and {len(named) - 8} more" if len(named) > 8 else ""
    return NonFiniteError(f"{where}. Sequences: {', '.join(named[:8])}{more}", cure=_CURE)


_CURE = "a lower learning rate or dtype=float32; look at the named text; the last checkpoint is intact"


def check_parameters(state: State) -> None:
    """Raises NonFiniteError where the last update overflowed, so that no such checkpoint is ever saved."""
    if sick := _sick_parameters(state):
        what = f"the update of step {state.step} made parameters non-finite: {', '.join(sick[:5])}; it is not saved"
        raise NonFiniteError(what, cure=_CURE)


def _sick_parameters(state: State) -> list[str]:
    return [name for name, value in state.model.named_parameters() if not torch.isfinite(value).all()]


def _is_finite(state: State, batch: Batch, divisor: float) -> bool:
    state.optimizer.zero_grad()
    with computing_in(state.config.dtype, state.device):
        total = log_likelihood(state.model, batch.to(state.device), state.log_probs)
    (total.log_prob / divisor).backward()
    gradients = [parameter.grad for parameter in state.model.parameters() if parameter.grad is not None]
    state.optimizer.zero_grad()
    return bool(torch.isfinite(total.log_prob)) and all(bool(torch.isfinite(g).all()) for g in gradients)


def _sequences(batch: Batch) -> Iterator[tuple[str, Batch]]:
    """Each piece of a batch as a batch of its own."""
    piece = batch.inputs.visibility.piece
    for number in piece.unique().tolist():
        if number < 0:
            continue
        rows, columns = (piece == number).nonzero(as_tuple=True)

        def pick(values: Tensor, at: tuple[Tensor, Tensor] = (rows, columns)) -> Tensor:
            return values[at][None]

        inputs = Inputs(
            pick(batch.inputs.tokens),
            pick(batch.inputs.position),
            Visibility(torch.zeros_like(pick(piece)), is_causal=batch.inputs.visibility.is_causal, is_plain=True),
        )
        part = pick(batch.part)
        alone = Batch(inputs, pick(batch.targets), pick(batch.weights), part, pick(batch.origin), batch.parts)
        yield batch.parts[int(part[0, 0])].id, alone
