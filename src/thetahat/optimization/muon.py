"""Muon: momentum with all singular values set to about 1, for a stack of matrices at once."""

import math
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from thetahat.core.absent import is_absent
from thetahat.distribution.owners import Change, change_columns, change_whole
from thetahat.distribution.pieces import cuts_of, is_piece, piece
from thetahat.optimization.config import Muon as MuonConfig
from thetahat.optimization.foreach import lerp, lerp_, multiply_
from thetahat.optimization.update import Update, moved

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_SMALLEST_NORM = 1e-12  # matrices of a smaller norm are not scaled to norm 1; zero stays zero


@torch.no_grad()
def orthogonalize(matrices: Float[Tensor, "M R C"], num_iterations: int = 5) -> Float[Tensor, "M R C"]:
    r"""About $U V^\top$ of each matrix $U \Sigma V^\top$, by Newton-Schulz iteration on the stack.

    $X \leftarrow a X + (b A + c A^2) X$ with $A = X X^\top$ and $X_0 = G / \lVert G \rVert_F$. The coefficients raise
    small singular values fast; in return they end between about 0.7 and 1.2 and not at 1. Wide matrices are cheaper, so
    tall ones are transposed. In bfloat16 on CUDA, in float32 on the CPU; float64 stays float64.

    Jordan et al., Muon: an optimizer for hidden layers in neural networks, 2024.
    """
    is_tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if is_tall else matrices
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=_SMALLEST_NORM)
    if x.is_cuda and x.dtype == torch.float32:
        x = x.bfloat16()
    a, b, c = COEFFICIENTS
    for _ in range(num_iterations):
        gram = x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    x = x.to(matrices.dtype)
    return x.mT if is_tall else x


def orthogonalize_flops(num_rows: int, num_columns: int, num_iterations: int) -> int:
    r"""Of `orthogonalize` for one matrix: each of its iterations takes $4 r^2 c + 2 r^3$, r being the shorter side."""
    r, c = sorted((num_rows, num_columns))
    return num_iterations * (4 * r * r * c + 2 * r**3)


def step_scale(rule: Literal["shape", "rms"], num_rows: int, num_columns: int) -> float:
    r"""The factor of an orthogonal step, beside the learning rate.

    "shape": $\sqrt{\max(1, \text{rows}/\text{columns})}$ (Jordan et al., 2024). "rms": $0.2\sqrt{\max(\text{rows},
    \text{columns})}$, so that an entry moves by about 0.2 η, as under AdamW (Liu et al., Muon is scalable for LLM
    training, 2025, arXiv 2502.16982).
    """
    if rule == "shape":
        return math.sqrt(max(1.0, num_rows / num_columns))
    return 0.2 * math.sqrt(max(num_rows, num_columns))


@final
class Muon(Update):
    r"""Nesterov momentum, orthogonalized, with decoupled weight decay.

    $m \leftarrow \mu m + (1 - \mu) g$, then $\theta \leftarrow (1 - \eta\lambda)\,\theta - \eta s\, O$, where $O$ is
    (1 - μ) g + μ m `orthogonalize`d and s is `step_scale`. Parameters of one shape, transposed or not, are
    orthogonalized together; parameters with more than two dimensions are stacks of matrices.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], config: MuonConfig) -> None:
        self.config = config
        parameters = list(parameters)
        here = [parameter for parameter in parameters if not is_absent(parameter)]
        super().__init__([{"params": here}], {"lr": config.learning_rate})
        for parameter in parameters:
            self.state[parameter] = {"momentum": torch.zeros_like(parameter, requires_grad=False)}

    @torch.no_grad()
    def step(self) -> None:
        """Updates every parameter that has a gradient."""
        for group in self.param_groups:
            parameters, gradients = moved(group)
            if parameters:
                self._update(parameters, [piece(one) for one in gradients], group["lr"])

    def _update(self, parameters: list[nn.Parameter], gradients: list[Tensor], learning_rate: float) -> None:
        config = self.config
        pieces = [piece(parameter) for parameter in parameters]
        momenta = [piece(self.state[parameter]["momentum"]) for parameter in parameters]
        lerp_(momenta, gradients, 1 - config.momentum)
        directions = lerp(gradients, momenta, config.momentum)
        if config.weight_decay:
            multiply_(pieces, 1 - learning_rate * config.weight_decay)
        for indices in _by_shape(parameters):
            steps = self._steps([parameters[i] for i in indices], [directions[i] for i in indices])
            for i, step in zip(indices, steps, strict=True):
                scale = step_scale(config.scale, *parameters[i].shape[-2:])
                pieces[i].add_(step, alpha=-learning_rate * scale)

    def _steps(self, parameters: Sequence[nn.Parameter], directions: Sequence[Tensor]) -> Iterable[Tensor]:
        """The orthogonal steps of matrices of one size; of matrices in pieces, this rank's rows of them."""
        iterations = self.config.num_iterations
        if not is_piece(parameters[0]) or parameters[0].ndim > 2:  # of a stack a rank has whole matrices
            return _orthogonalize_together([*directions], iterations)

        def orthogonalized(matrices: Tensor) -> Tensor:
            return _orthogonalize_together([matrices], iterations)[0]  # laid out as whole ones: the same bits

        change: Change = orthogonalized
        for group, axis, length in cuts_of(parameters[0]):  # the last cut is the first one mended
            mended = change_columns if axis else change_whole
            change = partial(mended, length=length, group=group, change=change)
        return change(torch.stack([*directions]))


def _by_shape(tensors: list[nn.Parameter]) -> list[list[int]]:
    """The indices of the tensors whose matrices have the same size; transposed or not, where they are whole."""
    places: dict[tuple[Any, ...], list[int]] = {}
    for i, tensor in enumerate(tensors):
        sizes = tensor.shape[-2:] if is_piece(tensor) else sorted(tensor.shape[-2:])
        key = (is_piece(tensor), tensor.device, tensor.dtype, *sizes, *cuts_of(tensor))
        places.setdefault(key, []).append(i)
    return list(places.values())


def _orthogonalize_together(tensors: list[Tensor], num_iterations: int) -> list[Tensor]:
    stacks = [_on_its_side(tensor).reshape(-1, *_on_its_side(tensor).shape[-2:]) for tensor in tensors]
    together = orthogonalize(torch.cat(stacks), num_iterations)
    parts = together.split([len(stack) for stack in stacks])
    return [
        part.reshape(_on_its_side(tensor).shape).mT if _is_tall(tensor) else part.reshape(tensor.shape)
        for part, tensor in zip(parts, tensors, strict=True)
    ]


def _is_tall(tensor: Tensor) -> bool:
    return tensor.shape[-2] > tensor.shape[-1]


def _on_its_side(tensor: Tensor) -> Tensor:
    return tensor.mT if _is_tall(tensor) else tensor
