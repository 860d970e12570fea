r"""Scaling laws: the held-out loss as a sum of powers of model size and data, fitted to runs, with intervals.

$$L = E + \sum_k C_k\, x_k^{-\gamma_k}$$

With two terms, x = (N, D), it is $E + A/N^\alpha + B/D^\beta$ (Hoffmann et al., Training compute-optimal large language
models, 2022, arXiv 2203.15556); with one it is a law of parameters, of tokens, or of compute alone. Everything is in
float64.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from jaxtyping import Float64
from numpy.typing import NDArray
from scipy.optimize import least_squares, nnls

from thetahat.core.errors import ConfigError

Values = NDArray[np.float64]
LEAST_DELTA = 1e-3  # of Huber's loss, in nats of log L: that of Hoffmann et al.
OUTLYING = 2.5  # standard deviations, beyond which a run counts less
STEEPEST = 3.0  # exponents are from 0 to this
LOWEST = -12.0  # log E of a law without a floor
_GRID = (0.03, 0.06, 0.1, 0.15, 0.2, 0.3, 0.4, 0.55, 0.75, 1.0, 1.4, 2.0)


@dataclass(frozen=True, slots=True)
class Law:
    """A fitted law; sizes are as many as exponents."""

    floor: float  # E, nats per token
    coefficients: tuple[float, ...]
    exponents: tuple[float, ...]

    def loss(self, *sizes: float | int | Values) -> Any:
        """Nats per token at these sizes."""
        terms = zip(self.coefficients, self.exponents, sizes, strict=True)
        return self.floor + sum(coefficient * np.asarray(size) ** -power for coefficient, power, size in terms)


@dataclass(frozen=True, slots=True)
class Fit:
    """A law, the noise of a run around it, and laws that the same runs might have given."""

    law: Law
    noise: float  # standard deviation of a run's log L
    freedom: int  # runs less parameters
    residuals: tuple[float, ...]  # of log L, a run each
    draws: tuple[Law, ...]
    draw_noise: tuple[float, ...]  # of each of the draws

    def interval(self, quantity: Callable[[Law], float], confidence: float = 0.95) -> tuple[float, float]:
        """Between which a quantity of the law is."""
        return _quantiles([quantity(law) for law in self.draws], confidence)

    def interval_of_run(self, sizes: Sequence[float], seed: int = 0, confidence: float = 0.95) -> tuple[float, float]:
        """Between which the loss of one more run at these sizes will be: with its own noise."""
        noise = np.random.default_rng(seed).standard_normal(len(self.draws)) * self.draw_noise
        means = [float(law.loss(*sizes)) for law in self.draws]
        return _quantiles(means * np.exp(noise), confidence)


def _quantiles(values: Sequence[float] | Values, confidence: float) -> tuple[float, float]:
    low, high = np.quantile(np.asarray(values, dtype=np.float64), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def fit_law(
    sizes: Float64[NDArray[Any], "n k"], losses: Float64[NDArray[Any], " n"], *, num_draws: int = 500, seed: int = 0
) -> Fit:
    r"""The law that minimises $\sum_i h_\delta(\log L(x_i) - \log L_i)$, with the distribution of its estimates.

    $h_\delta$ is Huber's loss. A first fit with δ = 0.001, that of Hoffmann et al., tells the standard deviation of the
    noise; δ is then 2.5 of these, and not less than 0.001, so that ordinary noise is averaged and only what stands out
    counts less. Starts are a grid of exponents, at each of which E and the coefficients are a least-squares problem
    without negative values.

    Draws are a parametric bootstrap: Gaussian noise is added to the losses, and the law is fitted again from where it
    is. The standard deviation of the noise is itself drawn, $s \sqrt{\nu / \chi^2_\nu}$ with ν runs more than
    parameters, so that intervals are as wide as those of Student where a law is linear. Raises ConfigError with fewer
    runs than parameters and one.
    """
    x, y = np.log(sizes), np.log(losses)
    num_parameters = 1 + 2 * x.shape[1]
    freedom = len(y) - num_parameters
    if freedom < 1:
        raise ConfigError(
            f"{len(y)} runs for a law with {num_parameters} parameters", allowed=f"{num_parameters + 1} runs or more"
        )
    centre = x.mean(0)
    problem = _Problem(x - centre, min(y))
    first = problem.best(y, LEAST_DELTA)
    rough = np.sort(np.abs(problem.residuals(first, y)))[num_parameters:]  # as many as parameters may be met exactly
    delta = max(LEAST_DELTA, OUTLYING * 1.4826 * float(np.median(rough)))
    found = problem.refined([first, *problem.starts(y)], y, delta)
    residuals = problem.residuals(found, y)
    noise = _noise(residuals, delta, freedom)
    draw = np.random.default_rng(seed)
    spread = noise * np.sqrt(freedom / draw.chisquare(freedom, num_draws))
    laws = [problem.refined([found], y + s * draw.standard_normal(len(y)), delta) for s in spread]
    return Fit(
        _law(found, centre),
        noise,
        freedom,
        tuple(map(float, -residuals)),
        tuple(_law(one, centre) for one in laws),
        tuple(map(float, spread)),
    )


def _noise(residuals: Values, delta: float, freedom: int) -> float:
    r"""$\sqrt{\sum_i \psi(r_i)^2 / \nu} / \overline{\psi'}$: the standard deviation that Huber's estimate goes by."""
    inside = np.abs(residuals) <= delta
    clipped = np.clip(residuals, -delta, delta)
    return float(np.sqrt(np.sum(clipped**2) / freedom) / max(float(inside.mean()), 0.5))


def _law(theta: Values, centre: Values) -> Law:
    k = len(centre)
    powers = theta[1 + k :]
    coefficients = np.exp(theta[1 : 1 + k] + powers * centre)
    return Law(float(np.exp(theta[0])), tuple(map(float, coefficients)), tuple(map(float, powers)))


class _Problem:
    """The fit of θ = (log E, log C, γ) to log L, at sizes whose logarithms have the mean 0."""

    def __init__(self, x: Values, lowest: float) -> None:
        self.x = x
        k = x.shape[1]
        self.low = np.array([LOWEST] + [LOWEST] * k + [1e-3] * k)
        self.high = np.array([lowest + 1.0] + [lowest + 8.0] * k + [STEEPEST] * k)

    def terms(self, theta: Values) -> Values:
        """Logarithms of E and of each term, [n, 1 + k]."""
        k = self.x.shape[1]
        powers = theta[1 : 1 + k] - theta[1 + k :] * self.x
        return np.concatenate([np.full((len(self.x), 1), theta[0]), powers], 1)

    def residuals(self, theta: Values, y: Values) -> Values:
        return np.logaddexp.reduce(self.terms(theta), axis=1) - y

    def jacobian(self, theta: Values, y: Values) -> Values:
        terms = self.terms(theta)
        shares = np.exp(terms - np.logaddexp.reduce(terms, axis=1)[:, None])
        return np.concatenate([shares, -shares[:, 1:] * self.x], 1)

    def starts(self, y: Values, number: int = 3) -> list[Values]:
        """The best points of a grid of exponents."""
        found: list[tuple[float, Values]] = []
        weight = np.exp(-y)[:, None]  # relative errors
        for powers in itertools.product(_GRID, repeat=self.x.shape[1]):
            columns = np.concatenate([np.ones((len(y), 1)), np.exp(-np.array(powers) * self.x)], 1)
            values, error = cast(tuple[Values, float], nnls(columns * weight, np.ones(len(y))))
            theta = np.concatenate([np.log(np.maximum(values, np.exp(LOWEST))), powers])
            found.append((error, theta))
        found.sort(key=lambda one: one[0])
        return [theta for _, theta in found[:number]]

    def best(self, y: Values, delta: float) -> Values:
        return self.refined(self.starts(y), y, delta)

    def refined(self, starts: Sequence[Values], y: Values, delta: float) -> Values:
        """The best of what is reached from these starts."""
        inside = [np.clip(start, self.low + 1e-9, self.high - 1e-9) for start in starts]
        options: dict[str, Any] = {"jac": self.jacobian, "bounds": (self.low, self.high), "x_scale": "jac"}
        reached = [
            least_squares(self.residuals, one, loss="huber", f_scale=delta, args=(y,), **options) for one in inside
        ]
        costs = [float(one.cost) for one in reached]
        return cast(Values, reached[costs.index(min(costs))].x)
