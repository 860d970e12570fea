"""Causal attention a block at a time is causal attention."""

import pytest
import torch
from hypothesis import given, strategies as st
from torch.nn.functional import scaled_dot_product_attention

from thetahat.core.visibility import Visibility
from thetahat.model.attention import kernels
from thetahat.model.attention.blockwise import BLOCK, attend_blockwise, block_size, suits_blocks
from thetahat.model.attention.choice import compile_visibility
from thetahat.model.attention.kernels import knows_groups

SIZES = st.sampled_from([1, 2, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 2 * BLOCK + 5, 3 * BLOCK + 60])


def drawn(num_rows, num_heads, num_groups, num_positions, dtype=torch.float64, width=4):
    draw = torch.Generator().manual_seed(num_positions + num_heads)
    shapes = [(num_rows, num_positions, heads, width) for heads in (num_heads, num_groups, num_groups)]
    return [2 * torch.randn(shape, generator=draw, dtype=dtype).transpose(1, 2) for shape in shapes]


@given(st.integers(1, 3), st.sampled_from([(1, 1), (4, 4), (4, 2), (6, 1)]), SIZES)
def test_blocks_say_what_the_whole_says(num_rows, heads, num_positions):
    q, k, v = drawn(num_rows, *heads, num_positions)
    expected = scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    torch.testing.assert_close(attend_blockwise(q, k, v), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("num_positions", [BLOCK, BLOCK + 1])
def test_blocks_are_taken_without_a_gradient_where_rows_are_long(num_positions, monkeypatch):
    taken = []
    monkeypatch.setattr(kernels, "attend_blockwise", lambda *given: taken.append(1) or attend_blockwise(*given))
    visibility = Visibility(torch.zeros(1, num_positions, dtype=torch.int64), is_plain=True)
    q, k, v = drawn(1, 4, 2, num_positions, torch.float32)
    with torch.no_grad():
        compile_visibility(visibility, 4, torch.float32)(q, k, v)
    assert len(taken) == (num_positions > BLOCK)
    compile_visibility(visibility, 4, torch.float32)(q.requires_grad_(), k, v).sum().backward()
    assert len(taken) == (num_positions > BLOCK)
    assert q.grad is not None


def test_blocks_are_for_a_cpu_for_whole_precision_and_without_a_gradient():
    q = torch.zeros(1, 2, BLOCK + 1, 4)
    assert not suits_blocks(q)
    with torch.no_grad():
        assert suits_blocks(q)
        assert suits_blocks(q.double())
        assert not suits_blocks(q.bfloat16())
        assert not suits_blocks(q.to("meta"))
        assert not suits_blocks(q[:, :, 1:])


@pytest.mark.parametrize("is_plain", [True, False])
def test_keys_that_heads_share_are_repeated_where_no_fused_kernel_knows_them(is_plain, monkeypatch):
    piece = torch.tensor([[0, 0, 0, 1, 1]]) * (not is_plain)
    visibility = Visibility(piece, is_plain=is_plain)
    given = drawn(1, 4, 2, 5)
    expected = compile_visibility(visibility, 4, torch.float64)(*given)
    assert knows_groups(torch.device("cpu"), torch.float32, has_mask=True)
    assert knows_groups(torch.device("cuda"), torch.bfloat16, has_mask=False)
    assert not knows_groups(torch.device("cuda"), torch.bfloat16, has_mask=True)
    assert not knows_groups(torch.device("cuda"), torch.float32, has_mask=False)
    monkeypatch.setattr(kernels, "knows_groups", lambda *given, **more: False)
    found = compile_visibility(visibility, 4, torch.float64)(*given)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)


@given(st.integers(1, 5 * BLOCK))
def test_blocks_are_as_few_as_can_be_and_about_equal(length):
    size = block_size(length)
    number = -(-length // size)
    assert size <= BLOCK
    assert number == -(-length // BLOCK)
    assert number == 1 or size < length / number + 8
