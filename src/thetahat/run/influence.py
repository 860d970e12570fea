"""The effect of one step on each sequence of its batch: likelihood before and after, and share of the gradient."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from thetahat.core.batch import Batch
from thetahat.core.errors import NonFiniteError
from thetahat.core.parts import Part
from thetahat.core.random import derived_seed
from thetahat.distribution.world import World
from thetahat.model.config import Dtype
from thetahat.model.precision import computing_in
from thetahat.objective.log_prob import Told
from thetahat.objective.objective import log_likelihood
from thetahat.objective.weights import part_weights
from thetahat.run.state import State
from thetahat.run.step import StepReport, step

MOVES = {"float64": 1e-6}  # by how much of their own norm the parameters are moved for a difference
MOVE = 1e-4  # in every other dtype

Parameters = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Effect:
    """The effect of a step on one sequence, or on one part of it."""

    part: Part
    sequence: int  # its number in the batch
    tokens: tuple[int, ...]  # that the model read
    targets: tuple[int, ...]
    num_bytes: int  # of the text behind the targets
    weight: float  # loss weight of each target
    before: float  # nats, at the parameters before the update, without dropout
    after: float  # nats, after it
    share: float  # of the gradient, signed; all of a step sum to 1


def effects(state: State, batches: Sequence[Batch]) -> tuple[StepReport, list[Effect]]:
    r"""Makes the step, and says for each sequence i of it what it gained and its share of the gradient.

    $\mathrm{share}_i = \langle g_i, G \rangle / \lVert G \rVert^2$ with $g_i$ the gradient of i's part $L_i$ of the
    objective and $G = \sum_i g_i$, so that shares sum to 1; a negative one pulled against the step. No gradient of one
    sequence is needed: $\langle g_i, G \rangle = (L_i(\theta + \epsilon G) - L_i(\theta - \epsilon G)) / 2 \epsilon$ up
    to $\epsilon^2$, with $\epsilon = 10^{-4} \lVert \theta \rVert / \lVert G \rVert$ ($10^{-6}$ in float64), for all
    sequences in two passes with the dropout of the step. What the shares sum to says how exact they are. The state is
    left as the step left it.

    Pruthi et al., Estimating Training Data Influence by Tracing Gradient Descent, 2020 (arXiv 2002.08484).
    """
    number, start = state.step, _parameters(state)
    report = step(state, batches, World())
    end, norm = _parameters(state), float(report.gradient_norm)
    ascent = {name: -p.grad for name, p in state.model.named_parameters() if p.grad is not None}
    length = _norm(ascent)  # the norm after clipping
    if not (norm > 0 and length > 0):
        raise NonFiniteError(f"the gradient of step {report.step} is zero: it has no shares")
    divisor = state.config.objective.step_divisor(float(report.total.weight))
    move = MOVES.get(state.config.dtype, MOVE) * _norm({name: start[name] for name in ascent})
    units = [_Units.of(batch, state) for batch in batches]
    after = _sums(state, batches, units)
    _assign(state, start)
    before = _sums(state, batches, units)
    _assign(state, start, ascent, move / length)
    above = _sums(state, batches, units, number)
    _assign(state, start, ascent, -move / length)
    below = _sums(state, batches, units, number)
    _assign(state, end)
    weight = np.concatenate([one.weight for one in units])
    slope = weight * (above - below) / (2 * move * divisor)  # <g_i, G> / |G|
    found = [effect for one in units for effect in one.effects()]
    numbers = zip(found, before.tolist(), after.tolist(), (slope / norm).tolist(), strict=True)
    return report, [
        replace(effect, sequence=i, before=b, after=a, share=s) for i, (effect, b, a, s) in enumerate(numbers)
    ]


@dataclass(frozen=True, slots=True)
class _Units:
    """The pieces of one micro-batch, each divided by the parts that have targets."""

    batch: Batch
    part: Int64[np.ndarray, " n"]  # of each unit
    piece: Int64[np.ndarray, " n"]
    unit: Int64[np.ndarray, " N"]  # of each target
    where: Int64[np.ndarray, " N"]  # its place among those whose log-probability is computed
    weight: Float64[np.ndarray, " n"]

    @staticmethod
    def of(batch: Batch, state: State) -> "_Units":
        """The units of a batch."""
        supervised = torch.arange(batch.targets.numel()) if batch.supervised is None else batch.supervised
        where = (batch.weights.flatten()[supervised] != 0).nonzero()[:, 0].numpy()
        part, piece = (
            of[supervised.numpy()][where] for of in (_flat(batch.part), _flat(batch.inputs.visibility.piece))
        )
        known, unit = np.unique(np.stack([piece, part]), axis=1, return_inverse=True)
        weight = part_weights(batch.parts, state.config.objective).numpy()[known[1]]
        return _Units(batch, known[1], known[0], unit.reshape(-1), where, weight)

    def effects(self) -> Iterator[Effect]:
        """Each unit with its tokens and targets; the numbers are filled in later."""
        tokens, pieces = _flat(self.batch.inputs.tokens), _flat(self.batch.inputs.visibility.piece)
        targets, supervised = _flat(self.batch.targets), self.batch.supervised
        where = self.where if supervised is None else supervised.numpy()[self.where]
        targets, num_bytes = targets[where], _flat(self.batch.num_bytes)[where]
        named = self.batch.parts.named(self.part.tolist())
        for number, (part, piece, weight) in enumerate(zip(named, self.piece, self.weight, strict=True)):
            mine = self.unit == number
            read, predicted = tokens[pieces == piece].tolist(), targets[mine].tolist()
            size = int(num_bytes[mine].sum())
            yield Effect(part, 0, tuple(read), tuple(predicted), size, float(weight), 0.0, 0.0, 0.0)


def _flat(values: Tensor) -> Int64[np.ndarray, " N"]:
    return values.flatten().numpy()


def dtype_of_sums(dtype: Dtype) -> Dtype:
    """The dtype in which log-probabilities before and after a step are computed: their differences are small."""
    return "float32" if dtype == "bfloat16" else dtype


@torch.no_grad()
def _sums(
    state: State, batches: Sequence[Batch], units: Sequence[_Units], drawn_for: int | None = None
) -> Float64[np.ndarray, " n"]:
    """The log-probability of every unit at the current parameters; with the dropout of a step, or without dropout."""
    found: list[Float64[np.ndarray, " n"]] = []
    dtype = dtype_of_sums(state.config.dtype)
    state.model.train(drawn_for is not None)
    for index, (batch, one) in enumerate(zip(batches, units, strict=True)):
        if drawn_for is not None:
            torch.manual_seed(derived_seed(state.config.seed, "dropout", drawn_for, 0, index))

        def note(_: Batch, told: Told, one: _Units = one) -> None:
            nats = told.log_prob.to("cpu", torch.float64).numpy()[one.where]
            found.append(np.bincount(one.unit, nats, len(one.part)))

        with computing_in(dtype, state.device):
            log_likelihood(state.model, batch.to(state.device), state.kernel, note)
    state.model.train()
    return np.concatenate(found)


def _parameters(state: State) -> Parameters:
    return {name: parameter.detach().clone() for name, parameter in state.model.named_parameters()}


@torch.no_grad()
def _assign(state: State, values: Parameters, direction: Parameters | None = None, scale: float = 0.0) -> None:
    for name, parameter in state.model.named_parameters():
        moves = direction is not None and name in direction
        parameter.copy_(values[name] + scale * direction[name] if direction and moves else values[name])


def _norm(tensors: Parameters) -> float:
    return float(sum(float(value.double().square().sum()) for value in tensors.values())) ** 0.5
