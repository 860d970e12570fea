"""Intervals written the slow way, with mpmath's Student distribution."""

import math

import mpmath


def t_distribution(x, degrees):
    """Pr(T <= x) for x >= 0, by the incomplete beta function."""
    with mpmath.workdps(40):
        nu, x = mpmath.mpf(degrees), mpmath.mpf(x)
        tail = mpmath.betainc(nu / 2, 0.5, 0, nu / (nu + x**2), regularized=True)
        return float(1 - tail / 2)


def ratio(numerator, denominator, quantile):
    """Estimate and ends, term by term."""
    n = len(numerator)
    sum_d, sum_t = 0.0, 0.0
    for d, t in zip(numerator, denominator, strict=True):
        sum_d, sum_t = sum_d + d, sum_t + t
    m = sum_d / sum_t
    residual = 0.0
    for d, t in zip(numerator, denominator, strict=True):
        residual += (d - m * t) ** 2
    error = math.sqrt(n / (n - 1) * residual) / sum_t
    return m, m - quantile * error, m + quantile * error
