"""Pieces on the host: torch gets the policy, and runs are those of one process. On a CPU the host is the device."""

import pytest
import torch
from torch.distributed.fsdp import CPUOffloadPolicy

from tests.examples import run_config
from tests.scale.conftest import batches, distance, held_out, names, tensors, trained
from thetahat.core.config import override
from thetahat.core.errors import ConfigError
from thetahat.distribution.launch import launch
from thetahat.distribution.mesh import MeshConfig
from thetahat.distribution.pieces import is_in_shards, units_of
from thetahat.distribution.world import join_world
from thetahat.optimization.foreach import multiply_, norms, on_each_device, together
from thetahat.run.state import first_model

EVERYWHERE = [["thetahat.run.together", "OFFLOADING", ["cpu", "cuda"]]]  # users are refused it on a CPU


def policies() -> None:
    """Of the units of a model in pieces."""
    config = override(run_config(), ["mesh.shards=2", "mesh.offload=true"])
    world = join_world("cpu", config.mesh)
    for offload in (True, False):
        config = override(config, [f"mesh.offload={str(offload).lower()}"])
        model = first_model(config, 61, world=world)
        groups = [one._get_fsdp_state()._fsdp_param_group for one in units_of(model)]
        assert len(groups) == config.model.num_layers + 1
        kinds = [isinstance(one.offload_policy, CPUOffloadPolicy) for one in groups if one]
        assert kinds == [offload] * len(groups)
        assert {one.device.type for one in model.parameters() if is_in_shards(one)} == {"cpu"}
    world.leave()


@pytest.mark.multi
def test_torch_gets_the_policy_for_every_unit():
    launch(policies, 2)


@pytest.mark.multi
@pytest.mark.parametrize(
    ("size", "keys"),
    [
        (2, ["mesh.shards=2"]),
        pytest.param(4, ["mesh.shards=2", "mesh.tensor=2"], marks=pytest.mark.slow),
        pytest.param(4, ["mesh.shards=2", "mesh.context=2"], marks=pytest.mark.slow),
    ],
)
def test_a_run_whose_pieces_are_offloaded_equals_that_of_one_process(bench, size, keys):
    """With clipping, Muon, a moving average, evaluations and checkpoints from which it goes on."""
    whole = trained(bench, "not-offloaded", 1)
    name = f"offloaded-{'-'.join(keys)}"
    trained(bench, name, size, *keys, "mesh.offload=true", "--max-minutes=0", sets=EVERYWHERE)
    run = trained(bench, name, size, *keys, "mesh.offload=true", sets=EVERYWHERE)
    assert names(run) == names(whole)
    assert distance(tensors(run), tensors(whole))[0] < 1e-12
    assert batches(run) == batches(whole)
    assert held_out(run) == pytest.approx(held_out(whole), rel=1e-13)


def test_it_is_refused_beside_a_pipeline():
    with pytest.raises(ConfigError, match=r"mesh\.offload=true with mesh\.pipeline=2"):
        MeshConfig(shards=2, pipeline=2, offload=True)


def test_lists_of_several_devices_are_divided():
    """`meta` stands for another device."""
    tensors = [torch.ones(2), torch.ones(2, device="meta"), torch.ones(2)]
    assert on_each_device(tensors) == [[0, 2], [1]]
    assert together(tensors).shape == (3, 2)
    assert together(tensors).device.type == "meta"
    multiply_(tensors, torch.tensor(3.0))
    assert tensors[2].tolist() == [3.0, 3.0]
    assert norms(tensors, torch.float64)[2].item() == pytest.approx(18**0.5)
    assert norms(tensors, torch.float64)[1].is_meta
