"""Counts that need no weights: parameters and floating-point operations."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import nn

from thetahat.model.adapters.lora import LowRank
from thetahat.model.attention.window import mean_keys, suits_windows
from thetahat.model.build import LanguageModel, build_model
from thetahat.model.config import Alibi, AttendingMixer, DecoderConfig, EncoderConfig, EncoderDecoderConfig, ModelConfig
from thetahat.model.decoder import Decoder
from thetahat.model.encoder_decoder import EncoderDecoder
from thetahat.model.layers.experts import Experts, Router
from thetahat.model.recurrence.count import recurrent_flops
from thetahat.model.stack import Stack

Pairs = Literal["all", "window", "visible"]
"""Which pairs of positions count in attention: all that a CPU multiplies, those of a piece or, where a window is
read a chunk at a time, of a chunk; those within the window of a layer, as is the convention; or those alone that are
visible, as a fused kernel does.
"""


def parameters_by_part(model: nn.Module) -> dict[str, int]:
    """The numbers in each part of a model, a tied table once and under the name of its tokens; the parts add up."""
    found: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        part = _part_of(name.split("."))
        found[part] = found.get(part, 0) + parameter.numel()
    return found


def _part_of(names: Sequence[str]) -> str:
    side = "encoder's " if names[0] == "encoder" else ""
    if names[-1] in {"lora_in", "lora_out"}:
        return "adapters"
    if "new_rows" in names:
        return "rows of new tokens"
    part = next((part for name, part in _PARTS.items() if name in names), "")
    if not part:
        part = "norms" if any(name.endswith("norm") for name in names) else "other"
    return side + part


_PARTS = {
    "future": "blocks of future tokens",
    "embedding": "token embeddings",
    **dict.fromkeys(("position_embedding", "relative_embedding"), "position embeddings"),
    "type_embedding": "type embeddings",
    "value_embedding": "value embeddings",
    "cross_attention": "attention to the source",
    "attention": "attention",
    "router": "routers",
    "experts": "experts",
    "mlp": "feed-forward",
    **dict.fromkeys(("attention_add", "cross_add", "mlp_add"), "residual scales"),
    "smear": "smear",
    "widen": "embedding projection",
    "transform": "head",
    "head": "head",
}
"""Of a module's name, the part that is counted; norms are all others that end so."""


def flops_per_token(config: ModelConfig, vocab_size: int, context: int) -> int:
    r"""Forward and backward, a multiply-add as two: $6\,(\text{weights}, \text{head once}) + 12\,H \sum_a K_a T_a$.

    The sum is over the attentions: L, or $L_\mathrm{encoder} + 2L$ in an encoder-decoder, where it is for each token of
    the target with a source as long. $T_a$ is `context`, or the positions that a layer's distance lets it see. The
    convention of PaLM's appendix B (arXiv 2204.02311): attention counts as if it were not causal.
    """
    mixing = mixing_flops(config, positions_seen(config, context, "window", context, context))
    return 6 * matrix_weights(build_model(config, vocab_size)) + round(3 * mixing)


def mixing_flops(config: ModelConfig, seen: Sequence[int | float]) -> int | float:
    r"""Of the forward pass, for a position that sees so many in each attention: $4\,H \sum_a K_a T_a$.

    Scores and the sums over values are two products; the backward pass has four. K is the width of a key, which values
    of latent attention are padded to. Layers with a state add their own
    (`recurrence/count.py`), of which the backward pass has twice as much, too.
    """
    mixers = [*map(config.mixer, range(config.num_layers))]
    if isinstance(config, DecoderConfig):
        mixers += [config.of_future.mixer(0)] * config.num_future
    recurrent = [recurrent_flops(config, mixer) for mixer in mixers if not isinstance(mixer, AttendingMixer)]
    attentions, cross = [mixer for mixer in mixers if isinstance(mixer, AttendingMixer)], 0
    if isinstance(config, EncoderDecoderConfig):
        attentions += config.attentions_of(config.num_encoder_layers)
        cross = config.num_layers
    widths = [*map(config.key_width, attentions), *[config.head_width] * cross]
    products = sum(width * number for width, number in zip(widths, seen, strict=True))
    return 4 * config.num_heads * products + sum(recurrent)


def positions_seen(
    config: ModelConfig,
    piece: int | float,
    pairs: Pairs,
    source_piece: int | float = 0,
    source: int | float = 0,
    share: int | float = 1,
) -> list[int | float]:
    """How many positions a position sees in each attention, where what stands apart has `piece` positions.

    In an encoder-decoder, for each position of the target: its own, the encoder's for the `share` of positions that the
    source has, in pieces of `source_piece`, and the `source` of the row, all of which is multiplied under a mask.
    """
    mixers = config.attentions_of(config.num_layers)
    both_ways = isinstance(config, EncoderConfig)
    if isinstance(config, DecoderConfig):
        mixers += config.num_future * config.of_future.attentions_of(1)
    is_scored = config.attention.cap is not None or config.attention.relative is not None
    seen = [_seen(mixer, piece, pairs, both_ways=both_ways, is_scored=is_scored) for mixer in mixers]
    if isinstance(config, EncoderDecoderConfig):
        encoder = config.attentions_of(config.num_encoder_layers)
        of_source = partial(_seen, piece=source_piece, pairs=pairs, both_ways=True, is_scored=is_scored)
        seen += [share * of_source(mixer) for mixer in encoder]
        seen += [source] * config.num_layers
    return seen


def _seen(mixer: AttendingMixer, piece: int | float, pairs: Pairs, *, both_ways: bool, is_scored: bool) -> int | float:
    r"""The mean over a piece of n positions, with a distance d of which each sees $w = \min(n, d + 1)$ to one side.

    Visible are causally $w - w (w - 1) / 2n$, and in both directions $2w - 1 - w (w - 1) / n$. With global positions,
    of which $g = \min(G, n - w)$ are too far for somebody, $(g (g + 1) / 2 + g (n - w - g)) / n$ more to each side.
    """
    distance = mixer.distance
    if pairs == "all":
        return piece if distance is None or is_scored else _multiplied(mixer, piece, both_ways=both_ways)
    width = min(piece, 1 + distance) if distance is not None else piece
    if pairs == "window":
        near = 2 * width - 1 if both_ways and distance is not None else width
        return min(piece, near + mixer.num_global)
    far = min(mixer.num_global, piece - width)
    lost = width * (width - 1) / piece - 2 * (far * (far + 1) / 2 + far * (piece - width - far)) / piece
    return 2 * width - 1 - lost if both_ways else width - lost / 2


def _multiplied(mixer: AttendingMixer, piece: int | float, *, both_ways: bool) -> int | float:
    """Where a window is read a chunk at a time on a CPU; elsewhere all are multiplied."""
    distance, num_global = mixer.distance or 0, mixer.num_global
    if isinstance(mixer.positions, Alibi) or not suits_windows(round(piece), distance, num_global):
        return piece
    return mean_keys(round(piece), distance, num_global, is_causal=not both_ways)


@dataclass(frozen=True, slots=True)
class Weights:
    """Numbers in matrices by how often they are multiplied: once a position of the target, of the source, a target.

    Of experts those count that a position chooses.
    """

    stack: int  # with every position of the stack that the head reads
    source: int  # with every position that an encoder reads
    head: int  # with every target, and with those behind the next token

    @property
    def total(self) -> int:
        """All of them."""
        return self.stack + self.source + self.head


def weights_of(model: LanguageModel, *, trained: bool = False) -> Weights:
    """Those of a model, or only those that are `trained`: a shared layer as often as it is read."""
    stack = _of_stack(model, trained) + sum(_matrices(one, trained) for one in (model.transform,) if one)
    source, times = 0, 1
    if isinstance(model, Decoder):
        stack, times = stack + _matrices(model.future, trained), 1 + len(model.future)
    if isinstance(model, EncoderDecoder):
        source = _of_stack(model.encoder, trained)
        for layer in range(model.num_layers):
            cross = model.block(layer).cross_attention
            of_source = sum(_matrices(one, trained) for one in (cross.key, cross.value) if one)
            stack, source = stack - of_source, source + of_source
    head = model.head.weight
    return Weights(stack, source, times * head.numel() if head.requires_grad or not trained else 0)


def matrix_weights(model: LanguageModel) -> int:
    """Of all matrices that a token is multiplied with: a shared layer as often as it is read."""
    return weights_of(model).total


def idle_parameters(model: nn.Module) -> int:
    """Parameters of experts that a position does not choose."""
    found = [one for one in model.modules() if isinstance(one, Experts)]
    return sum(one.num_idle * sum(p.numel() for p in one.experts[0].parameters()) for one in found)


def _of_stack(stack: Stack, trained: bool) -> int:
    times_read = stack.num_layers // len(stack.blocks)
    return times_read * _matrices(stack.blocks, trained) + (_matrices(stack.widen, trained) if stack.widen else 0)


def _matrices(module: nn.Module, trained: bool) -> int:
    """What a position is multiplied with."""
    total = _all_matrices(module, trained)
    for one in module.modules():
        if isinstance(one, Experts):
            total -= _all_matrices(one.experts, trained) * one.num_idle // len(one.experts)
    return total


def _all_matrices(module: nn.Module, trained: bool) -> int:
    matrices = [one.weight for one in module.modules() if isinstance(one, nn.Linear | Router)]
    for one in module.modules():
        matrices += [one.lora_in, one.lora_out] if isinstance(one, LowRank) else []
    return sum(one.numel() for one in matrices if one.requires_grad or not trained)
