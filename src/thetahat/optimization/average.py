"""An exponential moving average of the parameters, kept beside them."""

from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor, nn

from thetahat.core.errors import ModelError
from thetahat.distribution.pieces import fill, piece
from thetahat.optimization import foreach


@final
class MovingAverage:
    r"""The mean of the parameters after each update, of which older ones count less.

    $\bar\theta_n = \sum_{s=1}^n d^{n-s} \theta_s / \sum_{s=1}^n d^{n-s}$, that is
    $\bar\theta_n = \bar\theta_{n-1} + \frac{1 - d}{1 - d^n} (\theta_n - \bar\theta_{n-1})$: the weights sum to 1 from
    the first update on, so the parameters that were drawn are no part of it. It is kept in the dtype of the
    parameters. Nothing of the training depends on it.

    Polyak and Juditsky, Acceleration of Stochastic Approximation by Averaging, 1992; Morales-Brotons et al.,
    Exponential Moving Average of Weights in Deep Learning, 2024 (arXiv 2411.18704).
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self._parameters, self._decay = dict(parameters), decay
        self.tensors = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        self.count = 0  # updates that it is of

    @torch.no_grad()
    def update(self) -> None:
        """Takes the parameters in, after an update."""
        self.count += 1
        weight = (1 - self._decay) / (1 - self._decay**self.count)
        foreach.lerp_([*map(piece, self.tensors.values())], [*map(piece, self._parameters.values())], weight)

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor], count: int) -> None:
        """Goes on from a state; raises ModelError, and changes nothing, where names or shapes differ."""
        if odd := sorted(self.tensors.keys() ^ tensors.keys()):
            raise ModelError(f"the moving average does not fit the model: {odd[0]} is in one of them only")
        for name, mine in self.tensors.items():
            if mine.shape != tensors[name].shape:
                raise ModelError(f"the moving average of {name} is {list(tensors[name].shape)}, not {list(mine.shape)}")
        for name, mine in self.tensors.items():
            fill(mine, tensors[name])
        self.count = count

    @torch.no_grad()
    def swap(self) -> None:
        """Exchanges the parameters and the average; done twice, all is as it was, bit for bit."""
        for name, parameter in self._parameters.items():
            kept = parameter.detach().clone()
            parameter.copy_(self.tensors[name])
            self.tensors[name].copy_(kept)
