import math

import numpy as np
import pytest
from hypothesis import given, strategies as st

from tests.oracles import interval as oracle
from thetahat.core.errors import ConfigError
from thetahat.statistics.interval import (
    bits_per_byte_interval,
    exact_sum,
    ratio_interval,
    sum_by,
    t_quantile,
)

# Two-sided 90, 95 and 99%: NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.2
TABLE = {
    1: (6.314, 12.706, 63.657),
    2: (2.920, 4.303, 9.925),
    3: (2.353, 3.182, 5.841),
    4: (2.132, 2.776, 4.604),
    9: (1.833, 2.262, 3.250),
    10: (1.812, 2.228, 3.169),
    29: (1.699, 2.045, 2.756),
    30: (1.697, 2.042, 2.750),
    99: (1.660, 1.984, 2.626),
}
seeds = st.integers(0, 2**32 - 1)


def documents(seed, num_documents=100):
    """Nats and tokens of documents whose true ratio is known: long ones are harder, and each has its own level.

    ln t ~ N(5, 1), d = t (3 + 0.1 ln t + effect) + noise, so E[d] / E[t] = 3 + 0.1 (5 + 1).
    """
    draw = np.random.default_rng(seed)
    tokens = np.exp(draw.normal(5, 1, num_documents))
    level = 3 + 0.1 * np.log(tokens) + 0.3 * draw.standard_t(4, num_documents)
    return tokens * level + np.sqrt(tokens) * draw.normal(0, 2, num_documents), tokens, 3.6


@pytest.mark.parametrize("degrees", TABLE)
def test_quantiles_are_those_of_the_printed_table(degrees):
    found = [t_quantile(probability, degrees) for probability in (0.95, 0.975, 0.995)]
    assert found == pytest.approx(TABLE[degrees], abs=5.1e-4)


@given(st.integers(1, 3000), st.floats(0.5, 0.9999))
def test_a_quantile_inverts_the_distribution(degrees, probability):
    assert oracle.t_distribution(t_quantile(probability, degrees), degrees) == pytest.approx(probability, abs=1e-10)


def test_quantiles_are_symmetric():
    assert t_quantile(0.025, 7) == pytest.approx(-t_quantile(0.975, 7))
    assert t_quantile(0.5, 7) == 0


@given(seeds, st.integers(2, 50), st.sampled_from([0.8, 0.95, 0.99]))
def test_an_interval_is_that_of_the_formula(seed, num_documents, confidence):
    nats, tokens, _ = documents(seed, num_documents)
    expected = oracle.ratio(nats, tokens, t_quantile((1 + confidence) / 2, num_documents - 1))
    assert ratio_interval(nats, tokens, confidence) == pytest.approx(expected, rel=1e-9)


@given(seeds, st.randoms(use_true_random=False))
def test_the_order_of_the_documents_changes_no_bit(seed, random):
    nats, tokens, _ = documents(seed, 40)
    order = list(range(40))
    random.shuffle(order)
    assert ratio_interval(nats[order], tokens[order]) == ratio_interval(nats, tokens)
    assert exact_sum(nats[order]) == exact_sum(nats)


def test_a_95_percent_interval_covers_the_truth_about_95_times_in_100():
    covered = 0
    for seed in range(300):
        nats, tokens, truth = documents(seed)
        _, low, high = ratio_interval(nats, tokens)
        covered += low <= truth <= high
    assert 0.90 <= covered / 300 <= 0.98


def test_a_ratio_of_sums_is_not_a_mean_of_ratios():
    assert ratio_interval([1.0, 90.0], [1.0, 10.0]).estimate == pytest.approx(91 / 11)


@given(seeds, st.floats(0.001, 1000))
def test_an_interval_scales_with_its_numerator(seed, factor):
    nats, tokens, _ = documents(seed, 20)
    expected = [factor * end for end in ratio_interval(nats, tokens)]
    assert ratio_interval(factor * nats, tokens) == pytest.approx(expected)


def test_documents_that_agree_leave_no_doubt():
    estimate, low, high = ratio_interval([2.0, 4.0, 8.0], [1.0, 2.0, 4.0])
    assert estimate == low == high == 2.0


@pytest.mark.parametrize("numerator", [[], [3.0]])
def test_with_fewer_than_two_documents_there_is_no_interval(numerator):
    estimate, low, high = ratio_interval(numerator, [2.0] * len(numerator))
    assert estimate == 1.5 or not numerator
    assert math.isnan(low)
    assert math.isnan(high)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_not_hidden(value):
    found = ratio_interval([1.0, value, 3.0], [1.0, 1.0, 1.0])
    assert not math.isfinite(found.estimate)
    assert not math.isfinite(found.low)


def test_nothing_in_the_denominator_is_no_ratio():
    assert all(math.isnan(value) for value in ratio_interval([1.0, 2.0], [0.0, 0.0]))


def test_bits_per_byte_come_from_nats():
    nats = [-8 * math.log(2), -4 * math.log(2)]
    assert bits_per_byte_interval(nats, [4, 2]).estimate == pytest.approx(2.0)


def test_clusters_are_summed_exactly_in_the_order_in_which_they_come():
    assert sum_by(["b", "a", "b", "b"], [1e16, 5.0, 1.0, -1e16]).tolist() == [1.0, 5.0]


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0])
def test_a_confidence_is_a_probability(confidence):
    with pytest.raises(ConfigError, match="confidence="):
        ratio_interval([1.0, 2.0], [1.0, 1.0], confidence)


def test_units_must_match():
    with pytest.raises(ConfigError, match="one entry for each unit"):
        ratio_interval([1.0, 2.0], [1.0])
