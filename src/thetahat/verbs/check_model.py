"""Checks that a model of someone's own is one that the objective and the scoring can take."""

from collections.abc import Callable
from dataclasses import replace
from typing import cast

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from thetahat.core.batch import Inputs
from thetahat.core.errors import VerificationError
from thetahat.core.visibility import visibility_of
from thetahat.objective.objective import Model

LENGTHS = ((7, 5), (12,))  # of the documents of each row
PADDING = 2
BOUND = 1e-4  # relative; what is read and must not be changes far more

_CURE = (
    "read tokens and position alone, mix positions only where inputs.visibility.mask() is true, and give the model a "
    "head like th.Head(width, vocab_size)"
)


def check_model(model: nn.Module, vocab_size: int) -> tuple[str, ...]:
    r"""The names of what holds; raises VerificationError with all that does not.

    A causal model must give $\log \Pr_\theta(t_i \mid \mathrm{visible}_i)$: the state of a position may depend on the
    earlier positions of its own document alone, although documents lie side by side in a row, with padding behind
    them. Checked on random tokens, without dropout: shapes and finite values; that neither later tokens, nor other
    documents, nor padding change a state; that a slice of the head is that slice of all logits; and that
    no tensor of it is outside of `state_dict`. `model` has `hidden` and `head`, as `Model` says.
    """
    if not isinstance(model, Model):
        raise VerificationError(
            f"{type(model).__name__} is no model: it has not both, hidden(inputs) and head", cure=_CURE
        )
    was_training = model.training
    try:
        with torch.no_grad():
            found = _faults(_Probe(model.eval(), vocab_size))
    finally:
        model.train(was_training)
    if broken := [f"{name}: {fault}" for name, fault in found.items() if fault]:
        raise VerificationError(f"{type(model).__name__} does not hold: {'; '.join(broken)}", cure=_CURE)
    return tuple(found)


def _faults(probe: "_Probe") -> dict[str, str]:
    """What is wrong, by the name of the check; "" where it holds. Nothing else is asked where shapes do not fit."""
    fault = _shapes(probe)
    return {"shapes": fault} | ({} if fault else {name: check(probe) for name, check in CHECKS.items()})


class _Probe:
    """Random documents, two side by side in the first row, and what the model makes of them."""

    def __init__(self, model: nn.Module, vocab_size: int) -> None:
        self.module, self.vocab_size = model, vocab_size
        self.model = cast(Model, model)
        draw = torch.Generator().manual_seed(0)
        shape = (len(LENGTHS), sum(LENGTHS[0]) + PADDING)
        piece, position = torch.full(shape, -1), torch.zeros(shape, dtype=torch.int64)
        number = 0
        for row, lengths in enumerate(LENGTHS):
            start = 0
            for length in lengths:
                piece[row, start : start + length] = number
                position[row, start : start + length] = torch.arange(length)
                number, start = number + 1, start + length
        tokens = torch.randint(vocab_size, shape, generator=draw)
        device = next(model.parameters()).device
        self.inputs = Inputs(tokens, position, visibility_of(piece)).map(lambda tensor: tensor.to(device))
        self.piece = self.inputs.visibility.piece
        self.states = self.model.hidden(self.inputs)

    def fault(self, changed: Bool[Tensor, "B T"], kept: Bool[Tensor, "B T"], reads: str) -> str:
        """What is wrong if other tokens where it is `changed` alter the states where it is `kept`."""
        other = (self.inputs.tokens + 1) % self.vocab_size
        tokens = torch.where(changed, other, self.inputs.tokens)
        states = self.model.hidden(replace(self.inputs, tokens=tokens))
        return reads if _differ(states[kept], self.states[kept]) else ""


def _differ(a: Tensor, b: Tensor) -> bool:
    return a.shape != b.shape or bool((a - b).abs().max() > BOUND * b.abs().max())


def _shapes(probe: _Probe) -> str:
    head, states = probe.model.head, probe.states
    if states.dim() != 3 or states.shape[:2] != probe.inputs.tokens.shape:
        return f"hidden gives {list(states.shape)} for tokens {list(probe.inputs.tokens.shape)}, not one state each"
    if head.num_outputs != probe.vocab_size:
        return f"head.num_outputs is {head.num_outputs}, not the {probe.vocab_size} tokens of the vocabulary"
    logits = head(states[0])
    if list(logits.shape) != [states.shape[1], probe.vocab_size]:
        return f"the head gives {list(logits.shape)} for states {list(states[0].shape)}"
    return "" if torch.isfinite(logits).all() else "logits are not finite"


def _future(probe: _Probe) -> str:
    last = torch.zeros_like(probe.piece, dtype=torch.bool)
    last[-1, LENGTHS[-1][0] // 2 :] = True
    return probe.fault(last, (probe.piece == probe.piece.max()) & ~last, "a state depends on later tokens")


def _documents(probe: _Probe) -> str:
    first = probe.piece == 0
    return probe.fault(first, (probe.piece > 0), "a state depends on another document of its row or batch")


def _padding(probe: _Probe) -> str:
    return probe.fault(probe.piece < 0, probe.piece >= 0, "a state depends on what is written in the padding")


def _slices(probe: _Probe) -> str:
    some, head = slice(1, probe.vocab_size // 2 + 1), probe.model.head
    whole, part = head(probe.states[0]), head(probe.states[0], some)
    return "head(hidden, slice) is not that slice of head(hidden)" if _differ(part, whole[:, some]) else ""


def _saved(probe: _Probe) -> str:
    loose = [
        f"{name}.{attribute}".removeprefix(".")
        for name, module in probe.module.named_modules()
        for attribute, value in vars(module).items()
        if isinstance(value, Tensor)
    ]
    return f"{', '.join(loose)} would not be saved: register_buffer, or nn.Parameter" if loose else ""


CHECKS: dict[str, Callable[[_Probe], str]] = {
    "reads no later tokens": _future,
    "keeps documents apart": _documents,
    "ignores padding": _padding,
    "slices of the head": _slices,
    "saved whole": _saved,
}
