"""Log-probabilities of targets: the reference, and one that never holds [tokens, vocabulary]."""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Head = Callable[[Tensor], Tensor]  # hidden [N D] -> logits [N V]
LogProbs = Callable[[Tensor, Head, Tensor], Tensor]  # hidden [N D], head, targets [N] -> log-probabilities [N]


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


def build_log_probs(chunk_size: int, *, compiles: bool) -> LogProbs:
    """The reference, in chunks where `chunk_size` is not 0, by fused kernels where `compiles`."""
    log_probs: LogProbs = torch.compile(token_log_probs) if compiles else token_log_probs
    return partial(chunked_token_log_probs, chunk_size=chunk_size, log_probs=log_probs) if chunk_size else log_probs


def _recomputed(log_probs: LogProbs, hidden: Tensor, head: Head, targets: Tensor) -> Tensor:
    found: Tensor = checkpoint(log_probs, hidden, head, targets, use_reentrant=False, preserve_rng_state=False)  # pyright: ignore
    return found
