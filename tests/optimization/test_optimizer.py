import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from tests.oracles import update as oracle
from thetahat.core.errors import ModelError
from thetahat.model.build import build_model
from thetahat.model.config import DecoderConfig
from thetahat.model.init import initialize
from thetahat.optimization.config import AdamW, Muon, OptimizationConfig
from thetahat.optimization.optimizer import build_optimizer

SMALL = {"num_layers": 2, "width": 8, "num_heads": 2, "num_kv_heads": 1, "head_width": 4, "inner_width": 12}
MUON = Muon(learning_rate=0.02, weight_decay=0.1)
ADAMW = AdamW(learning_rate=0.01, weight_decay=0.1)
both = pytest.mark.parametrize("matrices", [MUON, ADAMW], ids=["muon", "adamw"])


def config(matrices=MUON):
    vectors = AdamW(learning_rate=0.005)
    return OptimizationConfig(matrices=matrices, embeddings=AdamW(learning_rate=0.003, beta2=0.9), vectors=vectors)


def small(device="cpu", dtype=torch.float32, **values):
    model = build_model(DecoderConfig(**SMALL, **values), 16)
    initialize(model, 0)
    return model.to(device=device, dtype=dtype)


def give_gradients(model, step):
    for index, parameter in enumerate(model.parameters()):
        noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1000 * step + index))
        parameter.grad = noise.to(parameter)


def walk(model, optimizer, steps):
    for step in steps:
        give_gradients(model, step)
        optimizer.step(1 / (1 + step))


def same(ours, theirs):
    return list(ours) == list(theirs) and all(torch.equal(ours[name], theirs[name]) for name in ours)


@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("stop", [0, 3])
def test_saved_and_loaded_in_the_middle_a_run_ends_in_the_same_bits(device, matrices, dtype, stop):
    straight = small(device, dtype)
    never_stopped = build_optimizer(straight, config(matrices))
    walk(straight, never_stopped, range(6))

    first = small(device, dtype)
    before = build_optimizer(first, config(matrices))
    walk(first, before, range(stop))
    saved = safetensors.torch.save(before.state()), safetensors.torch.save(first.state_dict())

    second = small(device, dtype)
    after = build_optimizer(second, config(matrices))
    second.load_state_dict(safetensors.torch.load(saved[1]))
    after.load_state(safetensors.torch.load(saved[0]))
    walk(second, after, range(stop, 6))
    assert same(second.state_dict(), straight.state_dict())
    assert same(after.state(), never_stopped.state())


@both
def test_the_state_is_there_before_the_first_step(matrices):
    model = small()
    optimizer = build_optimizer(model, config(matrices))
    names = list(optimizer.state())
    assert all((slot == 0).all() for slot in optimizer.state().values())
    walk(model, optimizer, range(1))
    assert list(optimizer.state()) == names


def test_state_names_are_parameter_names_and_slots():
    state = build_optimizer(small(), config()).state()
    assert {name for name in state if name.startswith("blocks.0.mlp.up")} == {"blocks.0.mlp.up.weight/momentum"}
    assert {name.removeprefix("norm.gain/") for name in state if name.startswith("norm.gain/")} == {
        "step",
        "exp_avg",
        "exp_avg_sq",
    }


def test_a_tied_weight_has_one_state_and_moves_once():
    model = small(ties_embeddings=True)
    optimizer = build_optimizer(model, config())
    assert not [name for name in optimizer.state() if name.startswith("head.")]
    walk(model, optimizer, range(1))
    assert optimizer.state()["embedding.weight/step"] == 1


def test_slots_are_contiguous_even_of_parameters_that_are_not():
    model = small()
    model.blocks[0].mlp.up.weight = nn.Parameter(torch.randn(8, 12).T)
    state = build_optimizer(model, config()).state()
    assert all(slot.is_contiguous() for slot in state.values())


def test_every_group_moves_at_its_own_rate_times_the_factor(device):
    model = small(device, torch.float64)
    start = {name: parameter.detach().cpu().numpy().copy() for name, parameter in model.named_parameters()}
    optimizer = build_optimizer(model, config())
    gradients = {name: [] for name in start}
    factors = [0.5, 1.0, 0.25]
    for step, factor in enumerate(factors):
        give_gradients(model, step)
        for name, parameter in model.named_parameters():
            gradients[name].append(parameter.grad.cpu().numpy().copy())
        optimizer.step(factor)
    adamw = {"beta1": 0.9, "epsilon": 1e-8, "weight_decay": 0.0}
    muon = {"momentum": 0.95, "weight_decay": 0.1, "scale": "shape"}
    expected = {
        "blocks.1.mlp.down.weight": (oracle.muon, 0.02, muon),
        "head.weight": (oracle.adamw, 0.003, adamw | {"beta2": 0.9}),
        "norm.gain": (oracle.adamw, 0.005, adamw | {"beta2": 0.95}),
    }
    for name, (rule, rate, values) in expected.items():
        end = rule(start[name], gradients[name], learning_rates=[rate * factor for factor in factors], **values)
        np.testing.assert_allclose(model.get_parameter(name).detach().cpu().numpy(), end, rtol=1e-9, atol=1e-12)


@both
def test_at_factor_zero_nothing_moves(matrices):
    model = small()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    give_gradients(model, 0)
    build_optimizer(model, config(matrices)).step(0.0)
    assert same(model.state_dict(), before)


@both
def test_frozen_parameters_neither_move_nor_have_a_state(matrices):
    model = small()
    model.blocks[0].requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = build_optimizer(model, config(matrices))
    walk(model, optimizer, range(2))
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {name for name in before if not name.startswith("blocks.0.")}
    assert not [name for name in optimizer.state() if name.startswith("blocks.0.")]


def test_zero_grad_forgets():
    model = small()
    optimizer = build_optimizer(model, config())
    give_gradients(model, 0)
    optimizer.zero_grad()
    assert all(parameter.grad is None for parameter in model.parameters())


def damaged(state, kind):
    match kind:
        case "missing":
            return {name: slot for name, slot in state.items() if name != "norm.gain/exp_avg"}
        case "unexpected":
            return state | {"norm.gain/extra": torch.zeros(8)}
        case "misshapen":
            return state | {"norm.gain/exp_avg": torch.zeros(9)}
        case "another dtype":
            return state | {"norm.gain/exp_avg": torch.zeros(8, dtype=torch.float64)}


@pytest.mark.parametrize("kind", ["missing", "unexpected", "misshapen", "another dtype"])
def test_a_state_that_does_not_fit_is_refused_by_name_and_changes_nothing(kind):
    model = small()
    optimizer = build_optimizer(model, config())
    walk(model, optimizer, range(2))
    before = {name: slot.clone() for name, slot in optimizer.state().items()}
    other = {name: torch.ones_like(slot) for name, slot in before.items()}
    with pytest.raises(ModelError, match=r"norm\.gain/ex"):
        optimizer.load_state(damaged(other, kind))
    assert same(optimizer.state(), before)


def test_the_state_of_another_rule_is_refused():
    saved = build_optimizer(small(), config(ADAMW)).state()
    with pytest.raises(ModelError, match=r"momentum and 13 more"):
        build_optimizer(small(), config(MUON)).load_state(saved)
