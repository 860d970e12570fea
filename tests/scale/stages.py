"""The work of a stage of a pipeline: gradients of several micro-batches beside those of one process."""

import json
from pathlib import Path

import torch
from msgspec.structs import replace

from tests.objective.layouts import SYMBOLS
from tests.scale.gradients import MODELS, batch_of, known, largest
from thetahat.distribution import pieces, world as world_module
from thetahat.distribution.mesh import MeshConfig
from thetahat.distribution.pieces import fill, gradient_of, settle, sum_over_homes
from thetahat.distribution.pipeline import stage as stage_module
from thetahat.distribution.shard import Policy, shard
from thetahat.distribution.world import World, join_world
from thetahat.model.block import Block
from thetahat.model.build import build_model
from thetahat.model.init import allocate
from thetahat.objective.chunked import build_kernel
from thetahat.objective.config import ObjectiveConfig
from thetahat.objective.objective import log_likelihood

NAMES = ("trees", "windows", "prefix", "scored", "states")
OTHERS = {"num_layers": 5, "ties_embeddings": True}  # of each model: five layers are never divided evenly
NUM_BATCHES = 3  # of a rank, of different lengths; one of them has no targets
LAYOUTS = {
    2: (MeshConfig(pipeline=2), MeshConfig(pipeline=2, turns=2)),
    4: (
        MeshConfig(pipeline=4),
        MeshConfig(pipeline=2),
        MeshConfig(pipeline=2, turns=2),
        MeshConfig(pipeline=2, shards=2),
        MeshConfig(pipeline=2, turns=2, shards=2),
    ),
}


def stage_in(world: World, config, dtype, values):
    """The model as the world lays it out."""
    model = build_model(config, SYMBOLS.vocab_size)
    homes = stage_module.divide(model, world.layout.stages, dtype)
    if world.layout.shards is not None:
        units = [module for module in model.modules() if isinstance(module, Block)]
        shard(model, units, ("hidden",), world.layout.shards, Policy())
    allocate(model, "cpu", dtype)
    settle(model, homes)
    for name, parameter in model.named_parameters():
        fill(parameter, values[name])
        assert parameter.is_meta == (homes[name].stage not in homes[name].stages)  # no memory for what others have
    assert sum(parameter.is_meta for parameter in model.parameters()) > 0
    return model


def distances(folder: str, mutation: str = "") -> None:
    """Writes the error of each case over what is allowed; `mutation` puts a fault in first."""
    torch.set_num_threads(1)
    world, found = join_world("cpu"), {}
    MUTATIONS.get(mutation, lambda: None)()
    for mesh in LAYOUTS[world.size]:
        here = join_world("cpu", mesh)
        for name in NAMES:
            for dtype in (torch.float64, torch.float32) if not mutation else (torch.float64,):
                for way in ("in turns", "together"):
                    layout = f"{mesh.pipeline}x{mesh.turns}x{mesh.shards}"
                    found[f"{name} {layout} {str(dtype)[6:]} {way}"] = _distance(here, name, dtype, way)
    if world.is_first:
        (Path(folder) / "found.json").write_text(json.dumps(found))
    world.leave()


def _distance(here, name, dtype, way):
    """The error of gradient and value over what is allowed."""
    config = replace(MODELS[name][0], **OTHERS)
    number = NUM_BATCHES if way == "in turns" else 1
    batches = [batch_of(name, share) for share in range(here.data.size * number)]
    if number > 1:
        batches[1] = batches[1].idle()
    weight, kernel = (
        sum(float(batch.weight()) for batch in batches),
        build_kernel(ObjectiveConfig(chunk_size=5), compiles=False),
    )
    values, truth, bound = known(f"{name} {way}", config, dtype, batches, kernel, weight)
    ours, mine = stage_in(here, config, dtype, values), batches[here.data.rank * number :][:number]
    (_in_turns if way == "in turns" else _together)(here, ours, mine, kernel, weight)
    found = dict(zip(values, map(gradient_of, ours.parameters()), strict=True))
    homes = here.homes(found)
    found = {one: here.whole(gradient, homes[one]).double() for one, gradient in found.items()}
    return largest(found, truth) / bound


def _in_turns(here, model, batches, kernel, weight):
    """As a step does."""
    for (turn,) in here.turns(batches, model):
        turn.backward(-log_likelihood(model, turn.micro.batch, kernel).log_prob / weight)
    here.sum_gradients(model.parameters())


def _together(here, model, batches, kernel, weight):
    """As the checks before the first step do: each stage has the value."""
    for batch in batches:
        value = log_likelihood(model, batch, kernel)
        everyones = [torch.empty_like(value.log_prob) for _ in range(here.layout.stages.share.size)]
        torch.distributed.all_gather(everyones, value.log_prob.detach(), group=here.layout.stages.group)
        assert all(torch.equal(one, everyones[0]) for one in everyones)
        (-value.log_prob / weight).backward()
    here.sum_gradients(model.parameters())


def _lost():
    """The gradient of the first micro-batch of a step is lost."""
    right, number = stage_module.backward, [0]

    def wrong(of, model, *, is_last):
        right(of * (number[0] > 0), model, is_last=is_last)
        number[0] = 0 if is_last else number[0] + 1

    stage_module.backward = wrong


def _untied():
    """Each stage that has the table of tokens keeps its own part of the gradient."""
    world_module.sum_over_homes = lambda parameters: None


def _mean():
    """They take the mean of their parts."""

    def wrong(parameters):
        parameters = list(parameters)
        sum_over_homes(parameters)
        for parameter in parameters:
            if (home := pieces.home_of(parameter)) and home.sharing:
                parameter.grad.div_(len(home.stages))

    world_module.sum_over_homes = wrong


MUTATIONS = {"lost": _lost, "untied": _untied, "mean": _mean}
