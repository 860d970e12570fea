"""Whether the optimizer moves what it should: every trainable parameter, once, and by a sensible part of itself."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from thetahat.core.errors import ModelError
from thetahat.core.plain import counted
from thetahat.diagnosis.finding import Finding
from thetahat.diagnosis.preflight.probe import Probe
from thetahat.distribution.pieces import gradient_of, piece, sum_over_pieces
from thetahat.model.law import Constant, laws_of
from thetahat.model.precision import computing_in
from thetahat.objective.future import read_all
from thetahat.optimization.groups import check_groups
from thetahat.optimization.optimizer import Rule

MOST_MOVED = 0.5  # of its own norm, by which a tensor may move in one step at the peak of the schedule
FROM_ZERO = 0.01  # stands for the ratio of what begins at 0
SHOWN = 3  # names in a message


def groups(probe: Probe) -> Iterator[Finding]:
    """Every trainable parameter must be in exactly one group of the optimizer; what is not trained was asked for."""
    try:
        check_groups(probe.model, [rule.group for rule in probe.optimizer.rules])
    except ModelError as error:
        yield Finding("wrong-group", error.what, "look at the groups of the optimizer")
    trains = {name for name, parameter in probe.model.named_parameters() if parameter.requires_grad}
    if probe.trained is not None and (stuck := sorted(probe.trained - trains)):
        yield Finding(
            "frozen-parameters", f"{_named(stuck)} should be trained, and is frozen", "frozen=[...] if that is meant"
        )


def updates(probe: Probe) -> Iterator[Finding]:
    """Each trainable tensor with a gradient must be moved by a step, which is made at the peak of the schedule.

    The step is made for one tensor at a time, and undone: parameters, state of the optimizer and gradients are as
    before, to the bit, and no more is copied than one tensor with its state.
    """
    probe.optimizer.zero_grad()
    with computing_in(probe.dtype, probe.device):
        total = read_all(probe.model, probe.batch.to(probe.device), probe.kernel)
    (-total.log_prob / total.weight.clamp(min=1)).backward()
    trained = {name: p for name, p in probe.model.named_parameters() if p.requires_grad}
    gradients = {name: gradient_of(parameter) for name, parameter in trained.items()}
    probe.optimizer.zero_grad()
    has = torch.tensor([gradient is not None for gradient in gradients.values()]).long()
    if apart := [
        name for name, count in zip(trained, sum_over_pieces(has, [*trained.values()]), strict=True) if not count
    ]:
        yield Finding(
            "not-in-the-objective",
            f"{_named(apart)} has no gradient: no log-probability depends on it",
            'frozen=["..."] with its name, or a model without it',
        )
    moved: dict[str, float] = {}
    for rule in probe.optimizer.rules:
        for name, parameter in rule.group.parameters.items():
            gradient = gradients.get(name)
            if name not in apart and gradient is not None and _is_of_use(parameter, gradient):
                moved[name] = _trial(rule, parameter, gradient)
    yield from _judged(moved)


def decay(probe: Probe) -> Iterator[Finding]:
    """Weight decay should not act on gains, which it would pull to 0 and with them what is read after a norm."""
    laws = laws_of(probe.model)
    for rule in probe.optimizer.rules:
        gains = [name for name in rule.group.parameters if name in laws and laws[name].begins == Constant(1.0)]
        rate = max(float(group.get("weight_decay", 0.0)) for group in rule.optimizer.param_groups)
        if gains and rate > 0:
            yield Finding(
                "decayed-gains",
                f"weight decay {rate:g} pulls {counted(len(gains), 'gain')} of norms to 0: {_named(gains)}",
                "optimization.vectors.weight_decay=0",
                is_wrong=False,
            )


def _judged(moved: dict[str, float]) -> Iterator[Finding]:
    if stuck := [name for name, ratio in moved.items() if ratio == 0]:
        yield Finding(
            "not-updated",
            f"{_named(stuck)} has a gradient, and a step does not move it",
            "a larger learning rate, if rounding loses the update; else look at the optimizer",
        )
    if far := {name: ratio for name, ratio in moved.items() if ratio > MOST_MOVED}:
        name = max(far, key=lambda one: far[one])
        yield Finding(
            "learning-rate-too-high",
            f"one step at the peak moves {name} by {far[name]:.0%} of itself ({counted(len(far), 'tensor')} by more"
            f" than {MOST_MOVED:.0%})",
            "a smaller optimization.*.learning_rate",
            is_wrong=False,
        )


@torch.no_grad()
def _trial(rule: Rule, parameter: nn.Parameter, gradient: Tensor) -> float:
    r"""$\lVert \Delta \theta \rVert / \lVert \theta \rVert$ of one step, which is undone; from 0 `FROM_ZERO`."""
    slots = rule.optimizer.state[parameter]
    before, state = parameter.clone(), {name: slot.clone() for name, slot in slots.items()}
    rates = [group["lr"] for group in rule.optimizer.param_groups]
    for group in rule.optimizer.param_groups:
        group["lr"] = rule.learning_rate
    parameter.grad = gradient
    rule.optimizer.step()
    parameter.grad = None
    then, now = piece(before).double(), piece(parameter).double()
    squares = torch.stack([(now - then).square().sum(), then.square().sum()])
    change, norm = sum_over_pieces(squares[None], [parameter])[0].sqrt().tolist()
    parameter.copy_(before)
    for name, slot in slots.items():
        slot.copy_(state[name])
    for group, rate in zip(rule.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    return change / norm if norm > 0 else float(change > 0) * FROM_ZERO


def _is_of_use(parameter: Tensor, gradient: Tensor) -> bool:
    """Whether the gradient of a parameter is finite, and not zero everywhere."""
    values = piece(gradient)
    counts = torch.stack([(~torch.isfinite(values)).sum(), (values != 0).sum()])
    not_finite, not_zero = sum_over_pieces(counts[None], [parameter])[0].tolist()
    return not_zero > 0 and not_finite == 0


def _named(names: list[str]) -> str:
    shown = ", ".join(names[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown} and {len(names) - SHOWN} more"
