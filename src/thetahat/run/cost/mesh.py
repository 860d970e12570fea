"""Memory and communication of a training that is divided over ranks: a first-order model of each layout."""

from collections.abc import Mapping
from dataclasses import dataclass

from msgspec.structs import replace

from thetahat.core.errors import ConfigError
from thetahat.core.plain import fields_as_json
from thetahat.distribution.mesh import MeshConfig
from thetahat.model.build import LanguageModel
from thetahat.model.config import ModelConfig
from thetahat.model.encoder_decoder import EncoderDecoder
from thetahat.model.memory import (
    LOGITS,
    SHARED_LOGITS,
    kept_in_blocks,
    kept_per_position,
    logit_bytes,
    widths_of,
)
from thetahat.run.config import RunConfig
from thetahat.run.diagnosis.needed import Training, kept_copies, summed_bytes

AXES = ("replicas", "shards", "context", "tensor", "pipeline")


@dataclass(frozen=True, slots=True)
class Mesh:
    """How many ranks there are along each axis: `replicas`, `shards`, `context`, `tensor`, `pipeline`.

    Parameters are cut into shards times context parts. `recomputed` is the share of blocks that are computed once more
    in the backward pass.
    """

    replicas: int = 1
    shards: int = 1
    context: int = 1
    tensor: int = 1
    pipeline: int = 1
    recomputed: int | float = 0.0  # the share of blocks that are computed once more in the backward pass
    offload: bool = False  # parameters, gradients and optimizer state lie on the host

    @staticmethod
    def of(config: MeshConfig) -> "Mesh":
        """The mesh of a config, with one replica."""
        names = ("shards", "context", "tensor", "pipeline", "offload")
        return Mesh(**{name: getattr(config, name) for name in names})

    @property
    def num_ranks(self) -> int:
        """All of them."""
        return self.replicas * self.shards * self.context * self.tensor * self.pipeline

    @property
    def num_data(self) -> int:
        """Ranks that read different rows."""
        return self.replicas * self.shards

    @property
    def num_parts(self) -> int:
        """Parts into which parameters are cut, beside tensor and pipeline."""
        return self.shards * self.context

    def __str__(self) -> str:
        axes = [f"mesh.{axis}={getattr(self, axis)}" for axis in AXES if getattr(self, axis) > 1]
        return " ".join([*axes, *(["mesh.offload=true"] if self.offload else [])])

    def to_dict(self) -> Mapping[str, int | float]:
        """What `--json` prints."""
        return fields_as_json(self) | {"num_ranks": self.num_ranks}


@dataclass(frozen=True, slots=True)
class Whole:
    """What a layout divides: the model and its training on one process, in bytes and numbers."""

    blocks: int  # parameters of the blocks
    around: int  # all others: embeddings, head
    trained: int | float  # the share of them that is trained
    state: int | float  # bytes of a trained parameter beside gradient and parameter: optimizer, average
    full: int  # bytes of a parameter
    product: int  # bytes of a number in products
    copies: int  # bytes of matrices in the dtype of products, where they are kept until the backward pass
    logits: int | float  # bytes of logits for a position, at the beginning of the backward pass
    chunk: int  # targets whose logits exist at once; 0: all
    summed: int  # bytes of the gradient of the head while chunks are added to it; 0: of all at once


def whole_of(model: LanguageModel, config: RunConfig, num_outputs: int, memory: Training) -> Whole:
    """What a layout divides, of a model on `meta` as it is trained; `memory` is that of one process."""
    data, sizes = config.data, widths_of(config.dtype)
    stacks = [model, model.encoder] if isinstance(model, EncoderDecoder) else [model]
    blocks = sum(one.numel() for stack in stacks for one in stack.blocks.parameters())
    num_parameters = memory.parameters // sizes.full
    share = config.objective.factorization.expected_targets(1, data.context) / data.context
    return Whole(
        blocks=blocks,
        around=num_parameters - blocks,
        trained=memory.gradients / memory.parameters,
        state=(memory.optimizer + memory.average) / (memory.gradients / sizes.full),
        full=sizes.full,
        product=sizes.product,
        copies=kept_copies(model, config),
        logits=min(share, 1.0) * logit_bytes(num_outputs, 1, config.dtype),
        chunk=config.objective.chunk_size,
        summed=summed_bytes(model, config.dtype) if config.objective.chunk_size else 0,
    )


@dataclass(frozen=True, slots=True)
class Share:
    """Bytes of the rank that needs most, at the worst moment of a step: when a backward pass begins, or ends."""

    parameters: int | float
    gradients: int | float  # whole ones with accumulation, since they are summed over ranks once a step
    optimizer: int | float
    gathered: int | float  # parameters of other ranks, while they are used
    activations: int | float
    logits: int | float
    host: int | float = 0.0  # in the memory of the host: parameters, gradients and optimizer state that are offloaded

    @property
    def total(self) -> int | float:
        """All that lies on the device."""
        return sum(fields_as_json(self).values()) - self.host

    def to_dict(self) -> dict[str, int | float]:
        """What `--json` prints."""
        return fields_as_json(self) | {"total": self.total}


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes that a rank receives in a step, by what they are for."""

    shards: int | float = 0.0  # parameters gathered, gradients scattered
    replicas: int | float = 0.0  # gradients summed
    tensor: int | float = 0.0  # states summed around the matrices of a layer
    context: int | float = 0.0  # keys and values gathered, their gradients scattered
    pipeline: int | float = 0.0  # states handed on, their gradients handed back

    def to_dict(self) -> dict[str, int | float]:
        """What `--json` prints."""
        return fields_as_json(self)


def check_mesh(mesh: Mesh, config: RunConfig) -> None:
    """Raises ConfigError where a model or a batch cannot be divided so."""
    model, data = config.model, config.data
    for axis, number, whole, name in (
        ("tensor", mesh.tensor, model.num_kv_heads, "model.num_kv_heads"),
        ("context", 2 * mesh.context if mesh.context > 1 else 1, data.context, "data.context"),
        ("replicas and mesh.shards", mesh.num_data, config.batch_size, "batch_size"),
    ):
        if whole % number:
            raise ConfigError(
                f"mesh.{axis}: {number} parts do not divide {name}={whole}",
                cure=f"a divisor, or {name}={number * -(-whole // number)}",
            )
    if mesh.offload and (mesh.shards == 1 or mesh.pipeline > 1):
        cure = "mesh.pipeline=1" if mesh.pipeline > 1 else "mesh.shards=8"
        raise ConfigError("mesh.offload=true is for shards, and for no pipeline", cure=f"{cure}, or no mesh.offload")
    if mesh.pipeline > model.num_layers:
        few = f"mesh.pipeline={mesh.pipeline}: model.num_layers={model.num_layers} are fewer than stages"
        raise ConfigError(few, cure=f"mesh.pipeline={model.num_layers}")


def num_micro_batches(mesh: Mesh, config: RunConfig) -> int:
    """Passes of a rank in a step."""
    rows = -(-config.batch_size // mesh.num_data)
    return -(-rows // min(config.micro_batch_size or rows, rows))


def share_of(whole: Whole, mesh: Mesh, config: RunConfig) -> Share:
    r"""Bytes of the first rank of a pipeline or of the last one, whichever needs more.

    Blocks are divided by tensor and pipeline and cut into shards x context parts; what is around them by tensor. While
    a block is used it is gathered, and the next one beside it, in the dtype of products; what is around the blocks
    stays gathered in full from the forward to the end of the backward pass, and the keys and values of a layer are
    those of the whole context. Tensor parallelism divides logits and what heads and inner columns keep, but not what is
    kept of the residual stream (`_kept`); a pipeline of p stages keeps at most p micro-batches. What is offloaded lies
    on the host, and gradients that are not summed yet do not: with several micro-batches a step these are whole, else
    those of a block.
    """
    model, data = config.model, config.data
    passes = num_micro_batches(mesh, config)
    layers = -(-model.num_layers // mesh.pipeline)  # of the stage with most
    blocks, around = whole.blocks / mesh.tensor * layers / model.num_layers, whole.around / mesh.tensor
    is_apart = mesh.pipeline > 1 and not model.ties_embeddings
    around = around / 2 if is_apart else around  # the table is on the first stage, the head on the last
    held = (blocks + around) / mesh.num_parts
    summed = (blocks + around if passes > 1 else held + blocks / layers) if mesh.num_parts > 1 else held
    gathered = (2 * blocks / layers * whole.product + around * whole.full) if mesh.num_parts > 1 else 0.0
    if mesh.context > 1:
        gathered += 2 * model.num_kv_heads * model.head_width * whole.product * data.context / mesh.tensor
    rows = -(-config.batch_size // mesh.num_data)
    positions = min(config.micro_batch_size or rows, rows) * data.context / mesh.context
    (in_block, out_of_blocks), again = _kept(config, mesh.tensor), mesh.recomputed
    of_blocks = layers * ((1 - again) * in_block + again * whole.full * model.width) + (in_block if again else 0.0)
    states = (min(mesh.pipeline, passes) * of_blocks + out_of_blocks) * positions
    states += whole.copies / mesh.tensor / mesh.pipeline if mesh.num_parts == 1 else 0.0  # else they are gathered
    at_once = whole.logits * (SHARED_LOGITS / LOGITS if mesh.tensor > 1 else 1)
    logits = (at_once * min(positions, whole.chunk or positions) + whole.summed) / mesh.tensor
    gradients, logits = summed * whole.full * whole.trained, logits if mesh.pipeline == 1 else 0.0
    host = held * (whole.full + whole.full * whole.trained + whole.state * whole.trained) if mesh.offload else 0.0
    if mesh.offload and passes == 1:  # the gradient of a block goes to the host when it is summed
        gradients = blocks / layers * whole.full * whole.trained
    if passes == 1:  # as the gradients come, the activations go
        is_behind = gradients > states + logits
        gradients, states, logits = (gradients, 0.0, 0.0) if is_behind else (0.0, states, logits)
    return Share(
        parameters=0.0 if mesh.offload else held * whole.full,
        gradients=gradients,
        optimizer=0.0 if mesh.offload else held * whole.state * whole.trained,
        gathered=gathered,
        activations=states,
        host=host,
        logits=logits,  # of a pipeline none: the last stage has one micro-batch, the first has as many as stages
    )


def _kept(config: RunConfig, tensor: int) -> tuple[float, float]:
    """Bytes that a position keeps for the backward pass on one of so many ranks of a product: in a block, and around.

    Each rank has all of the residual stream, and so of what norms, dropout and matrices read of it. Heads and inner
    columns are divided: what they keep is that of a model which has no others.
    """
    data, shape = config.data, _of_rank(config.model, tensor)
    kept = kept_per_position(shape, config.dtype, data.context, data.source_room)
    in_blocks = kept_in_blocks(shape, config.dtype, data.context, data.source_room)
    return in_blocks / shape.num_layers, kept - in_blocks


def _of_rank(model: ModelConfig, tensor: int) -> ModelConfig:
    """The heads and inner columns of the rank that has most, of a shape that is otherwise the same."""
    experts = model.experts
    if experts is not None:
        inner = -(-(experts.inner_width or model.inner_width) // tensor)
        experts = replace(experts, inner_width=inner, shared_width=-(-experts.shared_width // tensor))
    return replace(
        model,
        num_heads=model.num_heads // tensor,
        num_kv_heads=model.num_kv_heads // tensor,
        inner_width=-(-model.inner_width // tensor),
        experts=experts,
    )


def traffic_of(whole: Whole, mesh: Mesh, config: RunConfig) -> Traffic:
    r"""With n ranks an all-gather or a reduce-scatter of b bytes receives b (n - 1) / n, an all-reduce twice that.

    Parameters are gathered for the forward and for the backward pass of each micro-batch, what is around the blocks
    once for both, and gradients scattered once a step. A layer under tensor parallelism sums its states over ranks
    twice in each direction, and in the forward pass once more where it is computed again. Context parallelism gathers
    keys and values, and scatters their gradients. Each stage hands its states on, and gets their gradients. States are
    exchanged in the dtype of parameters, keys and values in that of products.
    """
    model, passes = config.model, num_micro_batches(mesh, config)
    layers = model.num_layers / mesh.pipeline
    blocks, around = whole.blocks / mesh.tensor / mesh.pipeline, whole.around / mesh.tensor
    read = config.batch_size * config.data.context / mesh.num_data / mesh.context  # positions of a rank in a step
    again = 1 + 0.5 * mesh.recomputed

    def one_way(ranks: int) -> int | float:
        return (ranks - 1) / ranks

    gathers = passes * (2 * blocks * whole.product + around * whole.full)
    scatters = (blocks + around) * whole.full * whole.trained
    cut = (blocks + around) * whole.full * whole.trained / mesh.num_parts
    states, groups = whole.full * model.width, 2 * model.num_kv_heads * model.head_width * whole.product
    return Traffic(
        shards=(gathers + scatters) * one_way(mesh.num_parts),
        replicas=2 * cut * one_way(mesh.replicas),
        tensor=layers * 4 * 2 * again * read * states * one_way(mesh.tensor),
        context=layers * 2 * again * read * (mesh.context - 1) * groups / mesh.tensor,
        pipeline=2 * read * states if mesh.pipeline > 1 else 0.0,
    )
