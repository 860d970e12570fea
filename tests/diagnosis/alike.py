"""The work of a rank on which a bit of a parameter is another than on its twins."""

import json
import os
from pathlib import Path

import torch

from tests.diagnosis.faults import SHAPE, VOCABULARY, packed
from tests.examples import run_config
from thetahat.core.config import from_toml, override
from thetahat.diagnosis.signals.regions import regions_of
from thetahat.distribution.pieces import is_piece, piece
from thetahat.distribution.world import join_world
from thetahat.objective.factorization import causal
from thetahat.optimization.optimizer import Optimizer
from thetahat.run.config import RunConfig
from thetahat.run.diagnosis.inside import Inside
from thetahat.run.state import first_state
from thetahat.run.train import train

LAYOUTS = {
    "4": [],
    "2 x shards 2": ["mesh.shards=2"],
    "2 x context 2": ["mesh.context=2"],
    "context 2 x shards 2": ["mesh.context=2", "mesh.shards=2"],
    "2 x tensor 2": ["mesh.tensor=2"],
    "shards 2 x tensor 2": ["mesh.shards=2", "mesh.tensor=2"],
}
MATRIX, VECTOR = "blocks.1.attention.query.weight", "norm.gain"


def flip(parameter):
    """Another lowest bit of the first number that this rank has."""
    first = piece(parameter.detach()).view(torch.int32).flatten()[:1]
    first.bitwise_xor_(1)


def looked(name: str) -> None:
    """Writes, by layout, what is said where nothing is wrong, and of a bit of each rank in a matrix and in a vector."""
    batch, found = causal(packed()), {}
    for layout, keys in LAYOUTS.items():
        config = override(run_config(SHAPE, dtype="float32"), ["diagnosis.every=1", *keys])
        world = join_world("cpu", config.mesh)
        state = first_state(config, VOCABULARY, 4, torch.device("cpu"), world=world)
        inside, parameters = Inside(state, regions_of(state.model), world), dict(state.model.named_parameters())
        told = found[layout] = {"pieces": [one for one in (MATRIX, VECTOR) if is_piece(parameters[one])]}
        for rank in (None, *range(world.size)):
            for tensor in (MATRIX, VECTOR) if rank is not None else ("",):
                if rank == world.rank:
                    flip(parameters[tensor])
                inside.begin(1)
                told[f"{rank} {tensor}"] = inside.end([world.cut(batch)]).diverged
                if rank == world.rank:
                    flip(parameters[tensor])
    (Path(name) / f"rank-{world.rank}.json").write_text(json.dumps(found))
    world.leave()


def trained(name: str) -> None:
    """Trains; on the last rank a bit flips with the third update."""
    folder, update, updates = Path(name), Optimizer.step, []

    def faulty(optimizer, factor):
        update(optimizer, factor)
        updates.append(factor)
        if len(updates) == 3 and os.environ["RANK"] == "3":
            flip(next(rule.group.parameters[MATRIX] for rule in optimizer.rules if MATRIX in rule.group.parameters))

    Optimizer.step = faulty
    list(train(from_toml((folder / "config.toml").read_text(), RunConfig), folder / "run"))
