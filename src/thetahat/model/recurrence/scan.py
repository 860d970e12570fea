r"""Recurrences over a matrix of state, chunk by chunk: products of matrices within, one hand-over between.

For each head $S_t = \lambda_t (I - \beta_t k_t k_t^\top) S_{t-1} + \beta_t k_t v_t^\top$ with S of [K, O], or without
what $\beta$ does; $o_t = S_t^\top q_t$. A position with k = 0 and $\lambda$ = 1 leaves the state as it is.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from thetahat.model.recurrence.pairs import decay_between, read_within, solve_within
from thetahat.model.recurrence.rounds import Rounds, State, hand_on

Keys = Float[Tensor, "U W H K"]
Values = Float[Tensor, "U W H O"]


def decayed_sum(
    q: Float[Tensor, "U W G K"],
    k: Float[Tensor, "U W G K"],
    v: Values,
    log_decay: Float[Tensor, "U W H"] | None,
    rounds: Rounds,
    start: State | None = None,
) -> tuple[Values, State | None]:
    r"""$S_t = \lambda_t S_{t-1} + k_t v_t^\top$, read as $S_t^\top q_t$, and the states that a cache keeps.

    Within a chunk $\sum_{j \le i} \frac{\Lambda_i}{\Lambda_j} (q_i^\top k_j) v_j$ with $\Lambda$ the product of decays:
    Dao and Gu, Transformers are SSMs, 2024 (arXiv 2405.21060, section 6). Without decays $\lambda = 1$. Queries and
    keys are those of each head, or one of all, which are multiplied once.
    """
    total = v.new_zeros(v.shape[:3]) if log_decay is None else log_decay.cumsum(1)
    end = total[:, -1:]
    added = torch.einsum("uwhk,uwho->uhko", k, v * (end - total).exp()[..., None])
    before, last = hand_on(end.exp().transpose(1, 2)[..., None], added, rounds, start)
    q_head, k_head, v_head, total_head = (x.transpose(1, 2) for x in (q, k, v, total))
    between = decay_between(total_head[:1, :1] if log_decay is None else total_head)
    within = read_within(q_head, k_head, v_head, total_head, between)
    return within.transpose(1, 2) + torch.einsum("uwhk,uhko->uwho", q, before) * total.exp()[..., None], last


def delta_rule(
    q: Keys,
    k: Keys,
    v: Values,
    rates: tuple[Float[Tensor, "U W H"], Float[Tensor, "U W H"]],
    rounds: Rounds,
    start: State | None = None,
) -> tuple[Values, State | None]:
    r"""$S_t = \lambda_t (I - \beta_t k_t k_t^\top) S_{t-1} + \beta_t k_t v_t^\top$; rates: $\beta$ and $\ln \lambda$.

    What position i adds is $u_i k_i^\top$ with $u_i$ less what the chunk has added under its key before: a triangular
    system $(I + A) U = \beta V$, $A_{ij} = \beta_i \frac{\Lambda_i}{\Lambda_j} k_i^\top k_j$ for j < i, solved once for
    what the chunk reads and once for the state before it, $U - W S$. Then a chunk is one linear map of that state: Yang
    et al., Parallelizing Linear Transformers with the Delta Rule, 2024 (arXiv 2406.06484), and Gated Delta Networks,
    2024 (arXiv 2412.06464).
    """
    q, k, v, beta, total = *(x.transpose(1, 2) for x in (q, k, v, rates[0])), rates[1].transpose(1, 2).cumsum(-1)
    beta, end, between, grown = beta[..., None], total[..., -1:], decay_between(total), total.exp()[..., None]
    both = torch.cat([beta * v, beta * grown * k], -1)
    u, w = solve_within(k, beta, both, total, between).split([v.shape[-1], k.shape[-1]], -1)
    kept = (k * (end - total).exp()[..., None]).mT  # [U H K W]
    change = torch.diag_embed(end.exp().expand(*end.shape[:-1], k.shape[-1])) - kept @ w
    before, last = hand_on(change, kept @ u, rounds, start)
    out = read_within(q, k, u - w @ before, total, between) + (q * grown) @ before
    return out.transpose(1, 2), last
