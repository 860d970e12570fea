"""Log-probabilities of targets: the reference, and one that never holds [tokens, vocabulary]."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Head = Callable[[Tensor], Tensor]  # hidden [N D] -> logits [N V]


def token_log_probs(hidden: Float[Tensor, "N D"], head: Head, targets: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
    r"""The log-probability of each target, in nats, <= 0.

    $\log \Pr_\theta(t_i \mid \cdot) = z_{i,t_i} - \log \sum_v \exp z_{i,v}$ with logits $z_i = \mathrm{head}(h_i)$, in
    at least float32 whatever the dtype of `hidden`; float64 stays float64. This is the reference.
    """
    logits_NV = head(hidden)
    logits_NV = logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32))
    return logits_NV.gather(-1, targets[:, None])[:, 0] - logits_NV.logsumexp(-1)


def chunked_token_log_probs(
    hidden: Float[Tensor, "N D"], head: Head, targets: Int[Tensor, " N"], chunk_size: int
) -> Float[Tensor, " N"]:
    """The same numbers, `chunk_size` tokens at a time; backward makes each chunk's logits again.

    So at most [chunk_size, V] logits live at once, for one more product with the head.
    """
    chunks = zip(hidden.split(chunk_size), targets.split(chunk_size), strict=True)
    return torch.cat(
        [
            checkpoint(token_log_probs, h, head, t, use_reentrant=False, preserve_rng_state=False)  # pyright: ignore
            for h, t in chunks
        ]
    )
