"""What an update did, against loops over the elements."""

import numpy as np
import pytest
import torch

from tests.diagnosis.faults import packed, with_rate
from tests.examples import state_of
from thetahat.diagnosis.signals.updates import SAMPLE, measured, samples, updates_of
from thetahat.distribution.world import World
from thetahat.objective.factorization import causal
from thetahat.optimization.groups import ParameterGroup
from thetahat.optimization.optimizer import Optimizer, Rule
from thetahat.run.step import step


def named(optimizer, rows):
    names = [name for rule in optimizer.rules for name in rule.group.parameters]
    return dict(zip(names, updates_of(rows.tolist()), strict=True))


def test_what_an_update_did_is_what_loops_say():
    state = state_of(with_rate(1e-2, epsilon=1e-3), 61)
    batch = causal(packed())
    for _ in range(3):
        step(state, [batch], World())
    before, after = {}, {}
    for name, parameter in state.model.named_parameters():
        before[name] = parameter.detach().double().numpy().copy()
    kept = samples(state.optimizer)
    step(state, [batch], World())
    found = named(state.optimizer, measured(state.optimizer, kept))
    slots = state.optimizer.state()
    for name, parameter in state.model.named_parameters():
        after, gradient = parameter.detach().double().numpy(), parameter.grad.double().numpy()
        one = found[name]
        assert one.size == pytest.approx(np.sqrt((before[name] ** 2).mean()), rel=1e-9)
        assert one.change == pytest.approx(np.sqrt(((after - before[name]) ** 2).mean()), rel=1e-6)
        has = gradient != 0
        assert one.moved == pytest.approx((after != before[name])[has].mean() if has.any() else 1.0)
        second = slots[f"{name}/exp_avg_sq"].double().numpy() / (1 - 0.95**4)
        known = second > 0
        squares = [g * g / max(v, 1e-6) for g, v in zip(gradient[known], second[known], strict=True)]
        assert one.surprise == pytest.approx(np.sqrt(np.mean(squares)), rel=1e-6)
        assert one.below_epsilon == pytest.approx((np.sqrt(second[known]) < 1e-3).mean())
    assert 0 < max(one.below_epsilon for one in found.values()) <= 1


def test_a_sample_of_a_large_tensor_is_right_to_a_few_percent():
    draw = torch.Generator().manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(512, 768, generator=draw) * torch.linspace(0.5, 2, 768))
    optimizer = Optimizer([Rule(ParameterGroup("matrices", {"w": weight}), torch.optim.SGD([weight], lr=0.1), 0.1)])
    kept = samples(optimizer)
    assert SAMPLE <= len(kept[0]) < 1.1 * SAMPLE
    whole = weight.detach().clone()
    weight.grad = torch.randn(512, 768, generator=draw)
    optimizer.step(1.0)
    (found,) = updates_of(measured(optimizer, kept).tolist())
    assert found.size == pytest.approx(float(whole.square().mean().sqrt()), rel=0.05)
    assert found.change == pytest.approx(0.1, rel=0.05)
    assert (found.moved, found.has_gradient, found.surprise) == (1.0, True, 0.0)


def test_what_does_not_move_is_seen():
    state = state_of(with_rate(1e-30), 61)
    kept = samples(state.optimizer)
    step(state, [causal(packed())], World())
    found = named(state.optimizer, measured(state.optimizer, kept))
    assert {one.moved for one in found.values() if one.has_gradient} == {0.0}
