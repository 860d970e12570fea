"""How ranks are laid out: some hold one model together, and others repeat that."""

from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from thetahat.core.config import Config
from thetahat.core.errors import ConfigError

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

Ranks = Annotated[int, Meta(ge=1, le=2**20)]
REPLICAS, SHARDS = "replicas", "shards"  # the axes of a mesh, the outer one first


class MeshConfig(Config, kw_only=True):
    """How the ranks share the work. No result depends on it, beyond rounding, so it may change when a run goes on."""

    shards: Ranks = 1
    """Ranks that hold one model, each a part of every matrix and of its optimizer state (FSDP2); 1: each holds all of
    it. The number of ranks is a multiple of it, and each group of so many ranks is a replica (HSDP).
    """


def build_mesh(config: MeshConfig, size: int, device: str) -> "DeviceMesh | None":
    """The mesh [replicas, shards] of `size` ranks; None where each of them holds the whole model.

    Ranks of one replica follow each other, so that they lie on one machine where it has as many.
    """
    if size % config.shards:
        fitting = ", ".join(str(n) for n in range(1, size + 1) if size % n == 0)
        started = "1 rank was" if size == 1 else f"{size} ranks were"
        raise ConfigError(
            f"mesh.shards={config.shards}, and {started} started",
            allowed=fitting,
            cure=f"torchrun --nproc-per-node {config.shards} -m thetahat ..., or mesh.shards=1",
        )
    if config.shards == 1:
        return None
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh(device, (size // config.shards, config.shards), mesh_dim_names=(REPLICAS, SHARDS))
