"""How likely each sequence of a step was, beside the others: summed on the device, in numbers that the host reads."""

from collections.abc import Sequence

import torch
from jaxtyping import Float64
from torch import Tensor

from thetahat.core.batch import Batch
from thetahat.objective.log_prob import Told

WORST = 3  # sequences of a step that are told apart from the others
LEAST_TARGETS = 16  # of a sequence: the mean of fewer varies too much to be compared
FULL = 64  # targets, from which on the mean is taken as it is; that of fewer varies more, and counts less
NUM_VALUES = 4 + 3 * WORST  # of a summary


def sums_of(batch: Batch, told: Told, num_pieces: int) -> Float64[Tensor, "3 P"]:
    """Targets, nats and log-normalizers of each piece of a micro-batch, summed; the host does not wait."""
    piece, is_target = batch.inputs.visibility.piece.flatten(), batch.weights.flatten() != 0
    if batch.supervised is not None:
        piece, is_target = piece[batch.supervised], is_target[batch.supervised]
    index = torch.where(is_target, piece, num_pieces)
    each = torch.stack([torch.ones_like(told.log_prob), -told.log_prob, told.log_normalizer]).to(torch.float64)
    sums = torch.zeros(3, num_pieces + 1, dtype=torch.float64, device=piece.device)
    return sums.index_add_(1, index, each)[:, :num_pieces]


def summary(sums: Sequence[Float64[Tensor, "3 _"]], device: torch.device) -> Float64[Tensor, " K"]:
    r"""Of all pieces of a rank: targets, nats and log-normalizers summed, the median of nats a target, and the worst.

    A piece of $n$ targets costs $s = -\frac{1}{n} \sum_i \log \Pr(t_i)$, and exceeds the median m of all pieces with at
    least LEAST_TARGETS by $(s - m) \sqrt{\min(n, \mathrm{FULL}) / \mathrm{FULL}}$, since the mean of n varies as
    $1 / \sqrt n$. Of the WORST of them, in descending order: this excess, n, and the index among all pieces of the
    rank; of those that are missing the excess is $-\infty$.
    """
    found = torch.full((NUM_VALUES,), -torch.inf, dtype=torch.float64, device=device)
    found[:4] = 0.0
    if not sums:
        return found
    targets, nats, log_normalizer = torch.cat(list(sums), 1)
    counts = targets >= LEAST_TARGETS
    each = nats / targets.clamp(min=1)
    median = torch.where(counts, each, torch.nan).nanmedian()
    excess = torch.where(counts, (each - median) * (targets.clamp(max=FULL) / FULL).sqrt(), -torch.inf)
    most, index = excess.topk(min(WORST, len(excess)))
    found[:4] = torch.stack([targets.sum(), nats.sum(), log_normalizer.sum(), median.nan_to_num()])
    found[4:].view(WORST, 3)[: len(most)] = torch.stack([most, targets[index], index.to(torch.float64)], 1)
    return found
