import math

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from torch import nn

from tests.oracles import update as oracle
from thetahat.optimization.clip import clip_gradients


def parameters_with(gradients):
    parameters = [nn.Parameter(torch.zeros_like(gradient)) for gradient in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.clone()
    return parameters


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=4), st.floats(0.01, 100))
def test_clipping_scales_all_gradients_by_one_number(shapes, max_norm):
    gradients = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    parameters = parameters_with(gradients)
    norm = clip_gradients(parameters, max_norm)
    expected, length = oracle.clip([gradient.numpy() for gradient in gradients], max_norm)
    assert norm.item() == pytest.approx(length, rel=1e-12)
    for parameter, gradient in zip(parameters, expected, strict=True):
        np.testing.assert_allclose(parameter.grad.numpy(), gradient, rtol=1e-12)
    assert clip_gradients(parameters, None).item() == pytest.approx(min(length, max_norm), rel=1e-12)


def test_a_short_gradient_is_left_bit_for_bit(device):
    gradients = [torch.randn(3, 4, device=device), torch.randn(5, device=device)]
    parameters = parameters_with(gradients)
    clip_gradients(parameters, 1e6)
    assert all(torch.equal(parameter.grad, gradient) for parameter, gradient in zip(parameters, gradients, strict=True))


def test_without_a_bound_the_norm_is_measured_and_nothing_changes(device):
    gradients = [torch.full((2, 2), 3.0, device=device)]
    parameters = parameters_with(gradients)
    norm = clip_gradients(parameters, None)
    assert norm.item() == 6.0
    assert norm.device.type == device.type
    assert torch.equal(parameters[0].grad, gradients[0])


def test_a_zero_gradient_stays_zero():
    parameters = parameters_with([torch.zeros(3)])
    assert clip_gradients(parameters, 1.0).item() == 0.0
    assert (parameters[0].grad == 0).all()


def test_parameters_without_a_gradient_count_for_nothing():
    parameters = [*parameters_with([torch.full((4,), 2.0)]), nn.Parameter(torch.ones(3))]
    assert clip_gradients(parameters, 1.0).item() == 4.0
    assert parameters[1].grad is None
    assert clip_gradients([nn.Parameter(torch.ones(3))], None).item() == 0.0


def test_a_float32_norm_is_right_over_many_entries(device):
    gradient = torch.full((2**24 + 2**22,), 1.0, device=device)
    assert clip_gradients(parameters_with([gradient]), None).item() == pytest.approx(
        math.sqrt(len(gradient)), rel=1e-12
    )


def test_squares_beyond_float32_do_not_overflow(device):
    parameters = parameters_with([torch.full((4,), 1e30, device=device)])
    assert clip_gradients(parameters, 1.0).item() == pytest.approx(2e30)
    assert parameters[0].grad.tolist() == pytest.approx([0.5] * 4)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_shows_in_the_norm(value):
    norm = clip_gradients(parameters_with([torch.ones(3), torch.tensor([1.0, value])]), 1.0)
    assert not math.isfinite(norm.item())


def test_gradients_of_two_dtypes_are_measured_together():
    parameters = parameters_with([torch.full((1,), 3.0, dtype=torch.float64), torch.full((1,), 4.0)])
    assert clip_gradients(parameters, 1.0).item() == 5.0
    assert [parameter.grad.item() for parameter in parameters] == pytest.approx([0.6, 0.8])
