"""Log-probabilities in chunks of tokens, so that the logits of all of them never exist at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast, final

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from thetahat.core.errors import ModelError
from thetahat.objective.config import ObjectiveConfig
from thetahat.objective.log_prob import Head, Kernel, Told, joined, reference


@final
@dataclass(frozen=True, slots=True)
class Chunked:
    """A kernel, `size` tokens at a time: at most [size, V] logits exist at once."""

    size: int
    kernel: Kernel = reference

    def __call__(self, hidden: Float[Tensor, "N D"], head: Head, targets: Int[Tensor, " N"]) -> Told:
        """As every kernel: the gradient may be of any function of what is told.

        So the backward pass computes each chunk's logits again: four products with the head.
        """
        chunks = zip(hidden.split(self.size), targets.split(self.size), strict=True)
        told = [
            cast(Told, checkpoint(self.kernel, h, head, t, use_reentrant=False, preserve_rng_state=False))  # pyright: ignore
            for h, t in chunks
        ]
        return joined(told)

    def summed(
        self,
        hidden: Float[Tensor, "N D"],
        head: Head,
        targets: Int[Tensor, " N"],
        weights: Float[Tensor, " N"],
        z_loss: float = 0.0,
    ) -> tuple[Float64[Tensor, ""], Told]:
        r"""$\sum_i w_i \left(\log \Pr_i - c\,(\log Z_i)^2\right)$, c being `z_loss`; what is told has no gradient.

        The gradient of this sum is made on the way forward, a chunk at a time, while its logits are there: three
        products with the head, two where the head is frozen. The backward pass multiplies it by a number. As in Hsu et
        al., Liger Kernel, 2024 (arXiv 2410.10989). A head that is no module cannot list its parameters, and costs four;
        so does one on several ranks, which may read gathered parameters in the place of its own.
        """
        own = head if isinstance(head, nn.Module) and not torch.distributed.is_initialized() else None
        parameters = [one for one in own.parameters() if one.requires_grad] if own is not None else []
        if torch.is_grad_enabled() and own is not None and (hidden.requires_grad or parameters):
            value, *told = cast(
                list[Tensor], _Summed.apply((self, head, z_loss), targets, weights, hidden, *parameters)
            )
            return value, Told(*told)
        told = self(hidden, head, targets)
        return weighed(told, weights, z_loss), told


class _Summed(torch.autograd.Function):
    """The gradient of `Chunked.summed`, with which it is made."""

    @staticmethod
    def forward(ctx: Any, how: Any, targets: Tensor, weights: Tensor, *read: Tensor) -> tuple[Tensor, ...]:
        chunked, head, z_loss = cast(tuple[Chunked, Head, float], how)
        hidden, *parameters = read
        told, value, of_hidden = list[Told](), weights.new_zeros((), dtype=torch.float64), list[Tensor]()
        of_parameters = list[Tensor | None]([None] * len(parameters))
        for h, t, w in zip(*(whole.split(chunked.size) for whole in (hidden, targets, weights)), strict=True):
            with torch.enable_grad():
                state = h.detach().requires_grad_()
                one = chunked.kernel(
                    state.view_as(state), head, t
                )  # torch has no hooks for the gradient of leaves here
                part = weighed(one, w, z_loss)
            if not told:
                _check(part, [state, *parameters])
            with torch.autocast(h.device.type, enabled=False):
                first, *others = torch.autograd.grad(part, [state, *parameters], allow_unused=True)
            others = others if told else _apart(others)
            told.append(Told(*(values.detach() for values in one)))
            value, of_parameters = value + part.detach(), [*map(_added, of_parameters, others)]
            of_hidden.append(first)
        ctx.save_for_backward(torch.cat(of_hidden), *of_parameters)
        whole = joined(told)
        ctx.mark_non_differentiable(*whole)
        return value, *whole

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        gradient = gradients[0]
        each = (None if one is None else one * gradient.to(one.dtype) for one in ctx.saved_tensors)
        return None, None, None, *each


def weighed(told: Told, weights: Float[Tensor, " N"], z_loss: float = 0.0) -> Float64[Tensor, ""]:
    r"""$\sum_i w_i \left(\log \Pr_i - c\,(\log Z_i)^2\right)$ with c = `z_loss`, in float64."""
    value = (weights * told.log_prob.to(torch.float64)).sum()
    return value - z_loss * squares(told, weights) if z_loss else value


def squares(told: Told, weights: Float[Tensor, " N"]) -> Float64[Tensor, ""]:
    r"""$\sum_i w_i (\log Z_i)^2$, in float64."""
    return (weights * told.log_normalizer.to(torch.float64).square()).sum()


def _apart(gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Each in memory of its own, since two parameters may have one gradient, and more is added to each."""
    places, found = set[int](), list[Tensor | None]()
    for one in gradients:
        is_shared = one is not None and one.data_ptr() in places
        found.append(one.clone() if one is not None and is_shared else one)
        places |= set() if one is None else {one.data_ptr()}
    return found


def _added(sum_before: Tensor | None, part: Tensor | None) -> Tensor | None:
    return part if sum_before is None else sum_before if part is None else sum_before.add_(part)


def _check(value: Tensor, known: list[Tensor]) -> None:
    """Raises ModelError where a head reads parameters that are not its own, whose gradient would be lost."""
    waiting, seen = [value.grad_fn], set[Any]()
    while waiting:
        node = cast(Any, waiting.pop())
        if node is None or node in seen:
            continue
        seen.add(node)
        waiting += [before for before, _ in node.next_functions]
        leaf = getattr(node, "variable", None)
        if leaf is not None and all(leaf is not one for one in known):
            raise ModelError(
                f"the head reads a parameter of shape {list(leaf.shape)} that is none of its own",
                cure="make it a parameter of the head, or objective.chunk_size=0",
            )


def build_kernel(objective: ObjectiveConfig, *, compiles: bool) -> Kernel:
    """The kernel that `objective.kernel` names.

    `auto` takes what other keys say: the fused one where the run `compiles` its layers, else the reference. Each of
    them is taken in chunks where `objective.chunk_size` is not 0.
    """
    is_fused = objective.kernel == "fused" or (objective.kernel == "auto" and compiles)
    kernel: Kernel = torch.compile(reference) if is_fused else reference
    return Chunked(objective.chunk_size, kernel) if objective.chunk_size else kernel
