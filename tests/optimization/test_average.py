"""The moving average against its sum in float64, and that it changes nothing but itself."""

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from torch import nn

from thetahat.core.errors import ModelError
from thetahat.optimization.average import MovingAverage


def averaged(values, decay, dtype=torch.float64):
    """The average of a parameter that takes these values, after each of them."""
    parameter = nn.Parameter(torch.full((2,), 9.0, dtype=dtype))  # drawn: it is no part of the average
    average, found = MovingAverage({"a": parameter}, decay), []
    for value in values:
        with torch.no_grad():
            parameter.fill_(value)
        average.update()
        found.append(average.tensors["a"][0].item())
    return found


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=40), st.sampled_from([0.1, 0.5, 0.9, 0.999]))
def test_it_is_the_weighted_sum(values, decay):
    for number, ours in enumerate(averaged(values, decay), start=1):
        weights = decay ** np.arange(number - 1, -1, -1, dtype=np.float64)
        expected = float((weights * values[:number]).sum() / weights.sum())
        assert ours == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_in_float32_it_is_near_after_many_updates():
    values = (1 + 0.1 * np.sin(np.arange(3000) / 7)).tolist()
    ours, exact = averaged(values, 0.999, torch.float32)[-1], averaged(values, 0.999)[-1]
    assert ours == pytest.approx(exact, rel=2e-6)


def test_swapped_twice_all_is_as_it_was_and_others_do_not_fit():
    parameter = nn.Parameter(torch.randn(3, 2))
    average = MovingAverage({"a": parameter}, 0.9)
    average.update()
    with torch.no_grad():
        parameter.add_(1.0)
    before = parameter.detach().clone(), average.tensors["a"].clone()
    average.swap()
    assert torch.equal(parameter, before[1])
    average.swap()
    assert torch.equal(parameter, before[0])
    assert torch.equal(average.tensors["a"], before[1])
    for tensors in ({"b": torch.zeros(3, 2)}, {"a": torch.zeros(2, 2)}):
        with pytest.raises(ModelError, match="the moving average"):
            average.load(tensors, 1)
    assert torch.equal(average.tensors["a"], before[1])
