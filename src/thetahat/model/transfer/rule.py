r"""Learning rates that were chosen on a small model and hold on a wider and deeper one: the whole rule.

A run names the shape at which its rates were chosen (`TransferConfig`). With $m$ the model's width over that width and
$l$ its depth over that depth, every parameter begins, and is updated, by the row that fits it. The start is a factor of
what its law says without, the others of the group's `learning_rate`, `weight_decay` and `epsilon`:

| parameter                        | start | rate, AdamW | rate, Muon | decay    | epsilon |
|----------------------------------|-------|-------------|------------|----------|---------|
| tables of tokens and positions   | 1     | 1           | -          | 1 / rate | 1/m     |
| matrices of a block              | 1     | 1/m         | s          | 1 / rate | 1/(m l) |
| those that write into the stream | 1/√l  | 1/(m l)     | s/l        | 1 / rate | 1/m     |
| gains and biases of a block      | 1     | 1           | -          | 1        | 1/(m l) |
| biases that write into it        | 1     | 1/l         | -          | 1 / rate | 1/m     |
| gains behind the last block      | 1     | 1           | -          | 1        | 1/m     |
| the head                         | 1/m   | 1/m         | -          | 1 / rate | 1       |
| biases of the head               | 1     | 1           | -          | 1        | 1       |

s is 1 for Muon's scale "shape" and 1/√m for "rms". At the shape itself every factor is 1, and the run is what it is
without, to the bit.

This is Table 1 of Dey et al., Don't be lazy: CompleteP enables compute-efficient deep transformers (2025, arXiv
2505.01618) with α = 1, which extends µP (Yang et al., Tensor Programs V, 2022, arXiv 2203.03466) to depth, in another
of the equivalent forms that Everett et al. list (2024, arXiv 2407.05872). The paper multiplies the output of each
branch by 1/l and the logits by 1/m. Here the last matrix of a branch, W, is kept as $a W$ with a = 1/l: it begins a
times smaller, and an update of AdamW moves it a times less, if epsilon is divided by a, since its gradient is that of
W divided by a. So the model computes the same, and has no multiplier that another program would have to know. By its
law aW begins at 1/√(2L) of its fan-in, which is √l less than at the shape itself already; the rest of 1/l is the 1/√l
of the table. Weight decay shrinks by rate times decay a step, which never changes.

Muon. What a layer does to the size of activations is bounded by the spectral norm of its change, which should keep
pace with √(fan_out / fan_in) (Yang et al., A spectral condition for feature learning, 2023, arXiv 2310.17813). An
orthogonal step has the norm 1, so "shape" keeps pace where all widths grow alike, and "rms", whose steps grow with
√max(rows, columns), asks for 1/√m.

Where a head has the table of tokens, no update can tell the two apart, and hidden states are multiplied by 1/m before
it (`model.head.scale`); where heads grow wider and not more, scores are multiplied by √K₀/K in place of 1/√K
(`model.attention.scale`). `fitted` sets both.

The stream must begin about as large as what a branch adds, or the norms behind the first sum undo the factor of depth:
a model that has grown deeper needs `model.embedding.has_norm`, or a `model.embedding.scale` to that effect.

What grows: the width, with the inner width and the numbers of heads in proportion, and the depth. No rule here speaks
of batch size, steps or data.
"""

from dataclasses import dataclass
from math import isclose, sqrt
from typing import Any, Literal

from msgspec.structs import replace
from torch import nn

from thetahat.core.config import kind_of
from thetahat.core.errors import ConfigError
from thetahat.model.config import AttentionMixer, ModelConfig, SumConfig
from thetahat.model.law import KNOWN, Law, laws_of
from thetahat.model.transfer.config import TransferConfig

Steps = Literal["adamw", "shape", "rms"]  # of AdamW, or of Muon by its scale
_LEAST_SCALE = 10.0  # of embeddings, which begin at 0.02, where nothing normalises them
_WIDTH_EXPONENT: dict[Steps, float] = {"adamw": 1.0, "shape": 0.0, "rms": 0.5}


@dataclass(frozen=True, slots=True)
class Growth:
    """How many times wider and deeper a model is than the one at which its learning rates were chosen."""

    width: float = 1.0  # m
    depth: float = 1.0  # l; of both sides of an encoder-decoder


SAME = Growth()


@dataclass(frozen=True, slots=True)
class Factors:
    """What a parameter's start, learning rate and epsilon are multiplied by; its weight decay is divided by `rate`."""

    start: float
    rate: float
    epsilon: float


def factors(name: str, law: Law, growth: Growth, steps: Steps = "adamw") -> Factors:
    """The row of the table for a parameter with this name in the model, which is updated by such steps."""
    m, l = growth.width, growth.depth if "blocks." in name else 1.0  # noqa: E741
    if law.writes == "logits":
        shrink = 1.0 if law.group == "vectors" else 1 / m
        return Factors(shrink, shrink, 1.0)
    rate = m ** -_WIDTH_EXPONENT[steps] if law.group == "matrices" else 1.0
    if law.writes == "residual":
        return Factors(l**-0.5, rate / l, 1 / m)
    return Factors(1.0, rate, 1 / (m * l))


def growth_of(model: ModelConfig, transfer: TransferConfig | None) -> Growth:
    """How the model has grown from the shape of `transfer`; without one, not at all."""
    if transfer is None:
        return SAME
    return Growth(model.width / transfer.width, model.num_layers / transfer.num_layers)


def fitted(model: ModelConfig, transfer: TransferConfig | None, *, has_labels: bool = False) -> ModelConfig:
    """The model with the two multipliers that no start and no rate can stand for.

    Raises ConfigError where the rule does not cover a choice of the model, or where another multiplier was set.
    """
    if transfer is None:
        return model
    _refuse(model, growth_of(model, transfer))
    if model.ties_embeddings and not has_labels:
        wanted = transfer.width / model.width
        _check_scale("model.head.scale", model.head.scale, 1.0, wanted)
        model = replace(model, head=replace(model.head, scale=wanted))
    before = transfer.head_width or model.head_width
    if before != model.head_width:
        wanted = sqrt(before) / model.head_width
        _check_scale("model.attention.scale", model.attention.scale, None, wanted)
        model = replace(model, attention=replace(model.attention, scale=wanted))
    return model


def _check_scale(key: str, given: float | None, usual: float | None, wanted: float) -> None:
    if given != usual and not isclose(given or 0.0, wanted):
        raise ConfigError(f"{key}={given} beside transfer, which makes it {wanted:g}", cure=f"leave {key} out")


def _refuse(model: ModelConfig, growth: Growth) -> None:
    """Raises ConfigError for a choice that the rule says nothing of."""
    found: list[tuple[str, str, Any]] = []
    if growth.depth != 1 and not model.embedding.has_norm and model.embedding.scale < _LEAST_SCALE:
        found.append(("model.embedding.has_norm", "true", "false"))
    if growth.depth != 1 and model.placement not in ("pre", "parallel"):
        found.append(("model.placement", "pre", model.placement))
    if growth.depth != 1 and model.shares_layers:
        found.append(("model.shares_layers", "false", "true"))
    if growth != SAME:
        found += _never_known(model)
    if growth.width != 1 and model.embedding.width is not None:
        found.append(("model.embedding.width", "none", model.embedding.width))
    for key, allowed, value in found:
        raise ConfigError(
            f"transfer does not know how rates carry over with {key}={value}",
            allowed=f"{key}={allowed}",
            cure=f"{key}={allowed}, or transfer.width={model.width} transfer.num_layers={model.num_layers}",
        )


def _never_known(model: ModelConfig) -> list[tuple[str, str, Any]]:
    """Choices of which the rule says nothing, whatever grows: the key, what is allowed, the value."""
    found: list[tuple[str, str, Any]] = []
    kinds = [kind_of(mixer) for mixer in model.layers if not isinstance(mixer, AttentionMixer)]
    if kinds:
        found.append(("model.layers", "attention", kinds[0]))
    if not isinstance(model.residual, SumConfig):
        found.append(("model.residual.kind", "sum", kind_of(model.residual)))
    if model.experts is not None:
        found.append(("model.experts", "none", f"{{num_experts={model.experts.num_experts}}}"))
    if model.attention.sharing > 1:
        found.append(("model.attention.sharing", "1", model.attention.sharing))
    if model.value_embeddings is not None:
        found.append(("model.value_embeddings", "none", f"{{every={model.value_embeddings.every}}}"))
    if (smear := model.embedding.smear) is not None:
        found.append(("model.embedding.smear", "none", f"{{gate_width={smear.gate_width}}}"))
    return found


def refuse_unknown(model: nn.Module, config: ModelConfig, growth: Growth) -> None:
    """Raises ConfigError for a parameter of a grown model whose law, or whose axes, the table does not have."""
    if growth == SAME:
        return
    heads = (config.num_heads * config.head_width, config.num_kv_heads * config.head_width)
    grows, laws = {config.width, config.inner_width, *heads}, laws_of(model)
    for name, parameter in model.named_parameters():
        law = laws[name]
        is_whole = law.group != "matrices" or (parameter.ndim == 2 and grows.issuperset(parameter.shape))
        if law not in KNOWN or not is_whole:
            raise ConfigError(
                f"transfer does not know how the rate of {name} {list(parameter.shape)} carries over",
                cure=f"transfer.width={config.width} transfer.num_layers={config.num_layers}, or no transfer",
            )
