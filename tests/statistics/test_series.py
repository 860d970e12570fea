"""Statistics of series, against loops, and as random and ordered series have them."""

import math
import random
import statistics

import numpy as np
import pytest
from hypothesis import given, strategies as st

from thetahat.statistics.series import autocorrelation, blocks, detrended, fitted_slope, is_falling, lag_one, period

VALUES = st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=40)


def correlation_by_loops(values, lag):
    mean = math.fsum(values) / len(values)
    power = math.fsum((x - mean) ** 2 for x in values)
    if power <= 1e-24 * math.fsum(x * x for x in values):
        return 0.0
    return math.fsum((values[t] - mean) * (values[t + lag] - mean) for t in range(len(values) - lag)) / power


@given(VALUES)
def test_autocorrelation_is_that_of_its_formula(values):
    found = autocorrelation(values)
    expected = [correlation_by_loops(values, lag) for lag in range(len(values))]
    np.testing.assert_allclose(found, expected, atol=1e-6)


@given(VALUES, st.floats(0.1, 10.0), st.floats(-50, 50))
def test_autocorrelation_knows_neither_place_nor_scale(values, scale, place):
    spread = max(values) - min(values)
    if spread > 1.0:
        moved = [scale * value + place for value in values]
        np.testing.assert_allclose(autocorrelation(moved), autocorrelation(values), atol=1e-6)


def test_neighbours_in_random_order_are_as_alike_as_chance_says():
    draw = np.random.default_rng(0)
    found = [lag_one(draw.normal(size=200)) for _ in range(1000)]
    p = np.array([one.p_value for one in found])
    assert abs(np.mean([one.value for one in found]) + 1 / 200) < 0.005
    assert 0.03 < (p < 0.05).mean() < 0.07
    assert (p < 1e-3).sum() <= 4


def test_neighbours_that_follow_from_one_another_are_found():
    draw = np.random.default_rng(0)
    values = [0.0]
    for _ in range(400):
        values.append(0.5 * values[-1] + draw.normal())
    assert lag_one(values).value == pytest.approx(0.5, abs=0.12)
    assert lag_one(values).p_value < 1e-6
    assert lag_one([1.0] * 50) == (0.0, 1.0)
    assert lag_one([1.0, 2.0]) == (0.0, 1.0)


@pytest.mark.parametrize("every", [2, 5, 17, 40])
def test_what_repeats_itself_has_a_period_and_noise_has_none(every):
    draw = np.random.default_rng(every)
    pattern = draw.normal(size=every)
    repeated = np.tile(pattern, 400 // every) + 0.3 * draw.normal(size=400 // every * every)
    assert period(repeated) % every == 0
    assert period(draw.normal(size=400)) is None
    assert period([1.0, 2.0]) is None
    assert period([1.0] * 100) is None


def median_by_loops(values, width):
    half, last = width // 2, len(values) - 1
    return [
        statistics.median(values[min(max(place + offset, 0), last)] for offset in range(-half, width - half))
        for place in range(len(values))
    ]


@given(st.lists(st.floats(-100, 100), min_size=5, max_size=30))
def test_a_trend_is_the_median_around_each_value(values):
    expected = [value - middle for value, middle in zip(values, median_by_loops(values, 5), strict=True)]
    np.testing.assert_allclose(detrended(values, 5), expected, atol=1e-12)


def test_a_slope_is_that_of_least_squares_and_its_error_covers_it():
    x = np.arange(20.0)
    assert fitted_slope(x, 3 - 0.5 * x) == (pytest.approx(-0.5), pytest.approx(0.0, abs=1e-9))
    draw, inside = np.random.default_rng(0), 0
    for _ in range(300):
        long = np.linspace(0, 1, 400)
        found = fitted_slope(long, 2 * long + draw.normal(size=400))
        inside += abs(found.value - 2) < 1.96 * found.error
    assert 0.9 < inside / 300 < 0.98
    assert math.isinf(fitted_slope([1.0, 2.0], [1.0, 2.0]).error)


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=70))
def test_blocks_hold_every_value_once(values):
    found = blocks(values)
    assert len(found) == min(20, len(values))
    sizes = [len(part) for part in np.array_split(values, len(found))]
    assert math.fsum(size * mean for size, mean in zip(sizes, found, strict=True)) == pytest.approx(
        math.fsum(values), abs=1e-6
    )


def test_a_series_falls_or_does_not():
    draw = random.Random(0)
    noise = [draw.gauss(0, 1) for _ in range(200)]
    assert is_falling([value - 0.03 * place for place, value in enumerate(noise)])
    assert not is_falling([value + 0.03 * place for place, value in enumerate(noise)])
    assert not is_falling(noise)
    assert not is_falling([3.0, 2.0, 1.0])
