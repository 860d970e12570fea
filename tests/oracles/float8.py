"""Numbers of float8 (e4m3), and products of rows that are scaled to them: float64, one number at a time."""

import math

import numpy as np


def rounded(value):
    """The nearest number with 3 bits behind the first and an exponent of -6 at least; of two, the even one."""
    if value == 0:
        return 0.0
    step = 2.0 ** (max(math.floor(math.log2(abs(value))), -6) - 3)
    return round(value / step) * step


def meant(row):
    """What a row of float32 numbers is after scaling to at most 448 by a power of two, rounding, and scaling back."""
    largest = max(abs(float(value)) for value in row)
    if largest == 0:
        return np.zeros(len(row))
    scale = 2.0 ** math.ceil(math.log2(largest / 448))
    return np.array([scale * rounded(float(value) / scale) for value in row])


def product(left, right):
    """Of each row of one with each row of the other."""
    rows, columns = [meant(row) for row in left], [meant(row) for row in right]
    return np.array([[sum(a * b for a, b in zip(row, column, strict=True)) for column in columns] for row in rows])
