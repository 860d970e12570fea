"""Targets behind the next one in every layout of several ranks: terms and gradients of one process."""

import json
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace

from tests.examples import TINY, run_config, state_of, trees
from tests.scale.gradients import LAYOUTS, gradients_of, largest
from thetahat.distribution.launch import launch
from thetahat.distribution.pieces import fill
from thetahat.distribution.world import World, join_world
from thetahat.objective.config import ObjectiveConfig
from thetahat.objective.factorization import causal
from thetahat.run.state import first_state
from thetahat.run.step import step

pytestmark = pytest.mark.multi

VOCABULARY = 11
OBJECTIVE = ObjectiveConfig(future=(0.3, 0.7))


def steps(folder: str) -> None:
    torch.set_num_threads(1)
    config = run_config(replace(TINY, num_future=2), objective=OBJECTIVE)
    world, found = join_world("cpu"), {}
    for mesh in LAYOUTS[world.size]:
        here = join_world("cpu", mesh)
        batches = [causal(trees(share, 2, 37 + share, VOCABULARY), OBJECTIVE) for share in range(here.data.size)]
        plain = state_of(config, VOCABULARY)
        values = {name: one.detach().clone() for name, one in plain.model.named_parameters()}
        expected = step(plain, batches, World())
        state = first_state(config, VOCABULARY, 1, torch.device("cpu"), world=here)
        with torch.no_grad():
            for name, parameter in state.model.named_parameters():
                fill(parameter, values[name])
        report = step(state, [here.cut(batches[here.data.rank])], here)
        terms = (report.foreseen.sums / expected.foreseen.sums - 1).abs().max().item()
        layout = f"{mesh.shards}x{mesh.context}x{mesh.tensor}"
        found[layout] = terms, largest(gradients_of(state.model), gradients_of(plain.model))
    if world.is_first:
        (Path(folder) / "found.json").write_text(json.dumps(found))
    world.leave()


@pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_terms_and_gradients_are_those_of_one_process(ranks: int, tmp_path: Path):
    launch(steps, ranks, str(tmp_path))
    found = json.loads((tmp_path / "found.json").read_text())
    assert len(found) == len(LAYOUTS[ranks])
    assert {name: errors for name, errors in found.items() if not max(errors) <= 1e-12} == {}
