"""The penalty on log Z: apart from the likelihood, and the same however a step is cut."""

import numpy as np
import pytest
from hypothesis import given, settings as hypothesis_settings, strategies as st
from msgspec.structs import replace

from tests.examples import run_config, state_of
from tests.model.test_decoder import arrays_of
from tests.oracles.composed import Composed
from tests.run.test_step import CUTTINGS, SEQUENCES, SHAPE, VOCABULARY, WEIGHTS, any_cutting, batches_of, distance
from thetahat.core.config import to_plain
from thetahat.distribution.world import World
from thetahat.run.step import step

Z_LOSS = 0.3


def config_of(z_loss=Z_LOSS, **objective):
    config = run_config(SHAPE)
    return replace(config, objective=replace(config.objective, z_loss=z_loss, **objective))


def outcome(config, cutting, width=None):
    state = state_of(config, VOCABULARY)
    report = step(state, batches_of(cutting, config.objective.normalization, width), World())
    return report, {name: p.grad.double().numpy() for name, p in state.model.named_parameters()}


def oracle(config, parameters):
    """The weighted means of log-likelihood and of (log Z)² over targets, with loops."""
    value, squares, weight = 0.0, 0.0, 0.0
    for sequence, weights in zip(SEQUENCES, WEIGHTS, strict=True):
        logits = Composed(to_plain(config.model), parameters).logits(sequence[:-1])
        for row, target, counts in zip(logits, sequence[1:], weights, strict=True):
            log_normalizer = np.log(sum(np.exp(z) for z in row))
            value += counts * (row[target] - log_normalizer)
            squares += counts * log_normalizer**2
            weight += counts
    return value / weight, squares / weight


def test_value_penalty_and_gradient_are_those_of_the_oracle():
    config = config_of()
    report, gradients = outcome(config, CUTTINGS["packed and accumulated"])
    parameters = arrays_of(state_of(config, VOCABULARY).model)
    value, squares = oracle(config, parameters)
    assert report.total.mean().item() == pytest.approx(value, rel=1e-12)  # no penalty in it
    assert report.z_loss.item() == pytest.approx(squares, rel=1e-12)
    draw = np.random.default_rng(0)
    for name, gradient in gradients.items():
        place = tuple(draw.integers(size) for size in gradient.shape)
        ends = []
        for shift in (1e-6, -1e-6):
            moved = parameters[name].copy()
            moved[place] += shift
            value, squares = oracle(config, parameters | {name: moved})
            ends.append(Z_LOSS * squares - value)
        assert gradient[place] == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5, abs=1e-8), name


@hypothesis_settings(max_examples=10)
@given(
    seed=st.integers(0, 10_000),
    width=st.sampled_from([None, 30]),
    objective=st.sampled_from([{}, {"chunk_size": 3}, {"normalization": "sequence"}, {"normalization": "sum"}]),
)
def test_no_cutting_changes_the_gradient_or_the_mean(seed, width, objective):
    plain, expected = outcome(config_of(**objective), CUTTINGS["one batch"])
    other, found = outcome(config_of(**objective), any_cutting(seed), width)
    assert distance(found, expected) <= 1e-12
    assert other.z_loss.item() == pytest.approx(plain.z_loss.item(), rel=1e-12)


def test_a_weight_of_zero_leaves_the_likelihood_s_gradient():
    likelihood, gradients = outcome(config_of(0.0), CUTTINGS["one batch"])
    both, penalised = outcome(config_of(), CUTTINGS["one batch"])
    assert both.total.mean().item() == likelihood.total.mean().item()
    assert likelihood.z_loss is None
    assert distance(penalised, gradients) > 1e-3
