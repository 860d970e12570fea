"""What a row does inside the model: attention logits, how spread attention is, and the size of the residual stream."""

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor, nn

from thetahat.core.batch import Batch, Inputs, Source
from thetahat.core.visibility import Visibility
from thetahat.core.work.eager import eagerly
from thetahat.model.attention.attention import Attention
from thetahat.model.attention.latent import LatentAttention
from thetahat.model.block import Block
from thetahat.model.build import LanguageModel
from thetahat.model.config import Dtype
from thetahat.model.precision import computing_in

MOST_POSITIONS = 512  # of the row that is read


class Layer(NamedTuple):
    """What was seen of one attention, or of one block; of a layer without attention its numbers are NaN."""

    name: str
    max_logit: float  # the largest attention logit in absolute value, over all heads
    entropy: float  # of attention over that of seeing all alike, the mean over heads and positions
    residual: float  # root mean square of the residual stream behind the block

    @property
    def has_attention(self) -> bool:
        """Whether the layer is an attention."""
        return not math.isnan(self.max_logit)


def block_names(model: nn.Module) -> list[str]:
    """The blocks that are looked into: all but those of the encoder of an encoder-decoder."""
    return [name for name, one in model.named_modules() if isinstance(one, Block) and "encoder." not in f"{name}."]


@dataclass(slots=True)
class _Seen:
    """What hooks have collected, on the device."""

    attention: dict[str, Tensor]
    residual: dict[str, Tensor]

    def row(self, name: str) -> Float64[Tensor, "3"]:
        """Of one block."""
        residual = self.residual[name][None]
        return torch.cat([self.attention.get(name, residual.new_full((2,), torch.nan)), residual])


@torch.no_grad()
def inside(model: LanguageModel, batch: Batch, dtype: Dtype, device: torch.device) -> Float64[Tensor, "n 3"]:
    """What `Layer` has of each block, in the order of `block_names`, for the first row of a batch; the host may go on.

    The row is read once more, without dropout and without a gradient. Nothing of the model is changed.
    """
    inputs = _first_row(batch.inputs)
    seen = inputs.visibility.to(device)
    visible = seen.mask()[0] & (seen.piece[0] >= 0)[:, None]  # what is padding asks nothing
    found, was_training = _Seen({}, {}), model.training
    model.eval()
    try:
        with eagerly(device), _hooks(model, visible, found), computing_in(dtype, device):
            model.hidden(inputs.map(lambda tensor: tensor.to(device)))
    finally:
        model.train(was_training)
    nothing = torch.zeros(3, dtype=torch.float64, device=device)  # of a block that another stage of a pipeline has
    return torch.stack([found.row(name) if name in found.residual else nothing for name in block_names(model)])


def layers_of(names: Sequence[str], rows: Sequence[Sequence[float]]) -> list[Layer]:
    """The same on the host."""
    return [Layer(name, *row) for name, row in zip(names, rows, strict=True)]


@contextmanager
def _hooks(model: nn.Module, visible: Bool[Tensor, "T T"], found: _Seen) -> Generator[None]:
    """Watches every block and its attention to the same positions inside the block."""
    handles: list[Any] = []
    for name in block_names(model):
        block = cast(Block, model.get_submodule(name))
        if isinstance(block.attention, Attention | LatentAttention):
            handles.append(block.attention.register_forward_pre_hook(_asks(name, visible, found)))
        handles.append(block.register_forward_hook(_sizes(name, found)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _asks(name: str, visible: Bool[Tensor, "T T"], found: _Seen) -> Callable[..., Any]:
    """A hook by which an attention's queries and keys are looked at on their way to its kernel."""

    def hook(module: Attention | LatentAttention, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        x, way, *rest = arguments

        def attend(q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None = None) -> Tensor:
            found.attention[name] = logits_of(q[0], k[0], visible)
            return way.attend(q, k, v, sinks)

        return (x, way._replace(attend=attend), *rest)

    return hook


def _sizes(name: str, found: _Seen) -> Callable[..., None]:
    def hook(module: nn.Module, arguments: Any, output: Float[Tensor, "B T D"]) -> None:
        found.residual[name] = output[0].double().square().mean().sqrt()

    return hook


def logits_of(
    q: Float[Tensor, "H T K"], k: Float[Tensor, "G T K"], visible: Bool[Tensor, "T T"]
) -> Float64[Tensor, "2"]:
    r"""The largest $|q_i k_j^\top| / \sqrt{K}$ over heads and what is visible, and how spread attention is.

    That is the mean of $-\sum_j a_{ij} \ln a_{ij} / \ln n_i$ with $a_i$ the softmax over the $n_i > 1$ visible
    positions, over heads and positions: 1 where all are seen alike, 0 where one is. Entropy that falls to 0 goes with
    instability: Zhai et al., 2023 (arXiv 2303.06296).
    """
    keys = k.repeat_interleave(len(q) // len(k), 0)
    logits = (q.float() @ keys.float().mT) / q.shape[-1] ** 0.5
    largest = logits.abs().masked_fill(~visible, 0.0).amax()
    log_probs = logits.masked_fill(~visible, -torch.inf).log_softmax(-1)
    entropy = -(log_probs.exp() * log_probs.masked_fill(~visible, 0.0)).sum(-1)
    count = visible.sum(-1)
    spread = (entropy / count.clamp(min=2).log())[:, count > 1]
    return torch.stack([largest, spread.mean() if spread.numel() else spread.new_ones(())]).double()


def _first_row(inputs: Inputs) -> Inputs:
    """The first row, and of that the first positions."""
    seen, stop = inputs.visibility, MOST_POSITIONS
    is_open = None if seen.is_open is None else seen.is_open[:1, :stop]
    visibility = Visibility(seen.piece[:1, :stop], seen.ancestors, seen.is_causal, is_open=is_open)
    source = None
    if inputs.source is not None:
        source = Source(_whole_row(inputs.source.inputs), inputs.source.piece[:1, :stop])
    return Inputs(inputs.tokens[:1, :stop], inputs.position[:1, :stop], visibility, source)


def _whole_row(inputs: Inputs) -> Inputs:
    visibility = replace(inputs.visibility, piece=inputs.visibility.piece[:1], is_plain=False, lengths=None)
    return Inputs(inputs.tokens[:1], inputs.position[:1], visibility, None)
