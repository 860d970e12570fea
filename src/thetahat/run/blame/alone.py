"""Each sequence of a micro-batch read by itself, with the dropout that it had among the others."""

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn.functional import dropout

from thetahat.core.batch import Batch, Inputs, Source
from thetahat.core.random import derived_seed
from thetahat.core.work.eager import eagerly
from thetahat.distribution.world import MicroBatch
from thetahat.model.precision import computing_in
from thetahat.run.state import State

Places = tuple[Int[Tensor, "..."], Int[Tensor, "..."]]  # rows and columns
Noise = Mapping[str, list[Tensor]]  # what the output of each module of dropout is multiplied by, call by call


@dataclass(frozen=True, slots=True)
class Alone:
    """A sequence as a batch of its own: a piece with its ancestors, branches and encoder input."""

    id: str  # of its record
    batch: Batch  # on the host
    at: Places  # in the micro-batch
    source_at: Places | None  # in the source of the micro-batch


def alone_in(batch: Batch) -> Iterator[Alone]:
    """Each sequence of a batch, from the first to the last."""
    inputs, root = batch.inputs, batch.inputs.visibility.root()
    for number in root[root >= 0].unique().tolist():
        at = _places(root == number)
        part = batch.part[at][None]
        whole = (batch.targets, batch.weights, batch.origin, batch.num_bytes)
        targets, weights, origin, num_bytes = (values[at][None] for values in whole)
        source_at = None if inputs.source is None else _read_by(inputs.source, at)
        source = None if inputs.source is None or source_at is None else _source(inputs.source, at, source_at)
        alone = Batch(_picked(inputs, at, source), targets, weights, part, origin, num_bytes, batch.parts)
        yield Alone(batch.parts.named([int(part[0, 0])])[0].id, alone, at, source_at)


def _places(chosen: Tensor) -> Places:
    rows, columns = chosen.nonzero(as_tuple=True)
    return rows, columns


def _picked(inputs: Inputs, at: Places, source: Source | None = None) -> Inputs:
    visibility = inputs.visibility
    is_open = None if visibility.is_open is None else visibility.is_open[at][None]
    seen = replace(visibility, piece=visibility.piece[at][None], is_open=is_open, is_plain=False, lengths=(len(at[0]),))
    return Inputs(inputs.tokens[at][None], inputs.position[at][None], seen, source)


def _read_by(source: Source, at: Places) -> Places:
    return _places(torch.isin(source.inputs.visibility.piece, source.piece[at]))


def _source(source: Source, at: Places, source_at: Places) -> Source:
    return Source(_picked(source.inputs, source_at), source.piece[at][None])


def seed_dropout(state: State, step: int, micro: MicroBatch) -> None:
    """From here on dropout draws what it drew for this micro-batch in the update after `step` updates."""
    torch.manual_seed(derived_seed(state.config.seed, "dropout", step, micro.rank, micro.index))


def noise_of(state: State, step: int, micro: MicroBatch) -> Noise:
    """What dropout did to this micro-batch in the update after `step` updates; nothing where there is no dropout."""
    noise: dict[str, list[Tensor]] = {}

    def drawn(name: str, p: float, x: Tensor) -> Tensor:
        factor = dropout(torch.ones_like(x), p)
        noise.setdefault(name, []).append(factor)
        return x * factor

    if any(True for _ in _dropouts(state.model)):
        seed_dropout(state, step, micro)
        with torch.no_grad(), _dropping(state.model, drawn), computing(state):
            state.model.hidden(micro.batch.to(state.device).inputs)
    return noise


def with_noise(state: State, noise: Noise, alone: Alone) -> AbstractContextManager[None]:
    """Within it the model reads this sequence, once, with the dropout that it had in its micro-batch."""
    calls = dict.fromkeys(noise, 0)

    def same(name: str, p: float, x: Tensor) -> Tensor:
        at = alone.source_at if name.startswith("encoder.") and alone.source_at is not None else alone.at
        factor = noise[name][calls[name]][at][None]
        calls[name] += 1
        return x * factor

    return _dropping(state.model, same) if noise else nullcontext()


def _dropouts(model: nn.Module) -> Iterator[tuple[str, nn.Dropout]]:
    return (
        (name, one) for name, one in model.named_modules() if isinstance(one, nn.Dropout) and one.p > 0 and one.training
    )


@contextmanager
def _dropping(model: nn.Module, change: Callable[[str, float, Tensor], Tensor]) -> Generator[None]:
    """Within it `change` does the work of dropout, given the module's name and rate."""
    found = list(_dropouts(model))

    def hook(name: str, p: float) -> Callable[..., Tensor]:
        def changed(module: nn.Module, arguments: Any, output: Tensor) -> Tensor:
            return change(name, p, output)

        return changed

    with ExitStack() as stack:
        for name, one in found:
            one.eval()
            stack.callback(one.train)
            stack.callback(one.register_forward_hook(hook(name, one.p)).remove)
        yield


@contextmanager
def computing(state: State) -> Generator[None]:
    """The dtype of the step, and no compiled blocks: these would be compiled again for each length."""
    with eagerly(state.device), computing_in(state.config.dtype, state.device):
        yield
