"""Update rules written the slow way: float64, NumPy, one matrix or one number at a time."""

import math

import numpy as np


def orthogonalize(matrix, num_iterations=5):
    """Newton-Schulz on one matrix."""
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T.copy() if is_tall else matrix.copy()
    length = math.sqrt(sum(entry * entry for entry in x.ravel()))
    x = x / length if length > 0 else x
    for _ in range(num_iterations):
        gram = x @ x.T
        x = 3.4445 * x - 4.7750 * (gram @ x) + 2.0315 * (gram @ gram @ x)
    return x.T if is_tall else x


def muon(start, gradients, *, learning_rates, momentum, weight_decay, scale, num_iterations=5):
    """The matrix after these updates, with the momentum of Jordan's own code: m = μ m + g, direction g + μ m."""
    rows, columns = start.shape
    size = math.sqrt(max(1, rows / columns)) if scale == "shape" else 0.2 * math.sqrt(max(rows, columns))
    parameter, average = start.copy(), np.zeros_like(start)
    for gradient, rate in zip(gradients, learning_rates, strict=True):
        average = momentum * average + gradient
        direction = orthogonalize(gradient + momentum * average, num_iterations)
        parameter = parameter - rate * weight_decay * parameter - rate * size * direction
    return parameter


def adamw(start, gradients, *, learning_rates, beta1, beta2, epsilon, weight_decay):
    """The array after these updates, entry by entry."""
    parameter = start.copy()
    for place in np.ndindex(start.shape):
        value, first, second = start[place], 0.0, 0.0
        for count, (gradient, rate) in enumerate(zip(gradients, learning_rates, strict=True), start=1):
            first = beta1 * first + (1 - beta1) * gradient[place]
            second = beta2 * second + (1 - beta2) * gradient[place] ** 2
            mean, square = first / (1 - beta1**count), second / (1 - beta2**count)
            value = value - rate * weight_decay * value - rate * mean / (math.sqrt(square) + epsilon)
        parameter[place] = value
    return parameter


def clip(gradients, max_norm):
    """The gradients, none of them longer together than `max_norm`, and their length before."""
    length = math.sqrt(math.fsum(entry * entry for gradient in gradients for entry in gradient.ravel()))
    return [gradient * min(1.0, max_norm / length) for gradient in gradients], length
