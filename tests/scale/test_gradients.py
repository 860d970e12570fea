"""The gradient of every layout is that of one process, and each of these tests fails on the faults it is for."""

import json

import pytest

from tests.scale.gradients import LAYOUTS, MODELS, distances, is_refused
from thetahat.distribution.launch import launch

pytestmark = pytest.mark.multi


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The errors of all cases on so many ranks over what is allowed, with a fault or without, measured once."""
    made = {}

    def measured(size, mutation=""):
        if (size, mutation) not in made:
            folder = tmp_path_factory.mktemp("gradients")
            launch(distances, size, str(folder), mutation)
            made[size, mutation] = json.loads((folder / "found.json").read_text())
        return made[size, mutation]

    return measured


@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_gradients_in_every_layout_are_those_of_one_process(found, size):
    errors = found(size)
    assert {name: error for name, error in errors.items() if not error <= 1} == {}
    computed = [not is_refused(mesh, config) for mesh in LAYOUTS[size] for config, _ in MODELS.values()]
    assert len(errors) == 2 * sum(computed)


@pytest.mark.parametrize(
    ("mutation", "layout"),
    [
        ("missing", "1x2x1"),
        pytest.param("average", "1x1x1", marks=pytest.mark.slow),
        ("gain", "1x1x2"),
        pytest.param("mean", "1x1x2", marks=pytest.mark.slow),
        pytest.param("leak", "1x2x1", marks=pytest.mark.slow),
    ],
)
def test_a_fault_is_seen_in_every_model(found, mutation, layout):
    errors = {name: error for name, error in found(2, mutation).items() if name.split()[1] == layout}
    if mutation == "leak":  # through a mask, which states do not read
        errors = {name: error for name, error in errors.items() if not name.startswith("states")}
    assert {name: error for name, error in errors.items() if not error > 1e9} == {}
