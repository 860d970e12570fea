"""The training step."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, final, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from thetahat.core.batch import Batch
from thetahat.core.errors import DataError
from thetahat.core.random import derived_seed
from thetahat.core.total import Total
from thetahat.core.transfer import later
from thetahat.core.work.regions import UPDATE, region
from thetahat.distribution.pieces import gradient_of
from thetahat.distribution.world import ALONE, Ranks, Turn
from thetahat.model.precision import computing_in
from thetahat.objective.log_prob import Told
from thetahat.objective.objective import Note, terms
from thetahat.optimization.clip import Clipped, clip_and_measure
from thetahat.optimization.schedule import learning_rate_factor
from thetahat.run.blame.blame import non_finite_error
from thetahat.run.state import State
from thetahat.run.terms.balance import Balancing, Routed
from thetahat.run.terms.future import Foreseen, Foresight


class Weighed(NamedTuple):
    """What a global batch counts for."""

    weight: float  # Z, the sum of the loss weights
    num_targets: int


@dataclass(frozen=True, slots=True)
class StepReport:
    """What a step did; `total`, `gradient_norm` and `z_loss` are on the host, the rest is on the device."""

    step: int  # updates made, this one included
    total: Total  # over the global batch, at the parameters before the update
    num_tokens: int  # targets of the global batch
    gradient_norm: Float[Tensor, ""]  # before clipping
    learning_rate_factor: float
    is_skipped: bool = False  # an alarm has left the update out
    routed: Routed | None = None  # what was chosen in layers with experts
    z_loss: Float[Tensor, ""] | None = None  # the mean of (log Z)² over targets; None: it has no weight
    foreseen: Foreseen | None = None  # how likely tokens behind the next one were


@dataclass(frozen=True, slots=True)
class Measured:
    """What a step has measured when its update is decided; tensors are on the device."""

    step: int  # that the update would make, from 1
    total: Total  # over the global batch
    gradient: Clipped
    holders: tuple[int, ...]  # the places of the parameters that have a gradient, whose norms these are
    learning_rate_factor: float


Verdict = Literal["update", "skip", "fail"]  # fail: something is not finite


@runtime_checkable
class Judge(Protocol):
    """Decides whether an update is made, alike on all ranks; without one it is made if all is finite."""

    def judge(self, measured: Measured) -> Verdict:
        """Called between clipping and the update; the host may wait for the device once."""
        ...


def step(
    state: State, batches: Sequence[Batch], world: Ranks, note: Note | None = None, judge: Judge | None = None
) -> StepReport:
    r"""Moves θ uphill on $\frac{1}{Z} \sum_{x \in \text{batch}} \sum_i w_i \log \Pr_\theta(t_i \mid \cdot)$, once.

    The five things that a training iteration does, in order. Z is the weight of the whole global batch, over all
    micro-batches and ranks, so the result does not depend on how the batch was cut. `note` is told the log-probability
    of each token, at the parameters before the update; `judge` may leave the update out.
    """
    config = state.config

    # 1. weigh the global batch, before any gradient exists
    weight, num_tokens = weigh(batches, world)
    divisor = config.objective.step_divisor(weight)
    experts = Balancing(state.model, config.objective.balance, batches, world)
    further = Foresight(state.model, config.objective, state.kernel, world)

    # 2. log-probabilities and their gradient, a micro-batch at a time; on a CPU each thread reads one
    totals: list[Tensor] = []
    state.optimizer.zero_grad()
    for turn, *others in world.turns(batches, state.model, state.workers.number):
        if others:
            totals += _at_once(state, [turn, *others], divisor, note)
            continue
        micro, told = turn.micro, note if turn.is_told else None
        torch.manual_seed(derived_seed(config.seed, "dropout", state.step, micro.rank, micro.index))
        read = micro.batch.to(state.device)
        with computing_in(config.dtype, state.device), experts.noting() as noted:
            found = terms(further.model, read, state.kernel, told, config.objective.z_loss)
            gain = further.gain(read)
        penalty = experts.penalty(read, noted)
        turn.backward(-(found.value + gain) / divisor + penalty)  # the one sign flip: optimizers go downhill
        totals.append(torch.stack([found.total.log_prob, found.total.weight, found.z_loss]))
    world.sum_gradients(list(state.model.parameters()))
    sums = world.sum_of_turns(totals, torch.zeros(3, dtype=torch.float64, device=state.device))

    # 3. the true global norm; what is not finite never reaches the parameters
    measured = _measured(state, Total(*sums[:2]))
    factor, reached = measured.learning_rate_factor, torch.cat([sums, measured.gradient.norm.to(sums)[None]])
    told = later(reached)  # so that its reader need not wait for the update
    verdict = judge.judge(measured) if judge else _plain(measured)
    if verdict == "fail":
        raise non_finite_error(state, [*world.micro_batches(batches)], divisor)

    # 4. the update
    routed = experts.found()
    if verdict == "update":
        with region(UPDATE):
            state.optimizer.step(factor)
            experts.update(routed)
            if state.average:
                state.average.update()

    # 5. what happened
    state.step += 1
    state.tokens += num_tokens
    log_prob, total_weight, squares, norm = told()
    mean, ahead = squares / total_weight if config.objective.z_loss else None, further.found()
    total = Total(log_prob, total_weight)
    return StepReport(state.step, total, num_tokens, norm, factor, verdict == "skip", routed, mean, ahead)


@final
class Skipping:
    """Leaves the updates of these steps out."""

    def __init__(self, steps: Collection[int]) -> None:
        self._steps = steps

    def judge(self, measured: Measured) -> Verdict:
        """All others are made if all is finite."""
        return "skip" if measured.step in self._steps else _plain(measured)


def _at_once(state: State, turns: Sequence[Turn], divisor: float, note: Note | None) -> list[Tensor]:
    """Micro-batches that several threads read (`num_at_once` says when): all is added up in their order."""
    trained = [one for one in state.model.parameters() if one.requires_grad]
    z_loss = state.config.objective.z_loss

    def read(turn: Turn) -> tuple[Sequence[Tensor | None], Tensor, list[Told]]:
        told: list[Told] = []
        with computing_in(state.config.dtype, state.device):
            found = terms(state.model, turn.micro.batch, state.kernel, lambda _, one: told.append(one), z_loss)
        gradients = torch.autograd.grad(-found.value / divisor, trained, allow_unused=True)
        return gradients, torch.stack([found.total.log_prob, found.total.weight, found.z_loss]), told

    totals: list[Tensor] = []
    for turn, (gradients, sums, told) in zip(turns, state.workers.map(read, turns), strict=True):
        for parameter, gradient in zip(trained, gradients, strict=True):
            if gradient is not None:  # copied, since two parameters may have one gradient
                parameter.grad = gradient.clone() if parameter.grad is None else parameter.grad.add_(gradient)
        if note:
            note(turn.micro.batch, *told)
        totals.append(sums)
    return totals


def _measured(state: State, total: Total) -> Measured:
    """Clips the gradient, and says what its update is decided by."""
    config, parameters = state.config.optimization, list(state.model.parameters())
    with region(UPDATE):
        gradient = clip_and_measure(parameters, config.clip)
    factor = learning_rate_factor(config.schedule, state.step, state.num_steps)
    holders = tuple(place for place, parameter in enumerate(parameters) if gradient_of(parameter) is not None)
    return Measured(state.step + 1, total, gradient, holders, factor)


def _plain(measured: Measured) -> Verdict:
    return "update" if torch.isfinite(measured.gradient.norm + measured.total.log_prob) else "fail"


def weigh(batches: Sequence[Batch], world: Ranks = ALONE) -> Weighed:
    """The weight Z and the number of targets of the global batch, over all micro-batches and ranks.

    A batch that asks nothing is an error: it has no likelihood, and a step on it would be a step on nothing.
    """
    each = [[float(batch.weight()), float((batch.weights > 0).sum())] for batch in batches]
    zero = torch.zeros(2, dtype=torch.float64)
    weight, num_tokens = world.sum_of([zero.new_tensor(pair) for pair in each], zero).tolist()
    if not weight > 0:
        names = ", ".join(sorted({part.document for batch in batches for part in batch.parts.named()})[:5]) or "none"
        raise DataError(
            f"a batch has no targets: every weight in it is 0 (documents: {names})",
            cure="remove records of weight 0, or raise batch_size so that each batch has something to predict",
        )
    return Weighed(weight, int(num_tokens))
