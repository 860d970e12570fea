"""What an update did to each tensor, from a sample of its elements."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from thetahat.distribution.pieces import piece, sum_over_pieces
from thetahat.optimization.foreach import together
from thetahat.optimization.optimizer import Optimizer, Rule

SAMPLE = 4096  # elements of a tensor, about: a root mean square of so many is right to 1 %
NUM_VALUES = 6


@dataclass(frozen=True, slots=True)
class Update:
    """What a step did to a tensor, or to a region: the values are over the sample."""

    size: float  # root mean square of the elements, before
    change: float  # root mean square of what was added
    moved: float  # share, among elements with a gradient, of those that changed; 1 where there are none
    has_gradient: bool
    surprise: float  # see `measured`; 0 where the rule keeps no second moment
    below_epsilon: float  # share of elements whose root of the second moment is below epsilon

    @property
    def ratio(self) -> float:
        """The change over the size; 0 for what was zero before."""
        return self.change / self.size if self.size > 0 else 0.0


def samples(optimizer: Optimizer) -> list[Tensor]:
    """A sample of each tensor before the update, copied."""
    return [_sample(p.detach()).clone() for rule in optimizer.rules for p in rule.group.parameters.values()]


@torch.no_grad()
def measured(optimizer: Optimizer, before: Sequence[Tensor]) -> Float64[Tensor, "n 6"]:
    r"""The numbers of `Update`, for each tensor in the order of `samples`, after the update; the host does not wait.

    The surprise is $\sqrt{\mathrm{mean}(g^2 / \max(\hat v, \epsilon^2))}$ with the gradient g as it was clipped and the
    second moment $\hat v$ of AdamW after the step, over elements that ever had a gradient: 1 if the second moment knows
    the gradient, and above 2.3 if it lags behind. Wortsman et al., Stable and low-precision training for large-scale
    vision-language models, 2023 (arXiv 2304.13013).
    """
    rows: list[Tensor] = []
    for rule in optimizer.rules:
        for parameter in rule.group.parameters.values():
            then, now = before[len(rows)].double(), _sample(parameter.detach()).double()
            gradient = torch.zeros_like(now) if parameter.grad is None else _sample(parameter.grad).double()
            has, differs = gradient != 0, now != then
            second = _second_moment(rule, parameter)
            compared = (now.new_zeros(()),) * 3 if second is None else _compared(rule, gradient, second)
            squares = [values.square().sum() for values in (then, now - then)]
            counts = [now.new_tensor(len(now)), (has & differs).sum().double(), has.sum().double()]
            rows.append(torch.stack([*counts, *squares, *compared]))
    parameters = [one for rule in optimizer.rules for one in rule.group.parameters.values()]
    number, moved, has, size, change, known, surprise, below = sum_over_pieces(together(rows), parameters).unbind(1)
    return torch.stack(
        [
            (size / number).sqrt(),
            (change / number).sqrt(),
            torch.where(has > 0, moved / has.clamp(min=1), 1.0),
            (has > 0).double(),
            (surprise / known.clamp(min=1)).sqrt(),
            below / known.clamp(min=1),
        ],
        1,
    )


def updates_of(rows: Sequence[Sequence[float]]) -> list[Update]:
    """The same on the host."""
    return [
        Update(size, change, moved, bool(has), surprise, below) for size, change, moved, has, surprise, below in rows
    ]


def joined(regions: Sequence[str], updates: Sequence[Update], sizes: Sequence[int]) -> dict[str, Update]:
    """By region: root mean squares and means over all of its elements, of `moved` the least."""
    found: dict[str, list[tuple[Update, int]]] = {}
    for region, update, size in zip(regions, updates, sizes, strict=True):
        found.setdefault(region, []).append((update, size))
    return {region: _joined(those) for region, those in found.items()}


def _joined(those: Sequence[tuple[Update, int]]) -> Update:
    number = sum(size for _, size in those)
    size, change, surprise = (
        math.sqrt(sum(n * getattr(one, name) ** 2 for one, n in those) / number)
        for name in ("size", "change", "surprise")
    )
    below = sum(n * one.below_epsilon for one, n in those) / number
    moved, has_gradient = min(one.moved for one, _ in those), any(one.has_gradient for one, _ in those)
    return Update(size, change, moved, has_gradient, surprise, below)


def _compared(rule: Rule, gradient: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """How many elements have a second moment, the sum of their squared surprises, and how many are below epsilon."""
    epsilon, is_known = float(rule.optimizer.param_groups[0]["eps"]), second > 0
    squares = torch.where(is_known, gradient.square() / second.clamp(min=epsilon**2), 0.0)
    return is_known.sum().double(), squares.sum(), (is_known & (second < epsilon**2)).sum().double()


def _second_moment(rule: Rule, parameter: Tensor) -> Tensor | None:
    """That of AdamW, corrected for its start at zero."""
    state = rule.optimizer.state[parameter]
    if "exp_avg_sq" not in state:
        return None
    beta = rule.optimizer.param_groups[0]["betas"][1]
    return _sample(state["exp_avg_sq"]).double() / (1 - beta ** piece(state["step"]).double())


def _sample(tensor: Tensor) -> Tensor:
    """Elements at even distances, of no one column: the distance has no factor in common with the width."""
    tensor = piece(tensor)
    flat, distance = tensor.reshape(-1), max(tensor.numel() // SAMPLE, 1)
    while math.gcd(distance, tensor.shape[-1] if tensor.ndim else 1) > 1:
        distance -= 1
    return flat[::distance]
