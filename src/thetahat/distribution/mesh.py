"""How ranks are laid out: some hold one model or read one batch together, and others repeat that."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, NamedTuple, cast

from msgspec import Meta

from thetahat.core.config import Config
from thetahat.core.errors import ConfigError

if TYPE_CHECKING:
    import torch.distributed as dist
    from torch.distributed.device_mesh import DeviceMesh

Ranks = Annotated[int, Meta(ge=1, le=2**20)]
PIPELINE, REPLICAS, SHARDS, CONTEXT, TENSOR = "pipeline", "replicas", "shards", "context", "tensor"
"""The axes of ranks, the outer one first."""


class MeshConfig(Config, kw_only=True):
    """How the ranks share the work. No result depends on it, beyond rounding, so it may change when a run goes on."""

    shards: Ranks = 1
    """Ranks that hold one model, each a part of every matrix and of its optimizer state (FSDP2); 1: each holds all of
    it. The number of ranks is a multiple of it, and each group of so many ranks is a replica (HSDP).
    """
    context: Ranks = 1
    """Ranks that read the same rows, each some of their positions, for contexts whose activations one rank cannot keep.
    With shards the model is divided over these ranks, too.
    """
    tensor: Ranks = 1
    """Ranks that compute each product together, each with some heads, inner columns and tokens of the vocabulary
    (tensor parallelism). They read the same rows. It divides model.num_kv_heads; 1: each rank computes all of it.
    """
    pipeline: Ranks = 1
    """Ranks that each have some of the layers of one model, and hand the states of micro-batches on (pipeline
    parallelism, in the order 1F1B). They read the same rows; 1: each rank has all layers.
    """
    turns: Ranks = 1
    """Groups of neighbouring layers that each rank of a pipeline has: with 2 or more, ranks wait less for each other,
    and exchange more (the interleaved order).
    """

    offload: bool = False
    """Whether parameters in shards, their gradients and their optimizer state lie in the memory of the host, of which
    the GPU gets a block when it is read; the update is made by the CPU.
    """

    def __post_init__(self) -> None:
        """Raises ConfigError for axes that do not go together."""
        if self.offload and self.pipeline > 1:
            raise ConfigError(
                f"mesh.offload=true with mesh.pipeline={self.pipeline}",
                allowed="mesh.shards, mesh.context and mesh.tensor beside it",
                cure="mesh.offload=false, or mesh.pipeline=1",
            )
        for axis in (CONTEXT, TENSOR):
            if self.pipeline > 1 and (number := getattr(self, axis)) > 1:
                raise ConfigError(
                    f"mesh.pipeline={self.pipeline} with mesh.{axis}={number}",
                    allowed="mesh.shards, and replicas, beside a pipeline",
                    cure=f"mesh.{axis}=1, or mesh.pipeline=1",
                )


class Share(NamedTuple):
    """Which part a rank has, and of how many."""

    rank: int = 0
    size: int = 1


@dataclass(frozen=True, slots=True)
class Stages:
    """The ranks of a pipeline, each of which has some layers of one model, seen from one of them."""

    share: Share  # which stage this is, and of how many
    turns: int  # groups of layers of a stage
    group: "dist.ProcessGroup"  # of all stages
    ends: "dist.ProcessGroup"  # of the first and the last stage, for these
    ways: "tuple[dist.ProcessGroup, ...]"  # for what is handed on, handed back, and both around from last to first


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a rank stands, and whom it works with."""

    data: Share  # of each global batch
    context: Share  # of the positions of its rows
    reader: Share  # of whatever is read without being cut, as in evaluation; and of draws
    shards: "DeviceMesh | None" = None  # [replicas, shards], over which matrices are divided; None: they are whole
    context_group: "dist.ProcessGroup | None" = None  # that reads the same rows; None: each rank reads whole ones
    tensor: "DeviceMesh | None" = None  # of one axis, whose ranks compute each product together
    readers: "dist.ProcessGroup | None" = None  # over which sums go: one of each that read the same; None: all ranks
    stages: Stages | None = None  # of the pipeline of this rank; None: each rank has all layers


def refuse_ranks(config: MeshConfig, size: int) -> None:
    """Raises ConfigError where so many ranks do not fit the mesh."""
    if size % (together := _together(config)):
        sizes = {name: getattr(config, name) for name in (SHARDS, CONTEXT, TENSOR, PIPELINE)}
        keys = " ".join(f"mesh.{name}={number}" for name, number in sizes.items() if number > 1)
        started = "1 rank was" if size == 1 else f"{size} ranks were"
        raise ConfigError(
            f"{keys} needs a multiple of {together} ranks, and {started} started",
            cure=f"torchrun --nproc-per-node {together} -m thetahat ..., or other numbers",
        )


def _together(config: MeshConfig) -> int:
    """Ranks that have one model."""
    return config.shards * config.context * config.tensor * config.pipeline


def lay_out(config: MeshConfig, rank: int, size: int, device: str) -> Layout:
    """The place of a rank among pipeline x replicas x shards x context x tensor, of which the last follow each other.

    So ranks that exchange most lie on one machine, where it has as many. Raises ConfigError for ranks that do not fit.
    """
    refuse_ranks(config, size)
    stages = None if config.pipeline == 1 else _stages(config, rank, size)
    rank, size = rank % (size // config.pipeline), size // config.pipeline  # among those of a stage
    reader = Share(rank // config.tensor, size // config.tensor)
    data = Share(reader.rank // config.context, reader.size // config.context)
    context = Share(reader.rank % config.context, config.context)
    if _together(config) == 1:
        return Layout(data, context, reader)
    from torch.distributed.device_mesh import init_device_mesh

    def mesh(**sizes: int) -> "DeviceMesh":
        all_sizes = {PIPELINE: config.pipeline} | sizes if config.pipeline > 1 else sizes
        return init_device_mesh(device, tuple(all_sizes.values()), mesh_dim_names=tuple(all_sizes))

    num_shards = config.shards * config.context if config.shards > 1 else 1
    if config.tensor == 1:
        shards = mesh(replicas=size // num_shards, shards=num_shards)[REPLICAS, SHARDS] if num_shards > 1 else None
        group = mesh(data=data.size, context=context.size).get_group(CONTEXT) if config.context > 1 else None
        readers = mesh(readers=reader.size).get_group("readers") if stages and reader.size > 1 else None
        return Layout(data, context, reader, shards, group, readers=readers, stages=stages)
    model = mesh(replicas=reader.size // num_shards, shards=num_shards, tensor=config.tensor)
    shards = model[REPLICAS, SHARDS] if num_shards > 1 else None
    readers = mesh(readers=reader.size, tensor=config.tensor).get_group("readers")
    rows = mesh(data=data.size, context=context.size, tensor=config.tensor)
    group = rows.get_group(CONTEXT) if config.context > 1 else None
    return Layout(data, context, reader, shards, group, model[TENSOR], readers)


def _stages(config: MeshConfig, rank: int, size: int) -> Stages:
    """Each way of a pipeline has a group of its own, so that what comes first on a way is what was sent first."""
    import torch.distributed as dist

    of_stage = size // config.pipeline
    columns = [range(first, size, of_stage) for first in range(of_stage)]

    def group(of: "list[list[int]]") -> "dist.ProcessGroup":
        return cast("dist.ProcessGroup", dist.new_subgroups_by_enumeration(of)[0])  # None on ranks that are in none

    every, *ways = [group([*map(list, columns)]) for _ in range(3 if config.turns == 1 else 5)]
    ends = group([[column[0], column[-1]] for column in columns])
    return Stages(Share(rank // of_stage, config.pipeline), config.turns, every, ends, tuple(ways))
