r"""What the positions of a chunk do to each other: pairs, which the backward pass computes again.

A chunk of W positions has W numbers of each kind for each of them, and autograd would keep up to six kinds. Here one
is kept, the decays $L_{ij} = \Lambda_i / \Lambda_j = \exp(t_i - t_j)$ for j <= i and 0 above, and gradients are
written out. For pairs $P = S \circ L$ and their gradient $\bar P$, that of t is the sum over a row of
$\bar P \circ P$ less that over a column. Neither takes pairs: both are products of what is read and given.
"""

from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function

Pairs = Float[Tensor, "U H W W"]
Sums = Float[Tensor, "U H W"]


def decay_between(total: Sums) -> Pairs:
    """L of t, the sums of the logs of decays: a constant for autograd, since gradients of t come from what reads it."""
    with torch.no_grad():
        later = torch.ones(total.shape[-1], total.shape[-1], dtype=torch.bool, device=total.device).triu(1)
        return (total[..., :, None] - total[..., None, :]).masked_fill_(later, -torch.inf).exp_()


def read_within(
    q: Float[Tensor, "U G W K"],
    k: Float[Tensor, "U G W K"],
    v: Float[Tensor, "U H W O"],
    total: Sums,
    between: Float[Tensor, "#U #H W W"],
) -> Float[Tensor, "U H W O"]:
    r"""$\sum_{j \le i} L_{ij} (q_i^\top k_j) v_j$.

    Queries and keys are those of each head, or one of all: then their products are computed once.
    """
    return cast(Tensor, _Read.apply(q, k, v, total, between))


def solve_within(
    k: Float[Tensor, "U H W K"],
    beta: Float[Tensor, "U H W 1"],
    values: Float[Tensor, "U H W X"],
    total: Sums,
    between: Pairs,
) -> Float[Tensor, "U H W X"]:
    r"""X of $(I + A) X = B$ for the values B, with $A_{ij} = \beta_i L_{ij} k_i^\top k_j$ for j < i."""
    return cast(Tensor, _Solve.apply(k, beta, values, total, between))


class _Read(Function):
    r"""$Y = P V$ with $P = Q K^\top \circ L$: row i sums to $\bar y_i^\top y_i$, column j to $v_j^\top \bar v_j$."""

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor, total: Tensor, between: Tensor) -> Tensor:
        return (q @ k.mT * between) @ v

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        q, k, v, _, between = inputs
        ctx.save_for_backward(q, k, v, between, output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, between, read = cast(tuple[Tensor, ...], ctx.saved_tensors)
        (of_read,) = gradients
        pairs = q @ k.mT * between
        of_v = pairs.mT @ of_read
        of_products = (of_read @ v.mT * between).sum_to_size(*q.shape[:3], k.shape[2])
        of_total = (of_read * read).sum(-1) - (v * of_v).sum(-1)
        return of_products @ k, of_products.mT @ q, of_v, of_total, None


class _Solve(Function):
    r"""$\bar B$ solves $(I + A)^\top \bar B = \bar X$, and $\bar A = -\bar B X^\top$ below the diagonal.

    With $R = \bar A \circ L$, that of $\beta_i$ is $k_i^\top (R K)_i$, which times $\beta_i$ is what row i sums to;
    column j sums to $-x_j^\top (A^\top \bar B)_j = -x_j^\top (\bar x_j - \bar b_j)$.
    """

    @staticmethod
    def forward(k: Tensor, beta: Tensor, values: Tensor, total: Tensor, between: Tensor) -> Tensor:
        system = (beta * k) @ k.mT * between  # whose diagonal is not read
        return torch.linalg.solve_triangular(system, values, upper=False, unitriangular=True)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        k, beta, _, _, between = inputs
        ctx.save_for_backward(k, beta, between, output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        k, beta, between, solved = cast(tuple[Tensor, ...], ctx.saved_tensors)
        (of_solved,) = gradients
        scaled = beta * k
        system = scaled @ k.mT * between
        of_values = torch.linalg.solve_triangular(system.mT, of_solved, upper=True, unitriangular=True)
        rows = (-of_values @ solved.mT * between).tril_(-1)
        read = rows @ k
        of_beta = (k * read).sum(-1, keepdim=True)
        of_total = (beta * of_beta)[..., 0] + (solved * (of_solved - of_values)).sum(-1)
        return beta * read + rows.mT @ scaled, of_beta, of_values, of_total, None
