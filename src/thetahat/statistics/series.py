"""Statistics of series: how a value follows from the one before it, whether it repeats, how steeply it falls."""

import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64
from numpy.typing import ArrayLike
from scipy import ndimage, stats

MOST_BLOCKS = 20
PEAK = 0.3  # of an autocorrelation, from which on a series repeats itself


class Correlation(NamedTuple):
    """How alike neighbours are, and how likely as much is where the order is random."""

    value: float
    p_value: float  # one-sided: neighbours that are more alike than by chance


class Slope(NamedTuple):
    """A line through points."""

    value: float
    error: float  # standard error


def autocorrelation(values: ArrayLike) -> Float64[np.ndarray, " n"]:
    r"""$r_k = \sum_t (x_t - \bar x)(x_{t+k} - \bar x) / \sum_t (x_t - \bar x)^2$ of every lag k; 0 of a constant."""
    x = np.asarray(values, np.float64)
    centred = x - x.mean()
    power = float(centred @ centred)
    if power <= 1e-24 * float(x @ x):
        return np.zeros(len(x))
    spectrum = np.fft.rfft(centred, 2 * len(x))
    return np.fft.irfft(np.abs(spectrum) ** 2)[: len(x)] / power


def lag_one(values: ArrayLike) -> Correlation:
    r"""The autocorrelation $r_1$ of neighbours, and its p-value in random order.

    There $r_1$ has the mean $-1/n$ and about the variance $1/n$ (Bartlett, 1946), and is nearly normal.
    """
    x = np.asarray(values, np.float64)
    if len(x) < 3:
        return Correlation(0.0, 1.0)
    found = float(autocorrelation(x)[1])
    z = (found + 1 / len(x)) * math.sqrt(len(x))
    return Correlation(found, float(stats.norm.sf(z)) if found else 1.0)


def period(values: ArrayLike) -> int | None:
    """The lag at which a series is most like itself again, if it is by more than PEAK and more than by chance.

    It is a peak of the autocorrelation at a lag of at least 2, seen three times; chance is one in a thousand over all
    lags.
    """
    x = np.asarray(values, np.float64)
    lags = np.arange(2, len(x) // 3)
    if not len(lags):
        return None
    found = autocorrelation(x)
    bound = max(PEAK, float(stats.norm.isf(1e-3 / len(lags))) / math.sqrt(len(x)))
    is_peak = (found[lags] > found[lags - 1]) & (found[lags] >= found[lags + 1]) & (found[lags] > bound)
    peaks = lags[is_peak]
    return int(peaks[np.argmax(found[peaks])]) if len(peaks) else None


def detrended(values: ArrayLike, width: int = 101) -> Float64[np.ndarray, " n"]:
    """What is left of a series when the median of the `width` values around each is taken away."""
    x = np.asarray(values, np.float64)
    return x - ndimage.median_filter(x, size=min(width, len(x)), mode="nearest")


def fitted_slope(x: ArrayLike, y: ArrayLike) -> Slope:
    """The slope of y over x by least squares, with its standard error, of the means of at most 20 blocks in a row.

    Neighbours of a training's curve are alike; means of blocks hardly are, and the error holds for them.
    """
    at, means = blocks(x), blocks(y)
    if len(at) < 3:
        return Slope(math.nan, math.inf)
    fit: Any = stats.linregress(at, means)
    return Slope(float(fit.slope), float(fit.stderr))


def blocks(values: ArrayLike, number: int = MOST_BLOCKS) -> Float64[np.ndarray, " b"]:
    """The means of equal blocks in a row; of fewer values than blocks the values."""
    x = np.asarray(values, np.float64)
    return np.array([part.mean() for part in np.array_split(x, min(number, len(x)))]) if len(x) else x


def is_falling(values: ArrayLike) -> bool:
    """Whether a series goes down from its beginning to its end, by Kendall's test on the medians of its blocks."""
    x = np.asarray(values, np.float64)
    if len(x) < MOST_BLOCKS:
        return False
    medians = [float(np.median(part)) for part in np.array_split(x, MOST_BLOCKS)]
    found: Any = stats.kendalltau(range(len(medians)), medians)
    return bool(found.statistic < 0 and found.pvalue < 1e-3)
