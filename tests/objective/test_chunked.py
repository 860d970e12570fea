"""Gradients of the objective, made at once, in chunks, and in chunks on the way forward."""

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from torch import nn

from tests.objective.test_log_prob import KINDS, example
from tests.oracles.objective import gradient_of, told_of
from thetahat.core.errors import ModelError
from thetahat.model.layers.head import Head
from thetahat.objective.chunked import Chunked, weighed
from thetahat.objective.log_prob import reference


@given(
    num_tokens=st.integers(1, 6),
    seed=st.integers(0, 99),
    kind=st.sampled_from(KINDS),
    kernel=st.sampled_from([reference, Chunked(4)]),
)
def test_the_gradient_of_any_function_of_what_is_told_is_the_oracle_s(num_tokens, seed, kind, kernel):
    hidden, head, targets = example(num_tokens, seed, **kind)
    draw = np.random.default_rng(seed)
    one, other = draw.normal(size=num_tokens), draw.normal(size=num_tokens)
    told = kernel(hidden, head, targets)
    value = (torch.from_numpy(one) * told.log_prob + torch.from_numpy(other) * told.log_normalizer).sum()
    found = torch.autograd.grad(value, [hidden, *head.parameters()])
    for gradient, expected in zip(found, gradient_of(hidden, head, targets, one, other), strict=True):
        np.testing.assert_allclose(gradient, expected, rtol=1e-12, atol=1e-13)


@given(
    num_tokens=st.integers(1, 9),
    size=st.integers(1, 11),
    seed=st.integers(0, 99),
    kind=st.sampled_from(KINDS),
    z_loss=st.sampled_from([0.0, 0.3]),
    factor=st.sampled_from([1.0, -0.25]),
)
def test_a_sum_whose_gradient_is_made_on_the_way_forward_is_the_oracle_s(num_tokens, size, seed, kind, z_loss, factor):
    hidden, head, targets = example(num_tokens, seed, **kind)
    draw = np.random.default_rng(seed)
    weights = draw.normal(size=num_tokens) * (draw.random(num_tokens) < 0.7)  # some are 0
    value, told = Chunked(size).summed(hidden, head, targets, torch.from_numpy(weights), z_loss)
    log_prob, log_normalizer, is_missed = told_of(hidden, head, targets)
    expected = (weights * (log_prob - z_loss * log_normalizer**2)).sum()
    assert value.item() == pytest.approx(expected, rel=1e-12, abs=1e-12)
    np.testing.assert_allclose(told.log_prob, log_prob, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(told.is_missed, is_missed)
    of_log_normalizer = -2 * z_loss * weights * log_normalizer
    truth = gradient_of(hidden, head, targets, factor * weights, factor * of_log_normalizer)
    for _ in range(2):  # it may be asked for again
        found = torch.autograd.grad(factor * value, [hidden, *head.parameters()], retain_graph=True)
        for gradient, one in zip(found, truth, strict=True):
            np.testing.assert_allclose(gradient, one, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_of_the_reference_has_the_bits_of_autograd_s(dtype, kind):
    hidden, head, targets = example(50, 0, getattr(torch, dtype), **kind)
    logits = head(hidden)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    log_normalizer = logits.logsumexp(-1)
    log_prob = logits.gather(-1, targets[:, None])[:, 0] - log_normalizer
    told, weights = reference(hidden, head, targets), torch.rand(50)
    assert torch.equal(told.log_prob, log_prob)
    assert torch.equal(told.log_normalizer, log_normalizer)
    values = [(weights * (one - 0.1 * other.square())).sum() for one, other in [told[:2], (log_prob, log_normalizer)]]
    found, expected = (torch.autograd.grad(value, [hidden, *head.parameters()]) for value in values)
    assert all(map(torch.equal, found, expected))


def test_nothing_is_kept_where_no_gradient_is_wanted():
    hidden, head, targets = example(10, 0)
    with torch.no_grad():
        value, told = Chunked(3).summed(hidden, head, targets, torch.ones(10))
    assert not value.requires_grad
    assert torch.equal(told.log_prob, torch.cat([reference(*pair).log_prob for pair in _pairs(hidden, head, targets)]))


def _pairs(hidden, head, targets):
    return [(h, head, t) for h, t in zip(hidden.detach().split(3), targets.split(3), strict=True)]


@pytest.mark.parametrize("frozen", ["weight", "hidden", "all"])
def test_what_is_frozen_gets_no_gradient_and_the_rest_its_own(frozen):
    hidden, head, targets = example(10, 0, has_bias=True)
    weights = torch.rand(10, dtype=torch.float64)
    expected = torch.autograd.grad(weighed(reference(hidden, head, targets), weights), [hidden, head.weight, head.bias])
    still = {"weight": [head.weight], "hidden": [hidden], "all": [hidden, *head.parameters()]}[frozen]
    for one in still:
        one.requires_grad_(False)
    value, _ = Chunked(4).summed(hidden, head, targets, weights)
    assert value.requires_grad == (frozen != "all")
    if value.requires_grad:
        value.backward()
    for one, gradient in zip([hidden, head.weight, head.bias], expected, strict=True):
        if one.requires_grad:
            torch.testing.assert_close(one.grad, gradient, rtol=1e-12, atol=1e-13)
        else:
            assert one.grad is None


def test_a_matrix_that_is_read_elsewhere_too_gets_both_gradients():
    hidden, head, targets = example(10, 0)
    weights = torch.rand(10, dtype=torch.float64)
    found = []
    for way in (lambda h: weighed(reference(h, head, targets), weights), lambda h: _summed(h, head, targets, weights)):
        states = hidden + head.weight[targets]  # a table that is tied
        found.append(torch.autograd.grad(way(states), [hidden, head.weight]))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)


def _summed(hidden, head, targets, weights):
    return Chunked(4).summed(hidden, head, targets, weights)[0]


def test_under_autocast_parameters_get_gradients_of_their_own_dtype():
    hidden, head, targets = example(40, 0, torch.float32, width=16)
    weights, found = torch.rand(40, dtype=torch.float64), []
    for kernel in (reference, Chunked(8)):
        with torch.autocast("cpu", torch.bfloat16):
            value = (
                kernel.summed(hidden, head, targets, weights)[0]
                if isinstance(kernel, Chunked)
                else weighed(kernel(hidden, head, targets), weights)
            )
        found.append(torch.autograd.grad(value, [hidden, head.weight]))
    assert [one.dtype for one in found[1]] == [torch.float32] * 2
    for one, other in zip(*found, strict=True):
        assert (one - other).norm() <= 1e-2 * other.norm()


class Borrowing(nn.Module):
    """A head whose matrix is not among its parameters."""

    def __init__(self, weight, is_listed):
        super().__init__()
        self.matrix = nn.ParameterList([weight]) if is_listed else [weight]

    @property
    def num_outputs(self):
        return len(self.matrix[0])

    def forward(self, hidden, tokens=None):
        return hidden @ self.matrix[0].T


def test_a_head_whose_parameters_are_not_its_own_is_refused():
    hidden, head, targets = example(10, 0)
    weights = torch.ones(10)
    with pytest.raises(ModelError, match=r"\[37, 8\].*\n  try: .*objective.chunk_size=0"):
        Chunked(4).summed(hidden, Borrowing(head.weight, is_listed=False), targets, weights)
    value, _ = Chunked(4).summed(hidden, Borrowing(head.weight, is_listed=True), targets, weights)
    assert value.item() == pytest.approx(weighed(reference(hidden, head, targets), weights).item(), rel=1e-12)


class Sum(nn.Module):
    """A head of two matrices, whose gradients are one."""

    def __init__(self, one, other):
        super().__init__()
        self.one, self.other, self.num_outputs = one, other, len(one)

    def forward(self, hidden, tokens=None):
        return hidden @ (self.one + self.other).T


def test_parameters_with_one_gradient_each_get_it():
    hidden, head, targets = example(10, 0)
    weights, both = torch.rand(10, dtype=torch.float64), Sum(head.weight, nn.Parameter(torch.zeros_like(head.weight)))
    expected = torch.autograd.grad(weighed(reference(hidden, head, targets), weights), [head.weight])[0]
    for found in torch.autograd.grad(_summed(hidden, both, targets, weights), [both.one, both.other]):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)


class Plain:
    """A head that is no module."""

    def __init__(self, weight):
        self.weight, self.num_outputs = weight, len(weight)

    def __call__(self, hidden, tokens=None):
        return hidden @ self.weight.T


def test_a_head_that_is_no_module_has_its_gradient_all_the_same():
    hidden, head, targets = example(10, 0)
    weights = torch.rand(10, dtype=torch.float64)
    value, _ = Chunked(4).summed(hidden, Plain(head.weight), targets, weights)
    expected = torch.autograd.grad(weighed(reference(hidden, head, targets), weights), [hidden, head.weight])
    for one, other in zip(torch.autograd.grad(value, [hidden, head.weight]), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)


def test_without_targets_the_sum_is_zero_and_so_is_its_gradient():
    hidden, head, targets = example(0, 0)
    value, _ = Chunked(4).summed(hidden, head, targets, torch.zeros(0, dtype=torch.float64))
    value.backward()
    assert value.item() == 0
    assert not head.weight.grad.any()


def test_the_vocabulary_may_be_of_one_token():
    head = Head(8, 1)
    value, told = Chunked(2).summed(torch.randn(3, 8), head, torch.zeros(3, dtype=torch.int64), torch.ones(3))
    value.backward()
    assert told.log_prob.tolist() == [0.0] * 3
    assert not head.weight.grad.any()
