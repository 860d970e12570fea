"""Log-probabilities of targets: the reference, and one that never holds [tokens, vocabulary]."""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Head = Callable[[Tensor], Tensor]  # hidden [N D] -> logits [N V]
PartialHead = Callable[[Tensor, slice], Tensor]  # hidden [N D], some of the vocabulary -> their logits, newly made
LogProbs = Callable[[Tensor, Head, Tensor], Tensor]  # hidden [N D], head, targets [N] -> log-probabilities [N]

COLUMNS = 512  # tokens of the vocabulary: narrower products would be slower


def token_log_probs(hidden: Float[Tensor, "N D"], head: Head, targets: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
    r"""The log-probability of each target, in nats, <= 0.

    $\log \Pr_\theta(t_i \mid \cdot) = z_{i,t_i} - \log \sum_v \exp z_{i,v}$ with logits $z_i = \mathrm{head}(h_i)$, in
    at least float32 whatever the dtype of `hidden`; float64 stays float64. This is the reference.
    """
    logits_NV = head(hidden)
    logits_NV = logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32))
    return logits_NV.gather(-1, targets[:, None])[:, 0] - logits_NV.logsumexp(-1)


def chunked_token_log_probs(
    hidden: Float[Tensor, "N D"],
    head: Head,
    targets: Int[Tensor, " N"],
    *,
    chunk_size: int,
    log_probs: LogProbs = token_log_probs,
) -> Float[Tensor, " N"]:
    """The same numbers, `chunk_size` tokens at a time; backward makes each chunk's logits again.

    So at most [chunk_size, V] logits live at once, for one more product with the head.
    """
    chunks = zip(hidden.split(chunk_size), targets.split(chunk_size), strict=True)
    return torch.cat([_recomputed(log_probs, h, head, t) for h, t in chunks])


@torch.no_grad()
def judged(
    hidden: Float[Tensor, "N D"], head: PartialHead, targets: Int[Tensor, " N"], vocab_size: int, room: int
) -> tuple[Float[Tensor, " N"], Bool[Tensor, " N"]]:
    r"""The same log-probabilities without a gradient, and whether another token is likelier than the target.

    The vocabulary passes by in blocks of at least `COLUMNS` tokens, of which at most `room` logits live at once (but
    always those that one state has in a block): with the largest logit m and $s = \sum_v \exp(z_v - m)$ of the blocks
    before, a block of logits makes $m' = \max(m, \max_v z_v)$ and $s' = s \exp(m - m') + \sum_v \exp(z_v - m')$.
    Milakov & Gimelshein, Online normalizer calculation for softmax, 2018 (arXiv 1805.02867). Logits are of at least
    float32, s and what is returned of float64. A block that stays in the cache is also quicker to make and to read.
    """
    width = min(max(room // max(len(targets), 1) // COLUMNS, 1) * COLUMNS, vocab_size)
    rows = max(room // width, 1)
    if len(targets) > rows:
        parts = [
            judged(h, head, t, vocab_size, room) for h, t in zip(hidden.split(rows), targets.split(rows), strict=True)
        ]
        log_probs, is_missed = zip(*parts, strict=True)
        return torch.cat(log_probs), torch.cat(is_missed)
    largest = hidden.new_full((len(targets),), -torch.inf, dtype=torch.promote_types(hidden.dtype, torch.float32))
    target, total = largest.clone(), torch.zeros_like(largest, dtype=torch.float64)
    for first in range(0, vocab_size, width):
        logits = head(hidden, slice(first, first + width))
        place = (targets - first).clamp(0, logits.shape[1] - 1)
        target = torch.where(targets == place + first, logits.gather(-1, place[:, None])[:, 0], target)
        before, largest = largest, torch.maximum(largest, logits.amax(-1))
        is_precise = logits.dtype == largest.dtype  # else the difference is, of numbers that were rounded
        below = logits.sub_(largest[:, None]) if is_precise else logits - largest[:, None]
        total = total * (before.double() - largest).exp_() + below.exp_().sum(-1)
    return target.double() - largest - total.log_(), largest > target


def build_log_probs(chunk_size: int, *, compiles: bool) -> LogProbs:
    """The reference, in chunks where `chunk_size` is not 0, by fused kernels where `compiles`."""
    log_probs: LogProbs = torch.compile(token_log_probs) if compiles else token_log_probs
    return partial(chunked_token_log_probs, chunk_size=chunk_size, log_probs=log_probs) if chunk_size else log_probs


def _recomputed(log_probs: LogProbs, hidden: Tensor, head: Head, targets: Tensor) -> Tensor:
    found: Tensor = checkpoint(log_probs, hidden, head, targets, use_reentrant=False, preserve_rng_state=False)  # pyright: ignore
    return found
