import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from torch import nn

from tests.oracles import update as oracle
from thetahat.optimization.config import Muon as MuonConfig
from thetahat.optimization.muon import Muon, orthogonalize, step_scale

sizes = st.integers(1, 9)
seeds = st.integers(0, 2**32 - 1)


def normal(seed, *shape, device="cpu", dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype).to(device)


@given(st.integers(1, 4), sizes, sizes, seeds)
def test_a_stack_is_orthogonalized_as_each_of_its_matrices_alone(num_matrices, rows, columns, seed):
    stack = normal(seed, num_matrices, rows, columns)
    for found, matrix in zip(orthogonalize(stack), stack.numpy(), strict=True):
        np.testing.assert_allclose(found.numpy(), oracle.orthogonalize(matrix), rtol=1e-9, atol=1e-12)


@given(st.integers(2, 24), st.integers(2, 24), seeds)
def test_singular_values_come_near_one_and_singular_vectors_stay(rows, columns, seed):
    matrix = normal(seed, 1, rows, columns)
    left, values, right = torch.linalg.svd(matrix[0], full_matrices=False)
    found = left.T @ orthogonalize(matrix)[0] @ right.T
    off_diagonal = found - torch.diag(found.diagonal())
    assert off_diagonal.abs().max() < 1e-9
    large_enough = values / values.norm() > 0.01
    assert found.diagonal()[large_enough].min() > 0.5
    assert found.diagonal().max() < 1.3


def test_tall_and_wide_are_the_same_problem():
    stack = normal(0, 3, 5, 9)
    torch.testing.assert_close(orthogonalize(stack.mT), orthogonalize(stack).mT, rtol=0, atol=0)


@pytest.mark.parametrize("factor", [1e-10, 1e-3, 1e3, 1e10])
def test_the_length_of_a_gradient_does_not_matter(factor):
    stack = normal(1, 2, 6, 8)
    torch.testing.assert_close(orthogonalize(factor * stack), orthogonalize(stack))


def test_a_zero_matrix_stays_zero_beside_others():
    stack = normal(2, 2, 3, 4)
    stack[0] = 0
    assert (orthogonalize(stack)[0] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_dtype_comes_back_and_the_work_is_done_in_at_least_float32(device, dtype):
    stack = normal(3, 2, 16, 24, device=device, dtype=dtype)
    found = orthogonalize(stack)
    assert found.dtype == dtype
    exact = orthogonalize(stack.cpu().double())
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-2}[dtype]
    if device.type == "cuda" and dtype != torch.float64:
        tolerance = 0.1  # bfloat16 on the way
    assert (found.cpu().double() - exact).abs().max() < tolerance


def run(shapes, config, num_steps=4, device="cpu"):
    """Parameters at the start and at the end, and the gradients between."""
    parameters = [nn.Parameter(normal(i, *shape, device=device)) for i, shape in enumerate(shapes)]
    gradients = [
        [normal(100 * k + i, *shape, device=device) for i, shape in enumerate(shapes)] for k in range(num_steps)
    ]
    start = [parameter.detach().clone() for parameter in parameters]
    optimizer = Muon(parameters, config)
    for step in gradients:
        for parameter, gradient in zip(parameters, step, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()
    return start, gradients, [parameter.detach() for parameter in parameters]


@pytest.mark.parametrize("scale", ["shape", "rms"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_updates_are_those_of_one_matrix_at_a_time(device, scale, weight_decay):
    shapes = [(4, 6), (6, 4), (4, 6), (5, 5), (3, 7)]
    config = MuonConfig(learning_rate=0.05, momentum=0.9, weight_decay=weight_decay, scale=scale)
    start, gradients, found = run(shapes, config, device=device)
    for i in range(len(shapes)):
        expected = oracle.muon(
            start[i].cpu().numpy(),
            [step[i].cpu().numpy() for step in gradients],
            learning_rates=[0.05] * 4,
            momentum=0.9,
            weight_decay=weight_decay,
            scale=scale,
        )
        np.testing.assert_allclose(found[i].cpu().numpy(), expected, rtol=1e-9, atol=1e-12)


def test_a_stack_of_experts_moves_like_its_matrices():
    config = MuonConfig(learning_rate=0.1, weight_decay=0.1)
    experts = nn.Parameter(normal(0, 3, 6, 4))
    alone = [nn.Parameter(experts.detach()[i].clone()) for i in range(3)]
    together, apart = Muon([experts], config), [Muon([matrix], config) for matrix in alone]
    for seed in range(3):
        experts.grad = normal(10 + seed, 3, 6, 4)
        for i, matrix in enumerate(alone):
            matrix.grad = experts.grad[i].clone()
            apart[i].step()
        together.step()
    torch.testing.assert_close(experts.detach(), torch.stack([matrix.detach() for matrix in alone]))


def test_a_parameter_without_a_gradient_does_not_move_or_decay():
    parameters = [nn.Parameter(normal(i, 3, 4)) for i in range(2)]
    still = parameters[1].detach().clone()
    optimizer = Muon(parameters, MuonConfig(learning_rate=0.1, weight_decay=0.5))
    parameters[0].grad = normal(9, 3, 4)
    optimizer.step()
    assert torch.equal(parameters[1], still)


@pytest.mark.parametrize(("rows", "columns"), [(48, 12), (12, 48), (24, 24)])
def test_under_the_rms_rule_an_entry_moves_by_a_fifth_of_the_learning_rate(rows, columns):
    step = step_scale("rms", rows, columns) * orthogonalize(normal(0, 1, rows, columns))[0]
    assert step.square().mean().sqrt() == pytest.approx(0.2, rel=0.2)


def test_under_the_shape_rule_only_tall_matrices_move_further():
    assert step_scale("shape", 12, 48) == 1.0
    assert step_scale("shape", 48, 12) == 2.0
