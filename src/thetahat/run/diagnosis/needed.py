"""How much memory a model needs, in training and when it is asked; the formulas are those of `model/memory.py`."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from thetahat.core.plain import fields_as_json
from thetahat.model.attention.attention import Attention
from thetahat.model.attention.latent import LatentAttention
from thetahat.model.build import LanguageModel
from thetahat.model.config import DecoderConfig, Dtype, EncoderConfig, EncoderDecoderConfig
from thetahat.model.cost import idle_parameters, matrix_weights
from thetahat.model.float8 import numbers_in_float8
from thetahat.model.layers.mlp import MLP
from thetahat.model.memory import (
    cache_bytes,
    kept_of_matrices,
    kept_per_position,
    logit_bytes,
    saved_per_position,
    widths_of,
)
from thetahat.optimization.config import Muon
from thetahat.optimization.groups import group_parameters
from thetahat.run.config import RunConfig

SLOTS = {"muon": 1, "adamw": 2}
"""Numbers that a rule keeps of each parameter: its momentum, or the means of the gradient and of its square."""
STACK = 4
"""Copies of the largest stack of equal matrices that Muon orthogonalises at once."""


@dataclass(frozen=True, slots=True)
class Training:
    """Bytes of one process in training, at the most; what libraries, data and fragments take comes on top."""

    parameters: int
    gradients: int
    optimizer: int
    average: int  # the moving average of the parameters, where one is kept
    activations: int  # kept for the backward pass of one micro-batch
    logits: int  # when the backward pass begins
    update: int  # what the update needs when the activations are gone
    num_rows: int  # read at once
    context: int

    @property
    def total(self) -> int:
        """At the worst moment: the beginning of the last backward pass of a step, or its update."""
        stays = self.parameters + self.gradients + self.optimizer + self.average
        return stays + max(self.activations + self.logits, self.update)

    def to_dict(self) -> dict[str, int]:
        """What `--json` prints."""
        return fields_as_json(self) | {"total": self.total}


@dataclass(frozen=True, slots=True)
class Inference:
    """Bytes of one process that asks a model about one text."""

    parameters: int
    cache_per_token: int  # keys and values
    cache: int  # of a text as long as the context; layers with a window keep no more than it
    context: int

    def to_dict(self) -> dict[str, int]:
        """What `--json` prints."""
        return fields_as_json(self) | {"total": self.parameters + self.cache}


def training_memory(
    model: LanguageModel, config: RunConfig, vocab_size: int, num_labels: int, most: int | None = None
) -> Training:
    r"""Of a model on `meta` as it is trained: parameters, gradients and optimizer exactly, the rest by `model/memory`.

    $P b + P_t b + \sum_\text{rules} \text{SLOTS} \cdot P_r b + \max(A + L, U)$ with b bytes a number, $P_t$ of P
    trainable, A the activations of `micro_batch_size` rows, L the logits of their targets (in chunks also the gradient
    of the head, twice), and U what Muon works with: the directions of all its matrices, and `STACK` copies of its
    largest stack of one shape. Layers that `recompute` names keep their input alone; `auto` counts as none. On a CPU
    each thread that reads a micro-batch has a gradient. `most` are the positions that the data has, if that is known.
    """
    full = widths_of(config.dtype).full
    groups = {group.name: group.parameters for group in group_parameters(model)}
    rules = config.optimization
    kinds = {name: "muon" if isinstance(getattr(rules, name), Muon) else "adamw" for name in groups}
    sizes = {name: sum(one.numel() for one in held.values()) for name, held in groups.items()}
    num_rows = min(config.micro_batch_size or config.batch_size, config.batch_size)
    unread = widths_of(config.dtype).product * unread_inputs(model)
    positions = num_rows * config.data.context if most is None else min(num_rows * config.data.context, most)
    data, on_cpu = config.data, config.device == "cpu"
    kept = kept_per_position(model.config, config.dtype, data.context, data.source_room, masks=on_cpu)
    again = 0 if config.recompute == "auto" else config.recompute
    kept -= saved_per_position(model.config, config.dtype, data.context, again)
    targets = min(config.objective.factorization.expected_targets(num_rows, config.data.context), positions)
    chunk = config.objective.chunk_size
    num_future = model.config.num_future if isinstance(model.config, DecoderConfig) else 0
    muon = [one for name, held in groups.items() if kinds[name] == "muon" for one in held.values()]
    return Training(
        parameters=full * sum(one.numel() for one in model.parameters()),
        gradients=full * sum(sizes.values()) * _gradients(config),
        optimizer=full * sum(SLOTS[kinds[name]] * size for name, size in sizes.items()),
        average=full * sum(sizes.values()) if rules.ema is not None else 0,
        activations=round((kept - unread) * positions) + kept_copies(model, config),
        logits=logit_bytes(
            num_labels or vocab_size, min(targets, chunk or targets), config.dtype, 0 if chunk else num_future
        )
        + (summed_bytes(model, config.dtype, num_future) if chunk else 0),
        update=full * (sum(one.numel() for one in muon) + STACK * _largest_stack(muon)),
        num_rows=num_rows,
        context=config.data.context,
    )


def _gradients(config: RunConfig) -> int:
    """How many gradients there are at once: those of micro-batches that are read at once, and what is added up."""
    number = config.num_at_once
    is_more = number > 1 and (config.micro_batch_size or config.batch_size) < config.batch_size
    return number + is_more


def kept_copies(model: LanguageModel, config: RunConfig) -> int:
    """Bytes of matrices in the dtype of products, until the backward pass; what is in float8 is made again instead."""
    number = matrix_weights(model) + idle_parameters(model)
    return kept_of_matrices(number - numbers_in_float8(model) if config.float8 else number, config.dtype)


def summed_bytes(model: LanguageModel, dtype: Dtype, num_future: int = 0) -> int:
    """The gradient of the head, summed over chunks on the way forward, and that of a chunk, which is added to it.

    Each further token behind the next one has such a sum.
    """
    num_weights = sum(one.numel() for one in model.head.parameters() if one.requires_grad)
    return (2 + num_future) * widths_of(dtype).full * num_weights


def unread_inputs(model: LanguageModel) -> int:
    """Numbers that a position need not keep since all the matrices that read them are frozen."""
    total = 0
    for module in model.modules():
        if isinstance(module, MLP):
            readers = [module.up, *([module.gate] if module.gate else [])]
            total += _unread([module.down]) + _unread(readers)
        elif isinstance(module, Attention):  # what its output map reads the kernel keeps anyway
            total += _unread([one for one in (module.query, module.key, module.value) if one is not None])
        elif isinstance(module, LatentAttention):
            total += sum(map(_unread, module.maps))
    return total


def _unread(readers: Sequence[nn.Module]) -> int:
    """The width of what these maps read, where none of them, nor an adapter beside one, is trained."""
    if any(one.requires_grad for reader in readers for name, one in reader.named_parameters() if "bias" not in name):
        return 0
    first = readers[0]
    return first.in_features if isinstance(first, nn.Linear) else 0


def _largest_stack(matrices: list[nn.Parameter]) -> int:
    """Numbers in the matrices of one shape, transposed or not, of which there are most."""
    sizes: dict[tuple[int, ...], int] = {}
    for one in matrices:
        shape = tuple(sorted(one.shape))
        sizes[shape] = sizes.get(shape, 0) + one.numel()
    return max(sizes.values(), default=0)


def inference_memory(model: LanguageModel, context: int) -> Inference:
    """Parameters are float32 whatever they are multiplied in, and so are keys and values; an encoder keeps none."""
    if isinstance(model.config, EncoderConfig):
        return Inference(4 * sum(parameter.numel() for parameter in model.parameters()), 0, 0, context)
    source = context if isinstance(model.config, EncoderDecoderConfig) else 0
    return Inference(
        parameters=4 * sum(parameter.numel() for parameter in model.parameters()),
        cache_per_token=cache_bytes(model.config, 1, "float32"),
        cache=cache_bytes(model.config, context, "float32", source),
        context=context,
    )
