"""What cannot be computed by several ranks together."""

from collections.abc import Iterator

import torch

from thetahat.core.errors import ConfigError
from thetahat.distribution.mesh import MeshConfig
from thetahat.distribution.pipeline.schedule import groups_of
from thetahat.model.adapters.rows import EmbeddingWithRows, HeadWithRows
from thetahat.model.build import LanguageModel
from thetahat.model.config import LatentMixer
from thetahat.model.decoder import Decoder
from thetahat.model.layers.experts import routers_of
from thetahat.run.config import RunConfig

_WITH_FLOAT8 = (8, 9)  # compute capability
OFFLOADING = frozenset({"cuda"})  # devices beside which the host has memory of its own


def refuse_offload(config: RunConfig) -> None:
    """Raises ConfigError where the memory of the host is the only one.

    A rank asks before it joins the others: who ends when they have met takes the store of the slower ones with it.
    """
    if config.mesh.offload and config.device not in OFFLOADING:
        raise ConfigError(
            f"mesh.offload=true with device={config.device}: everything lies in the memory of the host anyway",
            allowed="mesh.offload=true with device=cuda",
            cure="mesh.offload=false",
        )


def refuse_float8(config: RunConfig) -> None:
    """Raises ConfigError where products in float8 are not to be had: on older GPUs, and of a rank's part of a row."""
    if not config.float8:
        return
    if config.device == "cuda" and torch.cuda.get_device_capability() < _WITH_FLOAT8:
        raise ConfigError(
            f"float8=true, and {torch.cuda.get_device_name()} does not multiply in it",
            allowed="GPUs from Ada and Hopper on",
            cure="float8=false",
        )
    if config.mesh.tensor > 1:
        raise ConfigError(
            f"float8=true with mesh.tensor={config.mesh.tensor}: a rank would scale its part of a row by itself",
            allowed="mesh.shards, mesh.context and mesh.pipeline beside it",
            cure="float8=false, or mesh.tensor=1",
        )


def refuse_division(config: RunConfig, model: LanguageModel, mesh: MeshConfig) -> None:
    """Raises ConfigError if ranks cannot compute the products of this model together, or have its layers in turn."""
    if mesh.tensor > 1:
        for what, allowed, cure in _obstacles(config, model, mesh.tensor):
            raise ConfigError(f"mesh.tensor={mesh.tensor}, and {what}", allowed=allowed, cure=cure)
        from thetahat.distribution.tensor import refuse_empty  # imports DTensor

        refuse_empty(model, mesh.tensor)
    for what, allowed, cure in _in_the_way(config, model, mesh) if mesh.pipeline > 1 else ():
        raise ConfigError(f"mesh.pipeline={mesh.pipeline}, and {what}", allowed=allowed, cure=cure)


def _obstacles(config: RunConfig, model: LanguageModel, size: int) -> Iterator[tuple[str, str, str]]:
    """What is in the way, what is allowed, and what to type."""
    shape = config.model
    if shape.num_kv_heads % size:
        fitting = [number for number in range(1, shape.num_kv_heads + 1) if shape.num_kv_heads % number == 0]
        allowed = f"mesh.tensor={', '.join(map(str, fitting))}"
        yield f"model.num_kv_heads={shape.num_kv_heads}: a rank has whole heads", allowed, f"mesh.tensor={fitting[-1]}"
    if len(shape.attentions) < len(shape.layers):
        yield "model.layers has layers with a state, which is not divided", "attention in all layers", _SHARDS
    if any(isinstance(mixer, LatentMixer) for mixer in shape.layers):
        yield "model.layers has latent attention, whose latents all heads read", "kind=attention in all layers", _SHARDS
    if shape.attention.query_key_norm == "joined":
        instead = "model.attention.query_key_norm=head or none"
        yield "queries and keys are normalised over all heads joined", instead, _SHARDS
    if any(isinstance(module, EmbeddingWithRows | HeadWithRows) for module in model.modules()):
        yield "rows of new tokens are trained beside a frozen table", "a table that is trained", _SHARDS
    if config.compile or config.objective.kernel == "fused":
        yield "layers or the kernel are compiled", "compile=false and objective.kernel=reference", "compile=false"


_SHARDS = "mesh.shards in the place of mesh.tensor"


def _in_the_way(config: RunConfig, model: LanguageModel, mesh: MeshConfig) -> Iterator[tuple[str, str, str]]:
    """What is in the way, what is allowed, and what to type."""
    shape, size = config.model, mesh.pipeline
    attentions = shape.attention_layers(shape.num_layers)
    if not isinstance(model, Decoder):
        yield "the model is no decoder", "model.kind=decoder", _SHARDED
        return
    if shape.num_layers < (needed := size * mesh.turns):
        most = f"mesh.pipeline={min(size, shape.num_layers)} mesh.turns=1"
        yield f"model.num_layers={shape.num_layers}: mesh.turns={mesh.turns} needs {needed}", most, most
    for group in groups_of(shape.num_layers, needed):
        apart = [layer for layer in group if layer in attentions and shape.keys_of(layer) not in group]
        if apart:
            what = f"layers {shape.keys_of(apart[0])} and {apart[0]}, which share keys and values, are on two stages"
            yield what, f"whole groups of model.attention.sharing={shape.attention.sharing} on each stage", _SHARDED
    if routers_of(model):
        yield "the balance of experts is that of all layers", "a model without experts", _SHARDED
    if model.future:
        yield "tokens behind the next one are predicted beside the last layer", "model.num_future=0", _SHARDED
    if shape.shares_layers:
        yield "all layers are one", "model.shares_layers=false", _SHARDED
    if shape.embedding.width:
        yield "a product stands between the table and the layers", "model.embedding.width=none", _SHARDED
    if config.compile or config.objective.kernel == "fused":
        yield "layers or the kernel are compiled", "compile=false and objective.kernel=reference", "compile=false"


_SHARDED = "mesh.shards in the place of mesh.pipeline"
