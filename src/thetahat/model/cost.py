"""Counts that need no weights: parameters and floating-point operations."""

from collections.abc import Sequence

from torch import nn

from thetahat.model.build import LanguageModel, build_model
from thetahat.model.config import EncoderDecoderConfig, ModelConfig
from thetahat.model.encoder_decoder import EncoderDecoder
from thetahat.model.stack import Stack


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
    "embedding": "token embeddings",
    **dict.fromkeys(("position_embedding", "relative_embedding"), "position embeddings"),
    "type_embedding": "type embeddings",
    "cross_attention": "attention to the source",
    "attention": "attention",
    "mlp": "feed-forward",
    "widen": "embedding projection",
    "transform": "head",
    "head": "head",
}
"""Of a module's name, the part that is counted; norms are all others that end so."""


def flops_per_token(config: ModelConfig, vocab_size: int, context: int) -> int:
    r"""Forward and backward, a multiply-add as two: $6\,(\text{weights}, \text{head once}) + 12\,H K \sum_a T_a$.

    The sum is over the attentions: L, or $L_\mathrm{encoder} + 2L$ in an encoder-decoder, where it is for each token of
    the target with a source as long. $T_a$ is `context`, or the positions that a layer's distance lets it see. The
    convention of PaLM's appendix B (arXiv 2204.02311): attention counts as if it were not causal.
    """
    seen = [min(context, 1 + (mixer.distance or context)) for mixer in map(config.mixer, range(config.num_layers))]
    if isinstance(config, EncoderDecoderConfig):
        encoder = map(config.mixer, range(config.num_encoder_layers))
        seen += [min(context, 1 + 2 * (mixer.distance or context)) for mixer in encoder]
        seen += [context] * config.num_layers
    weights = matrix_weights(build_model(config, vocab_size))
    return 6 * weights + 12 * config.num_heads * config.head_width * sum(seen)


def matrix_weights(model: LanguageModel) -> int:
    """Of all matrices that a token is multiplied with: a shared layer as often as it is read."""
    stacks: list[Stack] = [model, model.encoder] if isinstance(model, EncoderDecoder) else [model]
    total = model.head.weight.numel()
    for stack in stacks:
        times_read = stack.num_layers // len(stack.blocks)
        inside = times_read * _matrices(stack.blocks)
        total += inside + sum(
            _matrices(one) for one in (stack.widen, model.transform if stack is model else None) if one
        )
    return total


def _matrices(module: nn.Module) -> int:
    return sum(one.weight.numel() for one in module.modules() if isinstance(one, nn.Linear))
