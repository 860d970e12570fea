"""Sums travel, means arrive."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Total:
    r"""A weighted sum of log-probabilities and the sum of its weights.

    $\left(\sum_i w_i \log \Pr_\theta(t_i \mid \mathrm{visible}_i),\ \sum_i w_i\right)$, both in float64. Totals add; a
    mean is taken once, at the edge, over everything that was added.
    """

    log_prob: Float[Tensor, ""]  # Σ w·log p, nats, <= 0
    weight: Float[Tensor, ""]  # Σ w

    @staticmethod
    def zero(device: torch.device | str = "cpu") -> "Total":
        """The total of nothing."""
        return Total(*torch.zeros(2, dtype=torch.float64, device=device).unbind())

    def __add__(self, other: "Total") -> "Total":
        return Total(self.log_prob + other.log_prob, self.weight + other.weight)

    def detach(self) -> "Total":
        """The same numbers without their graph."""
        return Total(self.log_prob.detach(), self.weight.detach())

    def mean(self) -> Float[Tensor, ""]:
        """Nats per unit of weight, <= 0."""
        return self.log_prob / self.weight
