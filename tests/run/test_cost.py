"""What is said of a step before it is made: operations and memory are those of a step; layouts, paces, what fits."""

import dataclasses
import math

import pytest
import torch
from msgspec.structs import replace

from benchmarks.cost import GRID, SMALL, compare
from tests.examples import run_config
from thetahat.core.config import override
from thetahat.core.errors import ConfigError
from thetahat.model.build import build_model
from thetahat.model.config import DecoderConfig, EncoderConfig
from thetahat.model.cost import positions_seen
from thetahat.optimization.muon import orthogonalize_flops
from thetahat.run.cost.ceiling import measure_rates
from thetahat.run.cost.devices import DEVICES, find_device, rates_of
from thetahat.run.cost.layout import USABLE, Task, layout_of, layouts
from thetahat.run.cost.mesh import Mesh, check_mesh, share_of, traffic_of, whole_of
from thetahat.run.cost.operations import operations_of
from thetahat.run.cost.pace import pace_of
from thetahat.run.diagnosis.needed import training_memory

EIGHT_B = DecoderConfig(num_layers=32, width=4096, num_heads=32, num_kv_heads=8, head_width=128, inner_width=14336)
VOCABULARY = 128_256


@pytest.mark.parametrize("name", GRID)
def test_operations_and_memory_are_those_of_a_step(name, tmp_path, monkeypatch):
    """Operations as FlopCounterMode counts them, memory as the storages that live; see benchmarks/cost.py."""
    monkeypatch.setenv("THETAHAT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("THETAHAT_WORKERS", "1")
    found = compare(GRID[name], tmp_path)
    assert found.parameters_said == found.parameters
    assert found.flops_said == pytest.approx(found.flops, rel=0.02)
    assert found.peak_bytes_said == pytest.approx(found.peak_bytes, rel=0.10)


def test_matrices_in_float8_leave_no_copies_for_the_backward_pass(tmp_path, monkeypatch):
    monkeypatch.setenv("THETAHAT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("THETAHAT_WORKERS", "1")
    case = GRID["float8"]
    found = []
    for name, pairs in (("eighth", case.pairs), ("plain", [*case.pairs, "float8=false"])):
        (tmp_path / name).mkdir()
        found.append(compare(dataclasses.replace(case, pairs=pairs), tmp_path / name))
    eighth, plain = found
    saved = plain.peak_bytes_said - eighth.peak_bytes_said
    assert saved == 2 * 6 * (4 * 192 * 192 + 3 * 192 * 512)
    assert plain.peak_bytes - eighth.peak_bytes == pytest.approx(saved, rel=0.01)
    assert eighth.flops == plain.flops


@pytest.mark.parametrize(("distance", "num_global"), [(None, 0), (3, 0), (40, 0), (3, 2), (2, 7), (1, 40)])
@pytest.mark.parametrize("length", [1, 7, 12])
@pytest.mark.parametrize("kind", [DecoderConfig, EncoderConfig])
def test_what_is_seen_is_counted_pair_by_pair(kind, length, distance, num_global):
    window = f"layers=[{{distance={distance}, num_global={num_global}}}]" if distance else "layers=[{}]"
    model = override(kind(**SMALL), [window])
    far = distance or math.inf
    causal = kind is DecoderConfig
    pairs = [(i, j) for i in range(length) for j in range(length) if j <= i or not causal]
    pairs = [(i, j) for i, j in pairs if abs(i - j) <= far or min(i, j) < num_global]
    seen = positions_seen(model, length, "visible")
    assert seen == pytest.approx([len(pairs) / length] * model.num_layers)
    assert positions_seen(model, length, "all") == [length] * model.num_layers


def test_what_orthogonalising_takes_is_that_of_its_products():
    r, c, flops = 3, 5, 0
    for _ in range(4):
        flops += 2 * r * c * r  # the gram matrix
        flops += 2 * r * r * r  # its square
        flops += 2 * r * r * c  # times the matrix
    assert orthogonalize_flops(5, 3, 4) == flops


def config_of(context=4096, batch=64, **changes):
    config = run_config(EIGHT_B, dtype="bfloat16", device="cuda", batch_size=batch, micro_batch_size=1)
    config = override(config, [f"data.context={context}", "objective.chunk_size=4096", "compile=true"])
    return replace(config, **changes)


def task_of(config, device="h100"):
    model, gpu = build_model(config.model, VOCABULARY), find_device(device)
    memory, operations = training_memory(model, config, VOCABULARY, 0), operations_of(model, config)
    pace = pace_of(config, operations, memory, VOCABULARY, rates_of(gpu, config.dtype))
    return Task(config, whole_of(model, config, VOCABULARY, memory), operations, pace, gpu)


def test_the_share_of_one_rank_is_the_memory_of_one_process():
    config = config_of()
    model = build_model(config.model, VOCABULARY)
    memory = training_memory(model, config, VOCABULARY, 0)
    share = share_of(
        whole_of(model, config, VOCABULARY, memory), Mesh(), replace(config, batch_size=2, micro_batch_size=1)
    )
    assert share.parameters == memory.parameters
    assert share.gradients == memory.gradients
    assert share.optimizer == memory.optimizer
    assert share.logits == memory.logits
    assert share.activations == pytest.approx(memory.activations, rel=1e-6)


@pytest.mark.parametrize("shards", [2, 8, 64])
def test_shards_divide_what_is_kept_and_gather_what_is_used(shards):
    task = task_of(config_of())
    one, many = (share_of(task.whole, Mesh(shards=n), replace(task.config, batch_size=n)) for n in (1, shards))
    assert many.parameters == one.parameters / shards
    assert many.optimizer == one.optimizer / shards
    around, block = task.whole.around, task.whole.blocks / EIGHT_B.num_layers
    assert many.gathered == 2 * 2 * block + 4 * around
    accumulated = share_of(task.whole, Mesh(shards=shards), replace(task.config, batch_size=2 * shards))
    assert accumulated.gradients == one.parameters  # summed over ranks once a step


def test_one_pass_counts_what_is_there_when_it_begins_or_when_it_ends():
    task = task_of(config_of())
    begins = share_of(task.whole, Mesh(), replace(task.config, batch_size=1))
    assert begins.gradients == 0
    assert begins.activations > 0
    data = replace(task.config.data, context=32)  # few activations
    ends = share_of(task.whole, Mesh(), replace(task.config, batch_size=1, data=data))
    assert (ends.activations, ends.logits, ends.gradients) == (0, 0, ends.parameters)


def test_what_ranks_receive_is_that_of_rings():
    """Counted chunk by chunk: a ring of n ranks hands on n - 1 of n chunks."""
    task = task_of(config_of(batch=16))
    blocks, around, n, passes = task.whole.blocks, task.whole.around, 8, 2
    received = 0.0
    for _ in range(passes):
        received += sum(2 * blocks * 2 / n + around * 4 / n for _ in range(n - 1))  # forward and backward, bfloat16
    received += sum((blocks + around) * 4 / n for _ in range(n - 1))
    assert traffic_of(task.whole, Mesh(shards=n), task.config).shards == pytest.approx(received)
    both = traffic_of(task.whole, Mesh(replicas=2, shards=n), task.config)
    assert both.replicas == pytest.approx((blocks + around) * 4 / n)  # 2 (r - 1) / r = 1
    kv = traffic_of(task.whole, Mesh(context=4), task.config).context
    each = 4096 * 16 / 4 * 2 * 8 * 128 * 2  # positions of a rank, keys and values, bfloat16
    assert kv == pytest.approx(32 * 2 * 3 * each)
    summed = 4 * 4096 * 16 * 4096  # an all-reduce of float32 over two ranks: half of it, twice
    assert traffic_of(task.whole, Mesh(tensor=2), task.config).tensor == pytest.approx(32 * 4 * summed)
    assert traffic_of(task.whole, Mesh(), task.config).to_dict() == dict.fromkeys(
        ("shards", "replicas", "tensor", "context", "pipeline"), 0.0
    )


def test_a_layout_of_one_gpu_takes_the_time_of_one_gpu():
    task = task_of(config_of(batch=4))
    assert layout_of(task, Mesh()).seconds == pytest.approx(task.pace.seconds)


def test_the_layouts_that_are_shown_fit_and_the_quickest_comes_first():
    task = task_of(config_of(batch=1024))
    found = layouts(task, 64)
    assert [one.mesh.num_ranks for one in found] == [64] * 5
    assert all(one.memory.total <= USABLE * task.device.memory for one in found)
    assert max(one.seconds for one in found) <= 1.10 * min(one.seconds for one in found) or found[0] is min(
        found, key=lambda one: one.seconds
    )
    assert layouts(task_of(config_of(batch=1), "l4"), 1) == []


@pytest.mark.parametrize(
    ("mesh", "said"),
    [
        (Mesh(tensor=16), "num_kv_heads=8"),
        (Mesh(pipeline=33), "num_layers=32"),
        (Mesh(shards=48), "batch_size=64"),
        (Mesh(context=3), "data.context=4096"),
    ],
)
def test_a_mesh_that_divides_nothing_is_refused(mesh, said):
    with pytest.raises(ConfigError, match=said):
        check_mesh(mesh, config_of())


def test_a_gpu_that_is_not_known_is_refused_with_those_that_are():
    with pytest.raises(ConfigError, match="h100, h200"):
        find_device("h1000")
    assert find_device("RTX4090") is DEVICES["rtx4090"]


def test_this_machine_is_measured():
    rates = measure_rates(torch.device("cpu"), "float32")
    assert 1e8 < rates.products < 1e14
    assert 1e7 < rates.bandwidth < 1e13
