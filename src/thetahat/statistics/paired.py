"""Statistics of paired differences, one for each document: intervals and tests."""

import math
from collections import Counter
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thetahat.statistics.interval import Interval, exact_sum

NUM_REPLICATES = 2_000
NUM_FLIPS = 10_000
NUM_EXACT = 12  # up to so many documents all 2^n flips are made


def bootstrap_interval(numerator: ArrayLike, denominator: ArrayLike, confidence: float = 0.95) -> Interval:
    r"""The ratio of two sums over documents, with the percentile interval of 2,000 resamplings of the documents.

    $m^* = \sum_j d_{i_j} / \sum_j t_{i_j}$ with $i_1, \dots, i_n$ drawn from the n documents with replacement, $d$ =
    `numerator` and $t$ = `denominator` of the same draw. Draws are seeded, and made from the documents in the order of
    their values, with all signs reversed if that order comes later. So the bits depend neither on repetitions nor on
    the order of the documents, and B against A mirrors A against B. With fewer than two documents there is no interval.

    Percentile and not BCa: where differences have heavy tails, the acceleration is noise. Over simulated datasets of
    100 documents a nominal 95% covered 94% by percentile and 91% by BCa.

    Efron and Tibshirani, An Introduction to the Bootstrap, 1993, ch. 13.
    """
    d, t = _in_order(numerator, denominator)
    mirrored, _ = _in_order(-d, t)
    sign = -1 if mirrored.tolist() > d.tolist() else 1
    n, total = len(d), exact_sum(t)
    estimate = exact_sum(d) / total if total else math.nan
    if n < 2 or not total:
        return Interval(estimate, math.nan, math.nan)
    chosen = np.random.default_rng(0).integers(n, size=(NUM_REPLICATES, n))
    numerators, denominators = (d if sign > 0 else mirrored)[chosen].sum(1), t[chosen].sum(1)
    ratios = numerators[denominators > 0] / denominators[denominators > 0]
    low, high = np.quantile(ratios, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(estimate, *sorted((sign * float(low), sign * float(high))))


def sign_flip_p_value(differences: ArrayLike) -> float:
    r"""The two-sided p-value of the sum of the differences when each sign is random.

    $p = \Pr_s(|\sum_i s_i d_i| \ge |\sum_i d_i|)$ over signs $s_i = \pm 1$, $d$ = `differences`: exact if A and B
    do not differ, so that each d is as likely as -d, whatever its distribution. With up to 12 differences all signs are
    tried; with more, R = 10,000 seeded ones, and $p = (1 + \#) / (1 + R)$ is never 0. Differences of 0 change nothing.

    Fisher, The Design of Experiments, 1935, § 21; Phipson and Smyth, 2010, arXiv 1603.05766.
    """
    given = np.asarray(differences, dtype=np.float64)
    d = np.sort(np.abs(given[given != 0]))  # so that B against A gets the same signs as A against B
    least = abs(exact_sum(given)) - 1e-11 * exact_sum(d)  # equal sums count as equal, however they were rounded
    if len(d) <= NUM_EXACT:
        flips = np.arange(2 ** len(d))[:, None] >> np.arange(len(d)) & 1
        return float(np.mean(np.abs((2 * flips - 1) @ d) >= least))
    draw, sums = np.random.default_rng(0), np.zeros(NUM_FLIPS)
    for table in _sums_of_eights(d):
        sums += table[draw.integers(256, size=NUM_FLIPS, dtype=np.uint8)]
    return (1 + int(np.sum(np.abs(sums) >= least))) / (1 + NUM_FLIPS)


def _sums_of_eights(d: NDArray[np.float64]) -> NDArray[np.float64]:
    """For each eight differences their sums under all 256 choices of signs: one random byte chooses eight signs."""
    signs = 2.0 * np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1) - 1
    return np.pad(d, (0, -len(d) % 8)).reshape(-1, 8) @ signs.T


def wilson_interval(count: int, total: int, confidence: float = 0.95, *, effective: float | None = None) -> Interval:
    r"""The share `count` / `total`, with Wilson's interval for a proportion; NaN if `total` is 0.

    The ends are the roots p of $|\hat p - p| = z \sqrt{p (1 - p) / n}$ with n = `effective`, by default `total`.

    Wilson, 1927, Journal of the American Statistical Association 22 (158).
    """
    if total == 0:
        return Interval(math.nan, math.nan, math.nan)
    z, share, n = NormalDist().inv_cdf((1 + confidence) / 2), count / total, effective or total
    shrink = 1 + z * z / n
    middle = (share + z * z / (2 * n)) / shrink
    half_width = z / shrink * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low, high = middle - half_width, middle + half_width
    return Interval(share, low if count else 0.0, high if count < total else 1.0)  # exact at the ends


def effective_number(clusters: Sequence[str], is_right: Sequence[bool]) -> float:
    r"""How many independent answers tell as much of a share as these, of which those of one cluster may agree.

    $n_\mathrm{eff} = \hat p (1 - \hat p) n^2 / \sum_c (y_c - \hat p n_c)^2$, at most n, with $y_c$ of the $n_c$ answers
    of cluster c right: the n with which a proportion has the variance of the ratio $\sum_c y_c / \sum_c n_c$. Where
    all are right, or none, it is the number of clusters. Answers of clusters of their own count singly, and the same
    answer given k times counts once.

    Dean and Pagano, Evaluating confidence interval methods for binomial proportions in clustered surveys, 2015.
    """
    sizes, right = Counter(clusters), Counter[str]()
    for cluster, one in zip(clusters, is_right, strict=True):
        right[cluster] += one
    total, share = len(clusters), sum(right.values()) / max(len(clusters), 1)
    spread = math.fsum((right[cluster] - share * size) ** 2 for cluster, size in sizes.items())
    if len(sizes) == total or len(sizes) == 1 or share in {0, 1}:
        return float(len(sizes))
    return min(share * (1 - share) * total**2 / spread, float(total)) if spread else float(total)


def holm(p_values: Sequence[float]) -> list[float]:
    r"""The p-values, adjusted for their number: with the limit 0.05, 1 in 20 datasets has any false finding.

    The k-th smallest of K becomes $\max_{j \le k} \min(1, (K - j + 1) p_{(j)})$.

    Holm, 1979, Scandinavian Journal of Statistics 6 (2).
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def _in_order(*values: ArrayLike) -> tuple[NDArray[np.float64], ...]:
    """The documents in the order of their values."""
    arrays = [np.asarray(one, dtype=np.float64) for one in values]
    order = np.lexsort(arrays)
    return tuple(array[order] for array in arrays)
