"""Floating-point operations of a step of training."""

from dataclasses import dataclass

from torch import nn

from thetahat.core.plain import fields_as_json
from thetahat.model.attention.latent import LatentAttention
from thetahat.model.build import LanguageModel
from thetahat.model.config import EncoderDecoderConfig
from thetahat.model.cost import Pairs, Weights, mixing_flops, positions_seen, weights_of
from thetahat.optimization.config import Muon
from thetahat.optimization.groups import group_parameters
from thetahat.optimization.muon import orthogonalize_flops
from thetahat.run.config import RunConfig


@dataclass(frozen=True, slots=True)
class Operations:
    """Floating-point operations of a step, a multiply-add as two, over all of its micro-batches and ranks."""

    num_tokens: int  # positions that are read, a source not counted
    blocks: int | float  # forward: matrices of the blocks
    attention: int | float  # forward: scores, sums over values, and what layers with a state do to it
    head: int | float  # forward: logits of targets
    backward: int | float
    again: int | float  # logits in chunks that several ranks compute once more on the way back (objective/chunked.py)
    update: int | float  # of the optimizer: what Muon orthogonalises; all else is no product of matrices

    @property
    def forward(self) -> int | float:
        """Of the forward pass."""
        return self.blocks + self.attention + self.head

    @property
    def total(self) -> int | float:
        """Of the step."""
        return self.forward + self.backward + self.again + self.update

    def to_dict(self) -> dict[str, int | float]:
        """What `--json` prints."""
        return fields_as_json(self) | {"forward": self.forward, "total": self.total}


@dataclass(frozen=True, slots=True)
class Pieces:
    r"""How many positions stand together, $\sum n^2 / \sum n$ of what is packed; None: all of a row."""

    length: int | float | None = None
    of_source: int | float | None = None


WHOLE_ROWS = Pieces()


def operations_of(
    model: LanguageModel,
    config: RunConfig,
    pieces: Pieces = WHOLE_ROWS,
    pairs: Pairs = "visible",
    num_logits: int | None = None,
    *,
    num_ranks: int = 1,
) -> Operations:
    r"""Of a step of `batch_size` full rows under a config, for a model on `meta` as it is trained.

    `num_logits`: for how many positions the head computes logits; None: as many as there are targets in full rows.
    `num_ranks`: of several, the head in chunks has four products in the place of three.

    A matrix of N weights takes 2N a position forward, 2N for the gradient of its input, and 2N for its own where it is
    trained; attention $4 H \sum_a K_a T_a$ forward and twice that backward. The gradient of the embedding is no
    product, and what the first layer reads needs none where the embedding is frozen.
    """
    data, shape = config.data, config.model
    positions = config.batch_size * data.context
    share = data.source_room / data.context if isinstance(shape, EncoderDecoderConfig) else 0.0
    factorization = config.objective.factorization
    targets = min(factorization.expected_targets(config.batch_size, data.context), positions)
    targets = targets if num_logits is None else num_logits
    stack, of_source = pieces.length or data.context, pieces.of_source or data.source_room
    seen = positions_seen(shape, stack, pairs, of_source, data.source_room, share)
    attention = positions * mixing_flops(shape, seen)
    weights, trained = weights_of(model), weights_of(model, trained=True)

    def products(of: Weights) -> int | float:
        return 2 * positions * (of.stack + share * of.source)

    blocks, head = products(weights), 2.0 * targets * weights.head
    backward = blocks + products(trained) + head + 2 * targets * trained.head + 2 * attention
    if not any(one.requires_grad for one in model.embedding.parameters()):
        backward -= 2 * positions * _first_read(model)
    return Operations(
        num_tokens=positions,
        blocks=blocks,
        attention=attention,
        head=head,
        backward=backward,
        again=head if num_ranks > 1 and config.objective.chunk_size else 0.0,
        update=_update(model, config),
    )


def _first_read(model: LanguageModel) -> int:
    """Numbers in the matrices that read the embeddings, in the first block of the stack that the head reads."""
    mixing = model.block(0).attention
    if isinstance(mixing, LatentAttention):
        maps = mixing.maps[0]
    else:
        maps = [one for name, one in mixing.named_children() if name != "output"]
    maps = [getattr(one, "base", one) for one in maps]
    return sum(one.weight.numel() for one in maps if isinstance(one, nn.Linear))


def _update(model: LanguageModel, config: RunConfig) -> int | float:
    rules = config.optimization
    total = 0
    for group in group_parameters(model):
        rule = getattr(rules, group.name)
        if isinstance(rule, Muon):
            shapes = [(len(one) if one.ndim == 3 else 1, *one.shape[-2:]) for one in group.parameters.values()]
            total += sum(n * orthogonalize_flops(rows, columns, rule.num_iterations) for n, rows, columns in shapes)
    return float(total)
