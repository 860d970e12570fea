"""Finds the sequences or the parameters that made a step non-finite."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from thetahat.core.batch import Batch, Inputs, Source
from thetahat.core.errors import NonFiniteError
from thetahat.model.precision import computing_in
from thetahat.objective.objective import log_likelihood
from thetahat.run.state import State


def non_finite_error(state: State, batches: Sequence[Batch], divisor: float) -> NonFiniteError:
    """The error that names the step and its causes, found by reading each sequence alone.

    In a shared row a NaN reaches the other sequences through a masked product (0 x NaN), so all would look non-finite.
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
    """Raises NonFiniteError if the last update overflowed, so that no such checkpoint is saved."""
    if sick := _sick_parameters(state):
        what = f"the update of step {state.step} made parameters non-finite: {', '.join(sick[:5])}; it is not saved"
        raise NonFiniteError(what, cure=_CURE)


def _sick_parameters(state: State) -> list[str]:
    return [name for name, value in state.model.named_parameters() if not torch.isfinite(value).all()]


def _is_finite(state: State, batch: Batch, divisor: float) -> bool:
    state.optimizer.zero_grad()
    with computing_in(state.config.dtype, state.device):
        total = log_likelihood(state.model, batch.to(state.device), state.kernel)
    (total.log_prob / divisor).backward()
    gradients = [parameter.grad for parameter in state.model.parameters() if parameter.grad is not None]
    state.optimizer.zero_grad()
    return bool(torch.isfinite(total.log_prob)) and all(bool(torch.isfinite(g).all()) for g in gradients)


def _sequences(batch: Batch) -> Iterator[tuple[str, Batch]]:
    """Each sequence of a batch as a batch of its own: a piece with its ancestors, branches and encoder input."""
    inputs, root = batch.inputs, batch.inputs.visibility.root()
    for number in root[root >= 0].unique().tolist():
        at = (root == number).nonzero(as_tuple=True)
        part = batch.part[at][None]
        whole = (batch.targets, batch.weights, batch.origin, batch.num_bytes)
        targets, weights, origin, num_bytes = (values[at][None] for values in whole)
        source = None if inputs.source is None else _source(inputs.source, at)
        alone = Batch(_picked(inputs, at, source), targets, weights, part, origin, num_bytes, batch.parts)
        yield batch.parts.named([int(part[0, 0])])[0].id, alone


def _picked(inputs: Inputs, at: tuple[Tensor, ...], source: Source | None = None) -> Inputs:
    visibility = inputs.visibility
    is_open = None if visibility.is_open is None else visibility.is_open[at][None]
    seen = replace(visibility, piece=visibility.piece[at][None], is_open=is_open, is_plain=False, lengths=(len(at[0]),))
    return Inputs(inputs.tokens[at][None], inputs.position[at][None], seen, source)


def _source(source: Source, at: tuple[Tensor, ...]) -> Source:
    piece = source.piece[at][None]
    return Source(
        _picked(source.inputs, torch.isin(source.inputs.visibility.piece, piece).nonzero(as_tuple=True)), piece
    )
