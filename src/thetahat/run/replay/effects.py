"""The effect of one step on each sequence of its batch: likelihood before and after, and share of the gradient."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from thetahat.core.batch import Batch
from thetahat.core.errors import NonFiniteError
from thetahat.core.parts import Part
from thetahat.distribution.world import MicroBatch
from thetahat.model.config import Dtype
from thetahat.model.precision import computing_in
from thetahat.objective.log_prob import Head, Told
from thetahat.objective.objective import log_likelihood
from thetahat.objective.weights import part_weights
from thetahat.run.blame.alone import Alone, Noise, alone_in, computing, noise_of, with_noise
from thetahat.run.state import State
from thetahat.run.step import StepReport

Parameters = Mapping[str, Tensor]
_Gradients = Sequence[Tensor | None]  # None: nothing of the sequence depends on it


@dataclass(frozen=True, slots=True)
class Effect:
    """The effect of a step on one sequence, or on one part of it."""

    part: Part
    sequence: int  # its number in the batch
    tokens: tuple[int, ...]  # that the model read
    targets: tuple[int, ...]
    places: tuple[int, ...]  # in `tokens`, at which each target is predicted
    num_bytes: int  # of the text behind the targets
    weight: float  # loss weight of each target
    log_probs: tuple[float, ...]  # nats of each target, at the parameters before the update, without dropout
    after: float  # nats of all of them, after it
    gradient_norm: float  # of its gradient, before clipping
    dot: float  # of its gradient with that of the step, before clipping
    share: float  # of the gradient, signed; all of a step sum to 1

    @property
    def before(self) -> float:
        """Nats of all targets, at the parameters before the update."""
        return float(np.sum(self.log_probs))


def effects(state: State, batches: Sequence[MicroBatch], start: Parameters, report: StepReport) -> list[Effect]:
    r"""What the step that was just made from `start` did to each sequence i, and i's part in it.

    $\mathrm{share}_i = \langle g_i, G \rangle / \lVert G \rVert^2$ with $g_i$ the gradient of i's part $L_i$ of the
    objective and $G = \sum_i g_i$, so that shares sum to 1; a negative one pulled against the step. Each $g_i$ is
    computed from the sequence alone, with the dropout that it had in the step: all together cost about two steps. What
    the shares sum to says how exact they are. Of a step with tokens behind the next one, a z-loss or a balance of
    experts G has these, too, and no $g_i$ has: shares then sum to something else. The state is left as it was.

    Pruthi et al., Estimating Training Data Influence by Tracing Gradient Descent, 2020 (arXiv 2002.08484).
    """
    end, norm = parameters_of(state), float(report.gradient_norm)
    ascent = {name: -p.grad for name, p in state.model.named_parameters() if p.grad is not None}
    length = norm_of(ascent)  # the norm after clipping
    if not (norm > 0 and length > 0):
        raise NonFiniteError(f"the gradient of step {report.step} is zero: it has no shares")
    divisor = state.config.objective.step_divisor(float(report.total.weight))
    units = [_Units.of(micro.batch, state) for micro in batches]
    after = sums_of(state, batches, units)
    assign(state, start)
    log_probs = [np.split(nats, one.bounds) for nats, one in zip(_targets(state, batches, units), units, strict=True)]
    gradients = [
        _gradients(state, micro, one, ascent, (report.step - 1, divisor))
        for micro, one in zip(batches, units, strict=True)
    ]
    assign(state, end)
    found = [effect for one in units for effect in one.effects()]
    of_units = [nats for of_batch in log_probs for nats in of_batch]
    numbers = zip(found, of_units, after.tolist(), np.concatenate(gradients).tolist(), strict=True)
    return [
        replace(
            effect,
            sequence=number,
            log_probs=tuple(nats.tolist()),
            after=nats_after,
            gradient_norm=own,
            dot=along * norm / length,
            share=along / (norm * length),
        )
        for number, (effect, nats, nats_after, (own, along)) in enumerate(numbers)
    ]


@dataclass(frozen=True, slots=True)
class _Units:
    """The pieces of one micro-batch, each divided by the parts that have targets."""

    batch: Batch
    part: Int64[np.ndarray, " n"]  # of each unit
    piece: Int64[np.ndarray, " n"]
    unit: Int64[np.ndarray, " N"]  # of each target, ascending
    where: Int64[np.ndarray, " N"]  # its place among those whose log-probability is computed
    at: Int64[np.ndarray, " N"]  # its place in the rows
    weight: Float64[np.ndarray, " n"]

    @staticmethod
    def of(batch: Batch, state: State) -> "_Units":
        """The units of a batch."""
        supervised = torch.arange(batch.targets.numel()) if batch.supervised is None else batch.supervised
        where = (batch.weights.flatten()[supervised] != 0).nonzero()[:, 0].numpy()
        at = supervised.numpy()[where]
        part, piece = (of[at] for of in (_flat(batch.part), _flat(batch.inputs.visibility.piece)))
        known, unit = np.unique(np.stack([piece, part]), axis=1, return_inverse=True)
        unit = unit.reshape(-1)
        order = np.argsort(unit, kind="stable")
        weight = part_weights(batch.parts, state.config.objective).numpy()[known[1]]
        return _Units(batch, known[1], known[0], unit[order], where[order], at[order], weight)

    @property
    def bounds(self) -> Int64[np.ndarray, " n"]:
        """Where, among the targets, each unit but the first begins."""
        return np.flatnonzero(np.diff(self.unit)) + 1

    def effects(self) -> Iterator[Effect]:
        """Each unit with its tokens and targets; the numbers are filled in later."""
        tokens, pieces = _flat(self.batch.inputs.tokens), _flat(self.batch.inputs.visibility.piece)
        targets, num_bytes = _flat(self.batch.targets), _flat(self.batch.num_bytes)
        named = self.batch.parts.named(self.part.tolist())
        of_units = np.split(self.at, self.bounds)
        for part, piece, weight, mine in zip(named, self.piece, self.weight, of_units, strict=True):
            read = np.flatnonzero(pieces == piece)
            yield Effect(
                part,
                0,
                tuple(tokens[read].tolist()),
                tuple(targets[mine].tolist()),
                tuple(np.searchsorted(read, mine).tolist()),
                int(num_bytes[mine].sum()),
                float(weight),
                *((), 0.0, 0.0, 0.0, 0.0),
            )


def _flat(values: Tensor) -> Int64[np.ndarray, " N"]:
    return values.flatten().numpy()


def _gradients(
    state: State, micro: MicroBatch, units: _Units, ascent: Parameters, at: tuple[int, float]
) -> Float64[np.ndarray, "n 2"]:
    """For each unit the norm of its gradient, and its dot product with `ascent`; `at` is the step and its divisor."""
    step, divisor = at
    number = {key: place for place, key in enumerate(zip(units.piece.tolist(), units.part.tolist(), strict=True))}
    found = np.zeros((len(number), 2))
    named = {name: one for name, one in state.model.named_parameters() if one.requires_grad}
    noise = noise_of(state, step, micro)
    for alone in alone_in(micro.batch):
        keys = torch.stack([alone.batch.inputs.visibility.piece[0], alone.batch.part[0]], 1)
        of = [key for key in keys[alone.batch.weights[0] != 0].unique(dim=0).tolist() if tuple(key) in number]
        told = _told(state, alone, noise) if of else None
        for place, key in enumerate(of):
            assert told is not None
            mine = (keys == torch.tensor(key)).all(1) & (alone.batch.weights[0] != 0)
            weight = torch.where(mine, alone.batch.weights[0], 0.0).to(state.device)
            value = (weight * told.log_prob.to(torch.float64)).sum() / divisor
            wanted, goes_on = list(named.values()), place + 1 < len(of)
            gradient = cast(_Gradients, torch.autograd.grad(value, wanted, retain_graph=goes_on, allow_unused=True))
            pairs = [(one, ascent[name]) for name, one in zip(named, gradient, strict=True) if one is not None]
            dot = sum(float((one.double() * whole.double()).sum()) for one, whole in pairs)
            found[number[tuple(key)]] = norm_of({str(i): one for i, (one, _) in enumerate(pairs)}), dot
    return found


def _told(state: State, alone: Alone, noise: Noise) -> Told:
    """What the kernel computes for a sequence alone, with its graph."""
    kept: list[Told] = []

    def kernel(hidden: Tensor, head: Head, targets: Tensor) -> Told:
        kept.append(state.kernel(hidden, head, targets))
        return kept[0]

    with with_noise(state, noise, alone), computing(state):
        log_likelihood(state.model, alone.batch.to(state.device), kernel)
    return kept[0]


def dtype_of_sums(dtype: Dtype) -> Dtype:
    """The dtype in which log-probabilities before and after a step are computed: their differences are small."""
    return "float32" if dtype == "bfloat16" else dtype


def sums_of(
    state: State, batches: Sequence[MicroBatch], units: Sequence[_Units] | None = None
) -> Float64[np.ndarray, " n"]:
    """The log-probability of every unit at the current parameters, without dropout."""
    units = [_Units.of(micro.batch, state) for micro in batches] if units is None else units
    each = zip(_targets(state, batches, units), units, strict=True)
    return np.concatenate([np.bincount(one.unit, nats, len(one.part)) for nats, one in each])


@torch.no_grad()
def _targets(state: State, batches: Sequence[MicroBatch], units: Sequence[_Units]) -> list[Float64[np.ndarray, " N"]]:
    """The log-probability of every target of each micro-batch, unit by unit, without dropout."""
    found: list[Float64[np.ndarray, " N"]] = []
    state.model.eval()
    for micro, one in zip(batches, units, strict=True):

        def note(_: Batch, told: Told, one: _Units = one) -> None:
            found.append(told.log_prob.to("cpu", torch.float64).numpy()[one.where])

        with computing_in(dtype_of_sums(state.config.dtype), state.device):
            log_likelihood(state.model, micro.batch.to(state.device), state.kernel, note)
    state.model.train()
    return found


def parameters_of(state: State) -> dict[str, Tensor]:
    """A copy of all parameters."""
    return {name: parameter.detach().clone() for name, parameter in state.model.named_parameters()}


@torch.no_grad()
def assign(state: State, values: Parameters) -> None:
    """Gives the parameters these values."""
    for name, parameter in state.model.named_parameters():
        parameter.copy_(values[name])


def norm_of(tensors: Parameters) -> float:
    """The norm of all of them together, in float64."""
    return float(sum(float(value.double().square().sum()) for value in tensors.values())) ** 0.5
