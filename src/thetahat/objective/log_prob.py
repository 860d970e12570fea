"""Log-probabilities of targets: the reference, and a kernel without a gradient, in blocks of the vocabulary."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, cast, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

COLUMNS = 512  # of a product, one for each token of the vocabulary: narrower ones would be slower


@runtime_checkable
class Head(Protocol):
    """Turns hidden states into logits. It is called as a module is, so that hooks fire: sharding, adapters, casts."""

    @property
    def num_outputs(self) -> int:
        """V: how many tokens, or labels, have logits."""
        ...

    def __call__(self, hidden: Float[Tensor, "N D"], tokens: slice | None = None) -> Float[Tensor, "N V"]:
        """Logits, newly made, of every token of the vocabulary or of those in a slice of it."""
        ...


@runtime_checkable
class Part(Protocol):
    """Some of the tokens of a vocabulary that several ranks share; a head has it as its attribute `part`."""

    first: int  # of these tokens
    most: int  # tokens that a rank has

    def logits(self, hidden: Float[Tensor, "N D"], tokens: slice | None = None) -> Float[Tensor, "N v"]:
        """Logits, newly made, of these tokens or of those in a slice of them."""
        ...

    def sum(self, values: Tensor) -> Tensor:
        """The sum over ranks, on each of them; its gradient goes to each as it is."""
        ...

    def largest(self, values: Tensor) -> Tensor:
        """The largest over ranks, without a gradient."""
        ...


class Told(NamedTuple):
    """What a kernel computes for each target."""

    log_prob: Float[Tensor, " N"]  # nats, <= 0
    log_normalizer: Float[Tensor, " N"]  # log Z, nats
    is_missed: Bool[Tensor, " N"]  # whether another token is likelier than the target


Kernel = Callable[[Tensor, Head, Tensor], Told]  # hidden [N D], head, targets [N]; all kernels have this signature


def reference(hidden: Float[Tensor, "N D"], head: Head, targets: Int[Tensor, " N"]) -> Told:
    r"""The definition: all logits at once.

    $\log \Pr_\theta(t_i \mid \cdot) = z_{i,t_i} - \log Z_i$, $\log Z_i = \log \sum_v \exp z_{i,v}$ with logits
    $z_i = \mathrm{head}(h_i)$, in at least float32 whatever the dtype of `hidden`; float64 stays float64.
    Where ranks share the vocabulary each makes the logits of its own tokens only.
    """
    if (part := _part_of(head)) is not None:
        return _shared(hidden, part, targets)
    logits_NV = head(hidden)
    logits_NV = logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32))
    return Told(*cast(tuple[Tensor, Tensor, Tensor], _Softmax.apply(logits_NV, targets)))


class _Softmax(torch.autograd.Function):
    r"""What is told of logits, with a gradient that is made in one [N, V] tensor.

    With the gradients g of $\log \Pr$ and $g'$ of $\log Z$, that of a logit is
    $\partial z_v = (g' - g)\, e^{z_v - \log Z} + g\,[v = t]$. It has the bits of the one that autograd makes in four.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        target, largest = logits.gather(-1, targets[:, None])[:, 0], logits.amax(-1)
        log_normalizer = (logits - largest[:, None]).exp_().sum(-1).log_().add_(largest)
        is_missed = largest > target
        ctx.save_for_backward(logits, targets, log_normalizer)
        ctx.mark_non_differentiable(is_missed)
        return target - log_normalizer, log_normalizer, is_missed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        of_log_prob, of_log_normalizer, _ = gradients
        logits, targets, log_normalizer = ctx.saved_tensors
        gradient = (logits - log_normalizer[:, None]).exp_().mul_((of_log_normalizer - of_log_prob)[:, None])
        return gradient.scatter_add_(-1, targets[:, None], of_log_prob[:, None]), None


def _part_of(head: Head) -> Part | None:
    return getattr(head, "part", None)


def _shared(hidden: Float[Tensor, "N D"], part: Part, targets: Int[Tensor, " N"]) -> Told:
    r"""With m the largest logit of all ranks, $\log Z = m + \log \sum_k \sum_{v \in k} \exp(z_v - m)$ over ranks k.

    Two exchanges of a number or two a target. A rank may have no tokens.
    """
    logits_Nv = part.logits(hidden)
    logits_Nv = logits_Nv.to(torch.promote_types(logits_Nv.dtype, torch.float32))
    if not logits_Nv.shape[1]:
        nothing_N = logits_Nv.sum(-1)
        largest_N = part.largest(nothing_N.detach() - torch.inf)
        target_N, total_N = part.sum(torch.stack([nothing_N, nothing_N])).unbind()
        return _of_shared(target_N, total_N, largest_N)
    largest_N = part.largest(logits_Nv.detach().amax(-1))
    below_Nv, place_N = logits_Nv - largest_N[:, None], targets - part.first
    is_here_N = (place_N >= 0) & (place_N < logits_Nv.shape[1])
    target_N = below_Nv.gather(-1, place_N.clamp(0, logits_Nv.shape[1] - 1)[:, None])[:, 0]
    target_N, total_N = part.sum(torch.stack([torch.where(is_here_N, target_N, 0.0), below_Nv.exp().sum(-1)])).unbind()
    return _of_shared(target_N, total_N, largest_N)


def _of_shared(target: Float[Tensor, " N"], total: Float[Tensor, " N"], largest: Float[Tensor, " N"]) -> Told:
    """Of the logits of the targets below the largest ones, and of Z over the exponential of these."""
    log_total = total.log()
    return Told(target - log_total, largest + log_total, target.detach() < 0)


@torch.no_grad()
def judged(hidden: Float[Tensor, "N D"], head: Head, targets: Int[Tensor, " N"], *, room: int) -> Told:
    r"""The same without a gradient, log-probabilities and log Z in float64.

    The vocabulary is read in blocks of at least `COLUMNS` tokens, of which at most `room` logits exist at once (but
    always those of one state in one block): with the largest logit m and $s = \sum_v \exp(z_v - m)$ of the blocks
    before, a block of logits gives $m' = \max(m, \max_v z_v)$ and $s' = s \exp(m - m') + \sum_v \exp(z_v - m')$.
    Milakov & Gimelshein, Online normalizer calculation for softmax, 2018 (arXiv 1805.02867). Logits are of at least
    float32, s of float64. A block that fits into the CPU's cache is also computed and read faster.
    """
    part = _part_of(head)
    vocab_size = head.num_outputs if part is None else part.most  # so that ranks cut alike
    width = min(max(room // max(len(targets), 1) // COLUMNS, 1) * COLUMNS, vocab_size)
    rows = max(room // width, 1)
    if len(targets) > rows:
        portions = zip(hidden.split(rows), targets.split(rows), strict=True)
        return joined([judged(h, head, t, room=room) for h, t in portions])
    largest = hidden.new_full((len(targets),), -torch.inf, dtype=torch.promote_types(hidden.dtype, torch.float32))
    target, total = largest.clone(), torch.zeros_like(largest, dtype=torch.float64)
    logits_of, start = (head, 0) if part is None else (part.logits, part.first)
    for first in range(start, start + vocab_size, width):
        logits = logits_of(hidden, slice(first - start, first - start + width))
        if not logits.shape[1]:  # a rank may have fewer tokens, or none
            break
        place = (targets - first).clamp(0, logits.shape[1] - 1)
        target = torch.where(targets == place + first, logits.gather(-1, place[:, None])[:, 0], target)
        before, largest = largest, torch.maximum(largest, logits.amax(-1))
        is_precise = logits.dtype == largest.dtype  # else the difference is computed in the wider dtype
        below = logits.sub_(largest[:, None]) if is_precise else logits - largest[:, None]
        total = total * (before.double() - largest).exp_() + below.exp_().sum(-1)
    if part is not None:
        before, largest, target = largest, part.largest(largest), part.largest(target)
        total = part.sum(total * (before.double() - largest).exp_())
    log_total = total.log_()
    return Told(target.double() - largest - log_total, largest + log_total, largest > target)


def joined(told: list[Told]) -> Told:
    """What was told of some targets after others."""
    return Told(*(torch.cat(values) for values in zip(*told, strict=True)))
