"""Confidence intervals for ratios of sums, clustered by document."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thetahat.core.errors import ConfigError

MIN_DOCUMENTS = 30  # with fewer, an interval is over blocks of documents
BLOCK_TOKENS = 1024


class Interval(NamedTuple):
    """An estimate and the ends of its interval, which are NaN if there are too few units."""

    estimate: float
    low: float
    high: float


def ratio_interval(numerator: ArrayLike, denominator: ArrayLike, confidence: float = 0.95) -> Interval:
    r"""The ratio of two sums over independent units, with a t-interval.

    $m = \sum_i d_i / \sum_i t_i$ with $d$ = `numerator`, $t$ = `denominator`, one entry a unit (a document), and
    $\mathrm{SE}^2 = \frac{n}{n-1} \sum_i (d_i - m t_i)^2 / (\sum_i t_i)^2$, with the t-quantile of n - 1 degrees of
    freedom. Sums are exact, so the order of the units changes no bit. With fewer than two units there is no interval.

    Cochran, Sampling Techniques, 1977, ch. 6; Miller, Adding Error Bars to Evals, 2024, arXiv 2411.00640.
    """
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence={confidence} does not fit", allowed="between 0 and 1, for example 0.95")
    estimate, error = ratio_error(numerator, denominator)
    if math.isnan(error):
        return Interval(estimate, math.nan, math.nan)
    half_width = t_quantile((1 + confidence) / 2, np.size(numerator) - 1) * error
    return Interval(estimate, estimate - half_width, estimate + half_width)


def ratio_error(numerator: ArrayLike, denominator: ArrayLike) -> tuple[float, float]:
    """The ratio and the standard error of `ratio_interval`; NaN if there are too few units."""
    d, t = np.asarray(numerator, dtype=np.float64), np.asarray(denominator, dtype=np.float64)
    if d.ndim != 1 or d.shape != t.shape:
        raise ConfigError(f"numerator {list(d.shape)} and denominator {list(t.shape)} need one entry for each unit")
    total = exact_sum(t)
    if total == 0:
        return math.nan, math.nan
    estimate = exact_sum(d) / total
    if len(d) < 2:
        return estimate, math.nan
    with np.errstate(invalid="ignore", over="ignore"):  # values that are not finite give NaN or infinite ends
        squares = (d - estimate * t) ** 2
    return estimate, math.sqrt(len(d) / (len(d) - 1) * exact_sum(squares) / total**2)


def bits_per_byte_interval(log_prob: ArrayLike, num_bytes: ArrayLike, confidence: float = 0.95) -> Interval:
    r"""$-\sum_i \log \Pr_i / (\ln 2 \sum_i \text{bytes}_i)$ from nats and bytes of each unit."""
    bits = -np.asarray(log_prob, dtype=np.float64) / math.log(2)
    return ratio_interval(bits, num_bytes, confidence)


def sum_by(clusters: Sequence[str], values: ArrayLike) -> NDArray[np.float64]:
    """The exact sum of the values of each cluster, in the order of their first values."""
    members: dict[str, list[float]] = {}
    for cluster, value in zip(clusters, np.asarray(values, dtype=np.float64).tolist(), strict=True):
        members.setdefault(cluster, []).append(value)
    return np.array([exact_sum(cluster) for cluster in members.values()], dtype=np.float64)


def exact_sum(values: Iterable[float]) -> float:
    """The sum without rounding errors, in any order; NaN and infinities stay."""
    listed = values.tolist() if isinstance(values, np.ndarray) else list(values)
    try:
        return math.fsum(listed)
    except (OverflowError, ValueError):  # beyond float64, or +inf and -inf
        with np.errstate(over="ignore", invalid="ignore"):
            return float(np.sum(np.array(listed, dtype=np.float64)))


def t_quantile(probability: float, degrees: int) -> float:
    r"""The x with $\Pr(T \le x)$ = `probability` for Student's T with so many degrees of freedom (scipy's)."""
    from scipy.special import stdtrit  # its import takes 0.15 s, which not every command should pay

    return float(stdtrit(degrees, probability))
