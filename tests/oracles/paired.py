"""Statistics of paired differences written the slow way, with loops."""

import itertools
import math


def documents(rows):
    """{document: [nats B - A, tokens, bytes]} from (document, log_prob_a, log_prob_b, tokens, bytes)."""
    found = {}
    for document, a, b, tokens, size in rows:
        sums = found.setdefault(document, [0.0, 0, 0])
        sums[0], sums[1], sums[2] = sums[0] + (b - a), sums[1] + tokens, sums[2] + size
    return found


def exact_p_value(differences):
    """Over all 2^n flips of sign, the share whose sum is as far from 0."""
    observed, count, total = abs(sum(differences)), 0, 0
    slack = 1e-9 * sum(abs(d) for d in differences)
    for signs in itertools.product((-1, 1), repeat=len(differences)):
        flipped = 0.0
        for sign, d in zip(signs, differences, strict=True):
            flipped += sign * d
        count += abs(flipped) >= observed - slack
        total += 1
    return count / total


def wilson(count, total, z):
    """The two p with |share - p| = z sqrt(p (1 - p) / n), by bisection."""
    share = count / total

    def distance(p):
        return abs(share - p) - z * math.sqrt(p * (1 - p) / total)

    def root(inside, outside):  # at the share itself the distance is at most 0, at 0 and 1 at least 0
        for _ in range(200):
            middle = (inside + outside) / 2
            inside, outside = (middle, outside) if distance(middle) <= 0 else (inside, middle)
        return inside

    return root(share, 0.0), root(share, 1.0)


def holm(p_values):
    """From the smallest: the larger of what came before and p times how many are left."""
    adjusted = {}
    left, running = list(range(len(p_values))), 0.0
    while left:
        smallest = left[0]
        for index in left:
            if p_values[index] < p_values[smallest]:
                smallest = index
        running = max(running, min(1.0, p_values[smallest] * len(left)))
        adjusted[smallest] = running
        left.remove(smallest)
    return [adjusted[index] for index in range(len(p_values))]


def resampled_ratios(draw, numerator, denominator, count):
    """The ratio of sums over documents drawn with replacement, so many times."""
    ratios = []
    for _ in range(count):
        top = bottom = 0.0
        for _ in numerator:
            index = draw.randrange(len(numerator))
            top, bottom = top + numerator[index], bottom + denominator[index]
        ratios.append(top / bottom)
    return ratios
