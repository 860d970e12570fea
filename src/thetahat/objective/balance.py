r"""The load of experts, and what keeps it even: apart from the likelihood, and a sum over sequences or positions.

Nothing here is a function of a micro-batch. A load is a count, which adds over micro-batches and ranks. A penalty is a
sum of terms of one sequence or one position each, divided by the number of positions of the whole step.
"""

import torch
from jaxtyping import Bool, Float, Float64, Int, Int64
from torch import Tensor


def load(chosen: Int[Tensor, "N k"], is_read: Bool[Tensor, " N"], num_experts: int) -> Int64[Tensor, " E"]:
    """By how many of the positions that are read each expert was chosen."""
    return torch.bincount(chosen[is_read].flatten(), minlength=num_experts)


def moved_bias(bias: Float[Tensor, " E"], load: Int64[Tensor, " E"], rate: float) -> Float[Tensor, " E"]:
    r"""$b_i + \gamma\,\mathrm{sign}(\bar c - c_i)$ for the counts c of a step; they are compared as integers.

    Wang et al., Auxiliary-Loss-Free Load Balancing Strategy for Mixture-of-Experts, 2024 (arXiv 2408.15664).
    """
    return bias + rate * (load.sum() - load * len(load)).sign().to(bias.dtype)


def sequence_balance(
    scores: Float[Tensor, "N E"],
    sequence: Int[Tensor, " N"],
    chosen: Int[Tensor, "M k"],
    sequence_of_chosen: Int[Tensor, " M"],
) -> Float64[Tensor, ""]:
    r"""$\sum_s n_s \sum_i f_{s,i} P_{s,i}$, the penalty of each sequence s times its $n_s$ positions.

    $f_{s,i} = \tfrac{E}{k n_s} \sum_{t \in s} [i \in \mathrm{chosen}_t]$ has no gradient, and
    $P_{s,i} = \tfrac{1}{n_s} \sum_{t \in s} s_{t,i} / \sum_j s_{t,j}$; where all is even a sequence has 1.
    Of sequence -1, which is padding, nothing counts. `chosen` may be of more positions than `scores`, of whole
    sequences where these are a part of them: then the parts add up.

    DeepSeek-V3 Technical Report, 2024 (arXiv 2412.19437), equations 17 to 20; over batches it is that of Fedus et al.,
    Switch Transformers, 2021 (arXiv 2101.03961).
    """
    num_experts = scores.shape[1]
    names, of_chosen = sequence_of_chosen.unique(return_inverse=True)
    counts = torch.zeros(len(names), num_experts, dtype=torch.float64, device=scores.device)
    counts.index_put_((of_chosen[:, None].expand_as(chosen), chosen), counts.new_ones(()), accumulate=True)
    share = num_experts * counts / counts.sum(1, keepdim=True)  # f
    is_read = sequence >= 0
    seen = scores[is_read]
    probability = seen / seen.sum(1, keepdim=True)
    return (share[torch.searchsorted(names, sequence[is_read])] * probability).sum()


def router_z(logits: Float[Tensor, "N E"], is_read: Bool[Tensor, " N"]) -> Float64[Tensor, ""]:
    r"""$\sum_t \left(\log \sum_i \exp z_{t,i}\right)^2$ over the positions that are read.

    It keeps logits where their arithmetic is precise: Zoph et al., ST-MoE, 2022 (arXiv 2202.08906), equation 5.
    """
    return logits[is_read].logsumexp(-1).square().sum(dtype=torch.float64)
