import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy.optimize import minimize

from thetahat.core.errors import ConfigError
from thetahat.statistics.scaling import LEAST_DELTA, Law, fit_law

SIZES = np.array([(n, d) for n in (1e5, 4e5, 1.6e6, 6e6) for d in (1e6, 4e6, 1.6e7)])


def losses(law, sizes, noise=0.0, seed=0):
    draw = np.random.default_rng(seed)
    return law.loss(*sizes.T) * np.exp(noise * draw.standard_normal(len(sizes)))


@settings(max_examples=10)
@given(st.floats(0.5, 3), st.floats(0.15, 0.9), st.floats(0.15, 0.9))
def test_runs_that_lie_on_a_law_give_that_law(floor, alpha, beta):
    law = Law(floor, (1e5**alpha, 2e6**beta), (alpha, beta))
    fit = fit_law(SIZES, losses(law, SIZES), num_draws=2)
    assert fit.law.exponents == pytest.approx(law.exponents, rel=1e-4)
    assert fit.law.coefficients == pytest.approx(law.coefficients, rel=2e-3)
    assert fit.law.floor == pytest.approx(floor, rel=1e-3)
    assert fit.noise < 1e-4


def huber(theta, sizes, observed, delta):
    """The objective, a run and a term at a time."""
    e, *rest = theta
    count, total = len(rest) // 2, 0.0
    for size, loss in zip(sizes, observed, strict=True):
        said = math.exp(e)
        for term in range(count):
            said += math.exp(rest[term]) * size[term] ** -rest[count + term]
        error = abs(math.log(said) - math.log(loss))
        total += error**2 / 2 if error <= delta else delta * (error - delta / 2)
    return total


def test_no_other_law_has_a_lower_objective():
    law = Law(1.5, (90.0, 150.0), (0.35, 0.3))
    observed = losses(law, SIZES, LEAST_DELTA / 10)  # of which none stands out, and delta is the least
    fit = fit_law(SIZES, observed, num_draws=2)

    def theta(one):
        return [math.log(one.floor), *map(math.log, one.coefficients), *one.exponents]

    ours = huber(theta(fit.law), SIZES, observed, LEAST_DELTA)
    for start in (theta(law), theta(fit.law), theta(Law(1.0, (20.0, 20.0), (0.2, 0.2)))):
        options = {"maxiter": 4000, "xatol": 1e-9, "fatol": 1e-16}
        found = minimize(huber, start, (SIZES, observed, LEAST_DELTA), method="Nelder-Mead", options=options)
        assert ours <= found.fun * (1 + 1e-6)


def test_one_run_that_stands_out_moves_little():
    law = Law(1.5, (90.0, 150.0), (0.35, 0.3))
    observed = losses(law, SIZES, 0.001, seed=3)
    observed[5] *= 1.2
    fit = fit_law(SIZES, observed, num_draws=2)
    assert fit.law.exponents == pytest.approx(law.exponents, abs=0.06)
    assert fit.residuals[5] == pytest.approx(math.log(1.2), abs=0.02)


def test_intervals_cover_the_truth_and_follow_the_noise():
    law, sizes = Law(2.0, (40.0,), (0.3,)), np.geomspace(1e4, 1e7, 7)[:, None]
    inside, widths = [], {0.002: [], 0.008: []}
    for seed in range(24):
        for noise, found in widths.items():
            fit = fit_law(sizes, losses(law, sizes, noise, seed), num_draws=60, seed=seed)
            low, high = fit.interval(lambda one: one.exponents[0])
            inside.append(low <= 0.3 <= high)
            found.append(high - low)
    assert np.mean(inside) > 0.85
    assert 2 < np.median(widths[0.008]) / np.median(widths[0.002]) < 8


def test_one_more_run_has_its_own_noise_beside_that_of_the_law():
    law, sizes = Law(2.0, (40.0,), (0.3,)), np.geomspace(1e4, 1e7, 30)[:, None]
    fit = fit_law(sizes, losses(law, sizes, 0.01), num_draws=200)
    inner, outer = fit.interval(lambda one: float(one.loss(3e5))), fit.interval_of_run([3e5])
    mean = float(fit.law.loss(3e5))
    assert outer[0] < inner[0] < mean < inner[1] < outer[1]
    assert (outer[1] - outer[0]) / mean == pytest.approx(2 * 1.96 * 0.01, rel=0.35)


def test_the_same_seed_gives_the_same_draws():
    law = Law(2.0, (40.0, 40.0), (0.3, 0.3))
    observed = losses(law, SIZES, 0.01)
    one, other = (fit_law(SIZES, observed, num_draws=5, seed=4) for _ in range(2))
    assert one == other
    assert fit_law(SIZES, observed, num_draws=5, seed=5).draws != one.draws


def test_too_few_runs_are_refused():
    with pytest.raises(ConfigError, match="5 runs for a law with 5 parameters\n  allowed: 6 runs or more"):
        fit_law(SIZES[:5], np.ones(5))
