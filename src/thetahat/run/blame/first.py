"""The first module of a model in which a value, or its gradient, is not finite."""

import json
import warnings
from collections.abc import Callable, Generator, Iterable
from contextlib import ExitStack, contextmanager
from dataclasses import astuple, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from thetahat.core.batch import Batch
from thetahat.distribution.pieces import agreed, piece, said_by_stages
from thetahat.objective.log_prob import Told
from thetahat.objective.objective import log_likelihood
from thetahat.run.blame.alone import Alone, Noise, computing, with_noise
from thetahat.run.state import State

OBJECTIVE = "log-likelihood"  # behind the head: the log-softmax, the loss weights, the sum


@dataclass(frozen=True, slots=True)
class Fault:
    """Where a value that is not finite comes from: what goes in is finite, and what comes out is not."""

    module: str
    way: Literal["forward", "backward"]
    position: int | None  # of the first such value in the sequence, from 0; None: unknown

    def __str__(self) -> str:
        """In words."""
        where = "" if self.position is None else f", at position {self.position}"
        return f"{self.module}{' in the backward pass' if self.way == 'backward' else ''}{where}"


def first_fault(state: State, alone: Alone, divisor: float, noise: Noise) -> Fault | None:
    """Reads a sequence forwards and backwards, as the step did; None if all is finite. Gradients are deleted."""
    state.optimizer.zero_grad()
    batch = alone.batch.to(state.device)
    try:
        with _looking(state.model, len(alone.at[0])) as look, with_noise(state, noise, alone):
            with computing(state):
                total = log_likelihood(state.model, batch, state.kernel, look.told)
            if not agreed(state.model, look.forward is not None or not torch.isfinite(total.log_prob)):
                (-total.log_prob / divisor).backward()
        return _of_all_stages(state.model, look.forward or look.backward or _of_gradients(state.model))
    finally:
        state.optimizer.zero_grad()


def _of_all_stages(model: nn.Module, fault: Fault | None) -> Fault | None:
    """The first fault of all stages of a pipeline, in the order in which they have read and gone back."""
    each = said_by_stages(model, json.dumps(astuple(fault)) if fault else "")
    told = [Fault(*json.loads(text)) for text in each if text]
    forward = [one for one in told if one.way == "forward"]
    of_modules = [one for one in forward if one.module != OBJECTIVE]  # which every stage tells that finds nothing else
    return next(iter(of_modules or forward or reversed(told)), None)


class _Look:
    """What hooks have seen."""

    def __init__(self, num_positions: int) -> None:
        self.num_positions = num_positions
        self.forward: Fault | None = None
        self.backward: Fault | None = None
        self.is_behind = True  # whether no gradient has come to a module yet

    def told(self, _: Batch, told: Told) -> None:
        """The objective, which is no module."""
        if self.forward is None and (place := _first(told.log_prob, self.num_positions)) is not None:
            self.forward = Fault(OBJECTIVE, "forward", place[0])

    def left(self, name: str, arguments: Iterable[Any], output: Any) -> None:
        """A module has been left on the way forward, those within it before it."""
        if self.forward is not None or not isinstance(output, Tensor) or not _are_finite(arguments):
            return
        if (place := _first(output, self.num_positions)) is not None:
            self.forward = Fault(name, "forward", place[0])

    def passed(self, name: str, before: Iterable[Any], after: Iterable[Any]) -> None:
        """A gradient has gone through a module; `before` and `after` in the order of the backward pass."""
        if self.backward is None and not _are_finite(before):
            self.backward = Fault(OBJECTIVE, "backward", None) if self.is_behind else None
        elif self.backward is None and not _are_finite(after):
            self.backward = Fault(name, "backward", None)
        self.is_behind = False


@contextmanager
def _looking(model: nn.Module, num_positions: int) -> Generator[_Look]:
    look = _Look(num_positions)

    def leaving(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: Any, output: Any) -> None:
            look.left(name, arguments, output)

        return hook

    def passing(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, outputs: Any) -> None:
            look.passed(name, outputs, inputs)

        return hook

    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", "Full backward hook", UserWarning)  # of modules behind what is frozen
        warnings.filterwarnings("ignore", "FSDP2-wrapped module", UserWarning)  # hooks hand out views
        for name, module in model.named_modules():
            if name:
                stack.callback(module.register_forward_hook(leaving(name)).remove)
            if name and not isinstance(module, nn.Embedding):  # its input has no gradient
                stack.callback(module.register_full_backward_hook(passing(name)).remove)
        yield look


def _are_finite(values: Iterable[Any]) -> bool:
    tensors = (value for value in values if isinstance(value, Tensor) and value.is_floating_point())
    return all(bool(torch.isfinite(value).all()) for value in tensors)


def _first(values: Tensor, num_positions: int) -> tuple[int | None] | None:
    """The first position with a value that is not finite, (None,) where values are not in positions; None: none."""
    bad = ~torch.isfinite(values)
    if not bad.any():
        return None
    dims = [dim for dim, size in enumerate(values.shape[:2]) if size == num_positions and (dim == 1 or len(values) > 1)]
    if not dims:
        return (None,)
    others = [dim for dim in range(bad.ndim) if dim != dims[0]]
    return (int((bad.any(others) if others else bad).nonzero()[0]),)


def _of_gradients(model: nn.Module) -> Fault | None:
    """Where only gradients of parameters are not finite: in the last such module, which is the first to get one."""
    sick = [
        name
        for name, one in model.named_parameters()
        if one.grad is not None and not torch.isfinite(piece(one.grad)).all()
    ]
    return Fault(sick[-1].rpartition(".")[0], "backward", None) if sick else None
