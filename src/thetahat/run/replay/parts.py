"""The norms of a step by part of the model."""

import math
from dataclasses import dataclass

from torch import Tensor

from thetahat.diagnosis.signals.probe import Layer, block_names, inside, layers_of
from thetahat.diagnosis.signals.regions import regions_of
from thetahat.run.replay.again import Again
from thetahat.run.replay.effects import assign, parameters_of


@dataclass(frozen=True, slots=True)
class PartNorms:
    """What a step did in one part of the model; all norms are over all elements, in float64."""

    name: str
    size: float  # of the parameters, before the update
    gradient: float  # before clipping
    update: float

    @property
    def ratio(self) -> float:
        """The update over the parameters; 0 for what was zero before."""
        return self.update / self.size if self.size > 0 else 0.0


def norms_by_part(again: Again) -> list[PartNorms]:
    """The parts that are trained, in the order of the model."""
    state, start = again.state, again.start.parameters
    regions, named = regions_of(state.model), list(state.model.named_parameters())
    squares = {name: [0.0, 0.0, 0.0] for name in regions.names}
    for region, (name, parameter) in zip(regions.of, named, strict=True):
        if region:
            zero = start[name].new_zeros(())
            gradient = zero if parameter.grad is None else parameter.grad
            for place, values in enumerate((start[name], gradient, parameter.detach() - start[name])):
                squares[region][place] += _square(values)
    clipped = math.sqrt(sum(of_region[1] for of_region in squares.values()))
    scale = again.report.gradient_norm.item() / clipped if clipped > 0 else 1.0
    return [
        PartNorms(name, math.sqrt(size), math.sqrt(gradient) * scale, math.sqrt(update))
        for name, (size, gradient, update) in squares.items()
    ]


def layers_before(again: Again) -> list[Layer]:
    """What the first row of the step sees in each block, before the update."""
    state, end = again.state, parameters_of(again.state)
    assign(state, again.start.parameters)
    found = inside(state.model, again.batches[0].batch, state.config.dtype, state.device)
    assign(state, end)
    return layers_of(block_names(state.model), found.tolist())


def _square(values: Tensor) -> float:
    return float(values.double().square().sum())
