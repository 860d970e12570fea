"""The work of a rank: gradients in a layout beside those of one process, for models and batches of every form."""

import json
from dataclasses import replace as replace_fields
from pathlib import Path

import torch
from msgspec.structs import replace

from tests.examples import TINY, enliven, packed_of, trees
from tests.objective.layouts import SYMBOLS
from thetahat.core.visibility import Visibility
from thetahat.distribution import context as context_module, exchange, tensor as tensor_module
from thetahat.distribution.mesh import MeshConfig
from thetahat.distribution.pieces import fill, whole
from thetahat.distribution.shard import Policy, shard
from thetahat.distribution.world import World, join_world
from thetahat.model.block import Block
from thetahat.model.build import build_model
from thetahat.model.config import (
    AttentionConfig,
    AttentionMixer,
    DeltaMixer,
    EncoderConfig,
    EncoderDecoderConfig,
    LinearMixer,
    RelativeConfig,
    StateSpaceMixer,
)
from thetahat.model.init import allocate, initialize
from thetahat.objective.chunked import build_kernel
from thetahat.objective.config import Causal, Conditional, Masked, ObjectiveConfig, Prefix
from thetahat.objective.factorization import factor
from thetahat.objective.objective import log_likelihood

VOCABULARY = 12  # tokens of text of `SYMBOLS`
FIELDS = {
    name: getattr(TINY, name)
    for name in ("num_layers", "width", "num_heads", "num_kv_heads", "head_width", "inner_width")
}
WINDOW = replace(TINY, layers=(AttentionMixer(distance=3), AttentionMixer()))
STATES = (DeltaMixer(), StateSpaceMixer(expansion=2), LinearMixer())
RELATIVE = AttentionConfig(relative=RelativeConfig(num_buckets=8, max_distance=9), cap=4.0)
MODELS = {
    "trees": (TINY, Causal()),
    "windows": (WINDOW, Causal()),
    "prefix": (TINY, Prefix()),
    "scored": (replace(TINY, attention=RELATIVE), Causal()),
    "states": (
        replace(TINY, num_layers=3, layers=STATES),
        Causal(),
    ),
    "encoder": (EncoderConfig(**FIELDS), Masked()),
    "encoder-decoder": (EncoderDecoderConfig(num_encoder_layers=2, **FIELDS), Conditional()),
}
BOUNDS = {torch.float64: 1e-12, torch.float32: 2e-6}
LAYOUTS = {
    2: (MeshConfig(), MeshConfig(shards=2), MeshConfig(context=2), MeshConfig(tensor=2)),
    4: (
        MeshConfig(shards=2),
        MeshConfig(context=4),
        MeshConfig(shards=2, context=2),
        MeshConfig(tensor=2),
        MeshConfig(shards=2, tensor=2),
        MeshConfig(context=2, tensor=2),
    ),
}


def is_refused(mesh, config):
    """States and latents are not divided over tensor ranks."""
    return mesh.tensor > 1 and not all(isinstance(mixer, AttentionMixer) for mixer in config.layers)


def batch_of(name, share):
    """The micro-batch of a share of the data: packed rows of another length for each."""
    _, factorization = MODELS[name]
    if name in {"trees", "states"} or "shared keys" in name:
        packed = trees(share, 2, 37 + share, VOCABULARY)
    elif name == "encoder-decoder":
        sources = [[1, 2, 3, 4, 5], [6, 7, 8], [9, 1, 4, 4]]
        targets = [[0, 3, 1, 2], [0, 5], [0, 8, 8, 2, 1]]
        told = [part for pair in zip(sources, targets, strict=True) for part in pair]
        weights = [
            [0.0] * (len(one) - 1) if place % 2 == 0 else [1.0] * (len(one) - 1) for place, one in enumerate(told)
        ]
        packed = packed_of(told, weights, [0, 0, 0, 0, 1, 1], parents=[-1, 0, -1, 2, -1, 4])
    else:
        chance = torch.Generator().manual_seed(share)
        sizes, rows = [9, 4, 13, 2, 21, 6], [0, 0, 0, 1, 1, 1]
        told = [torch.randint(1, VOCABULARY, (size,), generator=chance).tolist() for size in sizes]
        packed = packed_of(told, [[1.0] * (size - 1) for size in sizes], rows)
    return factor(packed, ObjectiveConfig(factorization=factorization), SYMBOLS)


def gradients(model, batches, kernel, weight):
    for batch in batches:
        (-log_likelihood(model, batch, kernel).log_prob / weight).backward()


def whole_model(config, dtype):
    model = build_model(config, SYMBOLS.vocab_size)
    initialize(model, 0)
    model.to(dtype)
    enliven(model)
    return model


def model_in(world: World, config, dtype, values):
    """The same model as the world lays it out."""
    model = build_model(config, SYMBOLS.vocab_size)
    if world.layout.tensor is not None:
        tensor_module.split(model, world.layout.tensor)
    if world.layout.shards is not None:
        units = [module for module in model.modules() if isinstance(module, Block)]
        shard(model, units, ("hidden", "encode", "read", "decode"), world.layout.shards, Policy())
    allocate(model, "cpu", dtype)
    for name, parameter in model.named_parameters():
        fill(parameter, values[name])
    return model


def distances(folder: str, mutation: str = "") -> None:
    """Writes the error of each case; `mutation` puts a fault in first."""
    torch.set_num_threads(1)
    world, found = join_world("cpu"), {}
    for mesh in LAYOUTS[world.size]:
        here = join_world("cpu", mesh)
        for name, (config, _) in MODELS.items():
            if is_refused(mesh, config):
                continue
            for dtype in (torch.float64, torch.float32) if not mutation else (torch.float64,):
                MUTATIONS.get(mutation, lambda here: None)(here)
                layout = f"{mesh.shards}x{mesh.context}x{mesh.tensor}"
                found[f"{name} {layout} {str(dtype)[6:]}"] = _distance(here, name, config, dtype)
    if world.is_first:
        (Path(folder) / "found.json").write_text(json.dumps(found))
    world.leave()


def _distance(here, name, config, dtype):
    """The error over what is allowed."""
    batches = [batch_of(name, share) for share in range(here.data.size)]
    weight, kernel = (
        sum(float(batch.weight()) for batch in batches),
        build_kernel(ObjectiveConfig(chunk_size=5), compiles=False),
    )
    values, truth, bound = known(name, config, dtype, batches, kernel, weight)
    ours = model_in(here, config, dtype, values)
    gradients(ours, [here.cut(batches[here.data.rank])], kernel, weight)
    here.sum_gradients(ours.parameters())
    return largest(gradients_of(ours), truth) / bound


_KNOWN = {}


def known(name, config, dtype, batches, kernel, weight):
    """The same for every layout that cuts the data into as many parts: computed once."""
    key = name, dtype, len(batches)
    if key not in _KNOWN:
        _KNOWN[key] = alone(config, dtype, batches, kernel, weight)
    return _KNOWN[key]


def alone(config, dtype, batches, kernel, weight):
    """Of one process: parameters, true gradients, and the error that is allowed.

    In float32 it is the distance from float64, of which one process has half as well.
    """
    plain = whole_model(config, dtype)
    gradients(plain, batches, kernel, weight)
    values = {name: one.detach() for name, one in plain.named_parameters()}
    if dtype != torch.float32:
        return values, gradients_of(plain), BOUNDS[dtype]
    truth = build_model(config, SYMBOLS.vocab_size)
    allocate(truth, "cpu", torch.float64)
    for name, parameter in truth.named_parameters():
        fill(parameter, values[name])
    gradients(truth, batches, kernel, weight)
    bound = max(BOUNDS[dtype], 2 * largest(gradients_of(plain), gradients_of(truth)))
    return values, gradients_of(truth), bound


def gradients_of(model):
    """Whole, in float64."""
    return {name: whole(one.grad).double() for name, one in model.named_parameters() if one.grad is not None}


def largest(ours, theirs):
    """The largest relative error over tensors; all but zero gradients are held against the whole one.

    So is a single number, whose gradient is a sum over all positions in which most may cancel.
    """
    scale = sum(float(one.norm()) ** 2 for one in theirs.values()) ** 0.5
    least = {name: scale if one.numel() == 1 else 1e-3 * scale for name, one in theirs.items()}
    return max(float((ours[name] - one).norm()) / max(float(one.norm()), least[name]) for name, one in theirs.items())


def _average(here):
    right = World.sum_gradients

    def wrong(self, parameters):
        parameters = list(parameters)
        right(self, parameters)
        for parameter in parameters:
            parameter.grad.div_(self.size)

    if "average" not in _DONE:
        _DONE.add("average")
        World.sum_gradients = wrong


def _gain(here):
    """The gain of the norm of queries or keys has the gradient of a rank's heads only."""
    tensor_module.NORMS = frozenset()


def _mean(here):
    """What comes back from the ranks of a product is averaged."""
    right = exchange._sum
    exchange._Fork.backward = staticmethod(
        lambda ctx, gradient: (right(gradient, ctx.group) / torch.distributed.get_world_size(ctx.group), None)
    )


def _missing(here):
    """The way back of gathered keys brings each rank its own part only."""
    context_module.dist = _Silent()


class _Silent:
    def __getattr__(self, name):
        return getattr(torch.distributed, name)

    def reduce_scatter_single(self, mine, every, group):
        rank = torch.distributed.get_rank(group)
        mine.copy_(every[rank * len(mine) : (rank + 1) * len(mine)])


def _leak(here):
    """Documents of a row see each other."""
    right = Visibility.mask

    def wrong(self, queries=slice(None), keys=slice(None)):
        everyone = replace_fields(self, piece=self.piece.clamp(max=0), ancestors=None)
        if self.whole is None:
            return right(self, queries, keys)
        row = replace_fields(self.whole.seen, piece=self.whole.seen.piece.clamp(max=0), ancestors=None)
        return right(replace_fields(everyone, whole=replace_fields(self.whole, seen=row)), queries, keys)

    if "leak" not in _DONE:
        _DONE.add("leak")
        Visibility.mask = wrong


_DONE: set[str] = set()
MUTATIONS = {"average": _average, "missing": _missing, "leak": _leak, "gain": _gain, "mean": _mean}
