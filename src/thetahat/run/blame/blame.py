"""Finds the sequences, the modules or the parameters that made a step non-finite."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from thetahat.core.errors import NonFiniteError
from thetahat.distribution import heartbeat
from thetahat.distribution.pieces import piece, sum_over_pieces, undivided
from thetahat.distribution.world import MicroBatch
from thetahat.optimization.foreach import together
from thetahat.run.blame.alone import alone_in, noise_of
from thetahat.run.blame.first import Fault, first_fault
from thetahat.run.state import State

SHOWN = 8  # sequences of an error


@dataclass(frozen=True, slots=True)
class Culprit:
    """A sequence that is not finite where it is read alone."""

    id: str
    rank: int
    fault: Fault
    tokens: tuple[int, ...]  # that the model reads


@dataclass(frozen=True, slots=True)
class Blame:
    """What made a step non-finite."""

    parameters: tuple[str, ...]  # that were non-finite before it; if there are any, nothing else was looked for
    culprits: tuple[Culprit, ...]  # in the order of the step

    @property
    def module(self) -> str:
        """Where the first such sequence is not finite first; empty: it is not known."""
        return self.culprits[0].fault.module if self.culprits else ""

    def __str__(self) -> str:
        """In one line."""
        if self.parameters:
            return f"Already non-finite before it: {', '.join(self.parameters[:5])}"
        if not self.culprits:
            return "No sequence that was read here is at fault alone: their sum overflows"
        names, first = list(dict.fromkeys(one.id for one in self.culprits)), self.culprits[0]
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        return f"Sequences: {', '.join(names[:SHOWN])}{more}; first in {first.fault} of {first.id}"


def blame(state: State, batches: Sequence[MicroBatch], divisor: float) -> Blame:
    """What makes the step of these micro-batches non-finite, found by reading each sequence alone.

    In a shared row a NaN reaches the other sequences through a masked product (0 x NaN), so all would look non-finite.
    """
    sick = _sick_parameters(state)
    if sick:
        return Blame(tuple(sick), ())
    with undivided(state.model):  # each rank reads its own sequences, in its own time
        return Blame((), tuple(_culprits(state, batches, divisor)))


def _culprits(state: State, batches: Sequence[MicroBatch], divisor: float) -> Iterator[Culprit]:
    for micro in batches:
        noise = noise_of(state, state.step, micro)
        for alone in alone_in(micro.batch.whole or micro.batch):
            if (fault := first_fault(state, alone, divisor, noise)) is not None:
                yield Culprit(alone.id, micro.rank, fault, tuple(alone.batch.inputs.tokens[0].tolist()))


def non_finite_error(state: State, batches: Sequence[MicroBatch], divisor: float) -> NonFiniteError:
    """The error that names the step and its causes."""
    heartbeat.at("search for what is not finite")
    step = f"step {state.step + 1}: the likelihood or its gradient is not finite; nothing was updated"
    found = blame(state, batches, divisor)
    return NonFiniteError(f"{step}. {found}", cure=_CURE, module=found.module)


_CURE = "a lower learning rate or dtype=float32; look at the named text; the last checkpoint is intact"


def check_parameters(state: State) -> None:
    """Raises NonFiniteError if the last update overflowed, so that no such checkpoint is saved."""
    if sick := _sick_parameters(state):
        what = f"the update of step {state.step} made parameters non-finite: {', '.join(sick[:5])}; it is not saved"
        raise NonFiniteError(what, cure=_CURE)


def _sick_parameters(state: State) -> list[str]:
    named = list(state.model.named_parameters())
    values = [value for _, value in named]
    counts = together([(~torch.isfinite(piece(value))).sum() for value in values])
    sick = sum_over_pieces(counts, values).tolist()
    return [name for (name, _), count in zip(named, sick, strict=True) if count]
