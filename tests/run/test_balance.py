"""The balance of experts: apart from the likelihood, and the same however a step is cut."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings as hypothesis_settings, strategies as st
from msgspec.structs import replace

from tests.examples import TINY, run_config, state_of
from tests.model.test_decoder import arrays_of
from tests.oracles.composed import Composed
from tests.run.test_step import CUTTINGS, SEQUENCES, VOCABULARY, WEIGHTS, any_cutting, batches_of, distance
from thetahat.core.config import override, to_plain
from thetahat.core.errors import ConfigError
from thetahat.distribution.world import World
from thetahat.model.config import ExpertsConfig
from thetahat.model.layers.experts import noting_routes, routers_of
from thetahat.objective.balance import moved_bias, sequence_balance
from thetahat.objective.config import BalanceConfig
from thetahat.run.step import Skipping, step

BOTH = BalanceConfig(bias_rate=0.01, sequence=0.3, router_z=0.2)
KINDS = {
    "sigmoid": ExpertsConfig(num_experts=4, shared_width=3),
    "softmax": ExpertsConfig(num_experts=5, num_chosen=3, scores="softmax", normalizes=False, num_dense=1),
}


def config_of(kind, balance=BOTH, **changes):
    shape = replace(TINY, experts=KINDS[kind])
    config = run_config(shape, **changes)
    return replace(config, objective=replace(config.objective, balance=balance))


def outcome(config, cutting, judge=None, width=None):
    state = state_of(config, VOCABULARY)
    report = step(state, batches_of(cutting, width=width), World(), judge=judge)
    gradients = {name: p.grad.double().numpy() for name, p in state.model.named_parameters() if p.grad is not None}
    biases = {name: router.bias.clone() for name, router in routers_of(state.model).items()}
    return report, gradients, biases


def ascended(parameters, config):
    """The oracle's mean log-likelihood of a step, its penalties, and how often each expert was chosen."""
    value, weight, penalties, loads = 0.0, 0.0, np.zeros(2), {}
    num_read = sum(len(sequence) - 1 for sequence in SEQUENCES)
    for sequence, weights in zip(SEQUENCES, WEIGHTS, strict=True):
        oracle = Composed(to_plain(config.model), parameters)
        logits = oracle.logits(sequence[:-1])
        for at, (target, counts) in enumerate(zip(sequence[1:], weights, strict=True)):
            value += counts * (logits[at, target] - np.log(np.exp(logits[at]).sum()))
            weight += counts
        for name, of_router, scores, every in oracle.routes:
            length, number = scores.shape
            counted = [sum(i in chosen for chosen in every) for i in range(number)]
            share = [number * count / (len(every[0]) * length) for count in counted]
            mean = [np.mean([row[i] / row.sum() for row in scores]) for i in range(number)]
            penalties[0] += length * sum(f * p for f, p in zip(share, mean, strict=True)) / num_read
            penalties[1] += sum(np.log(np.exp(row).sum()) ** 2 for row in of_router) / num_read
            loads[name] = np.add(loads.get(name, 0), counted)
    return value / weight, penalties, loads


@pytest.mark.parametrize("kind", KINDS)
def test_value_penalties_loads_and_gradient_are_those_of_the_oracle(kind):
    config = config_of(kind)
    report, gradients, biases = outcome(config, CUTTINGS["packed and accumulated"])
    parameters = arrays_of(state_of(config, VOCABULARY).model)
    value, penalties, loads = ascended(parameters, config)
    assert report.total.mean().item() == pytest.approx(value, rel=1e-12)  # no penalty in it
    found = [report.routed.sequence_balance.item(), report.routed.router_z.item()]
    np.testing.assert_allclose(found, penalties / len(loads), rtol=1e-12)
    np.testing.assert_array_equal(report.routed.loads, [*loads.values()])
    draw = np.random.default_rng(0)
    for name, gradient in gradients.items():
        place = tuple(draw.integers(size) for size in gradient.shape)
        ends = []
        for shift in (1e-6, -1e-6):
            moved = parameters[name].copy()
            moved[place] += shift
            value, penalties, _ = ascended(parameters | {name: moved}, config)
            ends.append(0.3 * penalties[0] + 0.2 * penalties[1] - value)
        assert gradient[place] == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5, abs=1e-8), name
    for name, bias in biases.items():
        before, counted = parameters[f"{name}.bias"], loads[name.removesuffix("router")]
        moved = [b + 0.01 * np.sign(np.mean(counted) - c) for b, c in zip(before, counted, strict=True)]
        np.testing.assert_allclose(bias, moved, rtol=1e-15)


@hypothesis_settings(max_examples=10)
@given(seed=st.integers(0, 10_000), kind=st.sampled_from(list(KINDS)), width=st.sampled_from([None, 30]))
def test_no_cutting_changes_the_gradient_the_loads_or_the_biases(seed, kind, width):
    cutting, config = any_cutting(seed), config_of(kind)
    plain, expected, biases = outcome(config, CUTTINGS["one batch"])
    other, found, moved = outcome(config, cutting, width=width)
    assert distance(found, expected) <= 1e-12
    assert other.routed.loads.equal(plain.routed.loads)
    assert other.routed.to_dict() == pytest.approx(plain.routed.to_dict(), rel=1e-12)
    assert all(bias.equal(biases[name]) for name, bias in moved.items())


def test_runs_of_some_steps_are_the_same_whatever_the_cutting():
    ends = []
    for cutting in ("one batch", "one by one", "packed in one row", "shuffled, packed, accumulated"):
        state = state_of(config_of("sigmoid"), VOCABULARY)
        for _ in range(4):
            step(state, batches_of(CUTTINGS[cutting]), World())
        ends.append(arrays_of(state.model))
    for other in ends[1:]:
        for name, value in ends[0].items():
            np.testing.assert_allclose(other[name], value, rtol=1e-9, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_zero_leave_the_likelihood_s_gradient(kind):
    """Penalties are added, and nothing else changes; a rate of 0 leaves biases where they are."""
    likelihood, gradients, biases = outcome(config_of(kind, BalanceConfig(bias_rate=0)), CUTTINGS["one batch"])
    both, penalised, _ = outcome(config_of(kind), CUTTINGS["one batch"])
    assert both.total.mean().item() == likelihood.total.mean().item()
    assert both.routed.loads.equal(likelihood.routed.loads)
    assert distance(penalised, gradients) > 1e-3
    before = routers_of(state_of(config_of(kind), VOCABULARY).model)
    assert all(bias.equal(before[name].bias) for name, bias in biases.items())
    assert likelihood.routed.sequence_balance is likelihood.routed.router_z is None


def test_a_step_whose_update_is_left_out_moves_no_bias():
    config = config_of("sigmoid")
    _, _, biases = outcome(config, CUTTINGS["one batch"], judge=Skipping([1]))
    before = routers_of(state_of(config, VOCABULARY).model)
    assert all(bias.equal(before[name].bias) for name, bias in biases.items())


def test_a_router_that_is_not_trained_keeps_its_bias():
    config = replace(config_of("sigmoid"), frozen=("*.router.weight",))
    _, _, biases = outcome(config, CUTTINGS["one batch"])
    before = routers_of(state_of(config, VOCABULARY).model)
    assert all(bias.equal(before[name].bias) for name, bias in biases.items())


def test_what_is_read_for_the_sake_of_others_counts_nowhere():
    config = config_of("sigmoid")
    batches = batches_of(CUTTINGS["one batch"])
    plain = step(state_of(config, VOCABULARY), batches, World())
    state = state_of(config, VOCABULARY)
    report = step(state, [*batches, batches_of([[[2]]])[0].idle()], World())
    assert report.routed.loads.equal(plain.routed.loads)
    assert report.routed.to_dict() == pytest.approx(plain.routed.to_dict(), rel=1e-12)


def test_biases_even_out_the_load():
    """From a router that sends all positions to the same experts, with no penalty and no gradient of the router."""
    config = config_of("sigmoid", BalanceConfig(bias_rate=0.1))
    state = state_of(config, VOCABULARY)
    routers = routers_of(state.model)
    for router in routers.values():
        router.bias.data = torch.tensor([3.0, 2.0, 0.0, 0.0], dtype=torch.float64)
    loads = []
    for _ in range(40):
        state.optimizer.zero_grad()
        loads.append(step(state, batches_of(CUTTINGS["packed"]), World()).routed)
    assert loads[0].to_dict()["dead_experts"] == 4
    assert loads[0].to_dict()["expert_load"] == pytest.approx(2)
    assert loads[-1].to_dict()["dead_experts"] == 0
    assert loads[-1].to_dict()["expert_load"] < 1.5
    assert loads[-1].to_dict()["expert_entropy"] > 0.95 > loads[0].to_dict()["expert_entropy"]


def test_an_even_load_has_penalty_one_and_moves_nothing():
    scores = torch.full((8, 4), 0.25, dtype=torch.float64)
    chosen = torch.arange(8)[:, None] % 4
    sequence = torch.tensor([5] * 8)
    assert sequence_balance(scores, sequence, chosen, sequence).item() == pytest.approx(8)
    assert moved_bias(torch.zeros(4), torch.tensor([2, 2, 2, 2]), 0.1).tolist() == [0, 0, 0, 0]
    assert moved_bias(torch.zeros(3), torch.tensor([0, 2, 1]), 0.5).tolist() == [0.5, -0.5, 0]


def test_routes_are_noted_inside_the_block_alone():
    state = state_of(config_of("sigmoid"), VOCABULARY)
    inputs = batches_of(CUTTINGS["one batch"])[0].inputs
    with noting_routes(routers_of(state.model)) as noted:
        state.model.hidden(inputs)
    assert [name for name, _ in noted] == ["blocks.0.mlp.router", "blocks.1.mlp.router"]
    state.model.hidden(inputs)
    assert len(noted) == 2


@pytest.mark.parametrize(
    ("pairs", "cure"),
    [
        (["experts.num_experts=3", "experts.num_chosen=4"], "model.experts.num_chosen=3"),
        (["experts.num_dense=2"], "model.experts.num_dense=1"),
        (["experts.num_dense=1", "shares_layers=true"], "model.experts.num_dense=0"),
        (["experts.num_experts=4", "mlp.has_bias=true"], "model.mlp.has_bias=false"),
        (["experts.num_experts=1"], ""),
        (["experts.scores=tanh"], ""),
    ],
)
def test_experts_that_cannot_be_are_refused_with_a_cure(pairs, cure):
    with pytest.raises(ConfigError, match=f"try: {cure}" if cure else "does not fit") as error:
        override(TINY, pairs)
    assert pairs[-1].split("=")[0].split(".")[-1] in str(error.value)
