import math
from fractions import Fraction
from functools import reduce
from operator import add

import pytest
import torch
from hypothesis import given, strategies as st

from thetahat.core.total import Total

PAIRS = st.lists(st.tuples(st.floats(-1e4, 0), st.floats(0, 10)), min_size=1, max_size=20)


def total(log_prob, weight):
    return Total(torch.tensor(log_prob, dtype=torch.float64), torch.tensor(weight, dtype=torch.float64))


@given(PAIRS)
def test_totals_add_and_the_mean_is_of_everything_added(pairs):
    whole = reduce(add, (total(*pair) for pair in pairs), Total.zero())
    log_prob, weight = (sum(map(Fraction, column)) for column in zip(*pairs, strict=True))
    assert whole.log_prob.item() == pytest.approx(float(log_prob), rel=1e-12)
    assert whole.weight.item() == pytest.approx(float(weight), rel=1e-12)
    if weight > 0:
        assert whole.mean().item() == pytest.approx(float(log_prob / weight), rel=1e-12)


def test_a_mean_of_means_is_another_number():
    whole = total(-8.0, 1.0) + total(-2.0, 9.0)
    assert whole.mean().item() == -1.0
    assert (total(-8.0, 1.0).mean() + total(-2.0, 9.0).mean()).item() / 2 != pytest.approx(-1.0)


def test_nothing_has_no_mean_rather_than_a_perfect_one():
    assert math.isnan(Total.zero().mean().item())


def test_a_large_total_still_counts_one_more():
    assert (total(-(2.0**24), 2.0**24) + total(-1.0, 1.0)).weight.item() == 2**24 + 1
    assert Total.zero().weight.dtype == torch.float64


def test_detaching_keeps_the_numbers_and_drops_the_graph():
    log_prob = torch.tensor(-2.0, dtype=torch.float64, requires_grad=True)
    whole = Total(log_prob * 3, torch.tensor(2.0, dtype=torch.float64))
    assert whole.log_prob.requires_grad
    assert not whole.detach().log_prob.requires_grad
    assert whole.detach().mean().item() == -3.0
