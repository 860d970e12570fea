"""How ranks are laid out: some hold one model or read one batch together, and others repeat that."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, NamedTuple

from msgspec import Meta

from thetahat.core.config import Config
from thetahat.core.errors import ConfigError

if TYPE_CHECKING:
    import torch.distributed as dist
    from torch.distributed.device_mesh import DeviceMesh

Ranks = Annotated[int, Meta(ge=1, le=2**20)]
REPLICAS, SHARDS, CONTEXT, TENSOR = "replicas", "shards", "context", "tensor"  # the axes of ranks, the outer one first


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


class Share(NamedTuple):
    """Which part a rank has, and of how many."""

    rank: int = 0
    size: int = 1


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


def lay_out(config: MeshConfig, rank: int, size: int, device: str) -> Layout:
    """The place of a rank among replicas x shards x context x tensor, of which the last follow each other.

    So ranks that exchange most lie on one machine, where it has as many. Raises ConfigError for ranks that do not fit.
    """
    together = config.shards * config.context * config.tensor
    if size % together:
        sizes = {SHARDS: config.shards, CONTEXT: config.context, TENSOR: config.tensor}
        keys = " ".join(f"mesh.{name}={number}" for name, number in sizes.items() if number > 1)
        started = "1 rank was" if size == 1 else f"{size} ranks were"
        raise ConfigError(
            f"{keys} needs a multiple of {together} ranks, and {started} started",
            cure=f"torchrun --nproc-per-node {together} -m thetahat ..., or other numbers",
        )
    reader = Share(rank // config.tensor, size // config.tensor)
    data = Share(reader.rank // config.context, reader.size // config.context)
    context = Share(reader.rank % config.context, config.context)
    if together == 1:
        return Layout(data, context, reader)
    from torch.distributed.device_mesh import init_device_mesh

    def mesh(**sizes: int) -> "DeviceMesh":
        return init_device_mesh(device, tuple(sizes.values()), mesh_dim_names=tuple(sizes))

    num_shards = config.shards * config.context if config.shards > 1 else 1
    if config.tensor == 1:
        shards = mesh(replicas=size // num_shards, shards=num_shards) if num_shards > 1 else None
        group = mesh(data=data.size, context=context.size).get_group(CONTEXT) if config.context > 1 else None
        return Layout(data, context, reader, shards, group)
    model = mesh(replicas=reader.size // num_shards, shards=num_shards, tensor=config.tensor)
    shards = model[REPLICAS, SHARDS] if num_shards > 1 else None
    readers = mesh(readers=reader.size, tensor=config.tensor).get_group("readers")
    rows = mesh(data=data.size, context=context.size, tensor=config.tensor)
    group = rows.get_group(CONTEXT) if config.context > 1 else None
    return Layout(data, context, reader, shards, group, model[TENSOR], readers)
