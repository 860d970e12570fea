"""The global norm of the gradient, and clipping by it."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from thetahat.distribution.pieces import gradient_of, is_divided, piece, sum_over_pieces
from thetahat.optimization.foreach import multiply_, norms, together


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float | None) -> Float[Tensor, ""]:
    r"""The global norm before clipping; the gradients become $g \cdot \min(1, c / \lVert g \rVert)$, c = `max_norm`.

    $\lVert g \rVert = \sqrt{\sum_p \lVert \nabla_p \rVert^2}$ over parameters that have a gradient, on their device, in
    float64: on the CPU, torch adds up float32 squares one after the other, and is 1% off at 10^8 entries.
    With None, nothing is clipped. The host does not wait for the device. If the norm is not finite, the gradients are
    not usable: check it before the update.
    """
    return clip_and_measure(parameters, max_norm).norm


class Clipped(NamedTuple):
    """The norms of a gradient before clipping."""

    norm: Float[Tensor, ""]  # of all of it
    norms: Float[Tensor, " n"]  # of each tensor that has a gradient


def clip_and_measure(parameters: Iterable[nn.Parameter], max_norm: float | None) -> Clipped:
    """The same, with the norm of each tensor; of those in pieces, over all ranks that have some."""
    held = [(parameter, one) for parameter in parameters if (one := gradient_of(parameter)) is not None]
    gradients = [piece(gradient) for _, gradient in held]
    if not gradients:
        return Clipped(torch.zeros((), dtype=torch.float64), torch.zeros(0, dtype=torch.float64))
    each = together(norms(gradients, torch.float64))
    if any(is_divided(parameter) for parameter, _ in held):
        each = sum_over_pieces(each.square(), [parameter for parameter, _ in held]).sqrt()
    norm = torch.linalg.vector_norm(each)
    if max_norm is not None:
        coefficient = (max_norm / norm).clamp(max=1)  # x / 0 is infinite, so a zero gradient stays as it is
        multiply_(gradients, coefficient.to(gradients[0].dtype))
    return Clipped(norm, each)
