"""A term more in the softmax's denominator: every kernel against a softmax that is written out."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor
from torch._higher_order_ops.flex_attention import flex_attention as plain_flex_attention
from torch.nn.attention.flex_attention import AuxOutput

from tests.model.test_flex import visibilities
from thetahat.model.attention import flex
from thetahat.model.attention.choice import runs_of
from thetahat.model.attention.flex import attend_in_blocks
from thetahat.model.attention.kernels import Attend, attend_apart, attend_causally, attend_scored, attend_under


def written_out(given: list[Tensor], mask: Tensor) -> Tensor:
    q, k, v, sinks = given
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    share = ((q @ k.mT) * q.shape[-1] ** -0.5).exp() * mask[:, None]
    return share @ v / (share.sum(-1, keepdim=True) + sinks.exp()[:, None, None])


def drawn(shape: tuple[int, int], seed: int) -> Any:
    rows, length = shape
    draw = torch.Generator().manual_seed(seed)
    shapes = [(rows, 4, length, 3), (rows, 2, length, 3), (rows, 2, length, 3), (4,)]
    return [torch.randn(shape, generator=draw, dtype=torch.float64, requires_grad=True) for shape in shapes]


def agree(attend: Attend, given: list[Tensor], mask: Tensor) -> None:
    """Values and all gradients, those of sinks among them."""
    expected, found = written_out(given, mask), attend(*given)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)
    toward = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    theirs = torch.autograd.grad(expected, given, toward)
    for one, other in zip(torch.autograd.grad(found, given, toward), theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


@given(visibilities(), st.integers(0, 99))
@settings(max_examples=25)
def test_under_a_mask_and_apart_it_is_what_is_written_out(made: Any, seed: int):
    visibility = made()
    given_here, mask = drawn(visibility.piece.shape, seed), visibility.mask()
    agree(attend_under(mask), given_here, mask)
    agree(attend_scored(mask, torch.zeros(1, 1, 1, 1).expand(len(mask), 4, *mask.shape[1:]).double()), given_here, mask)
    agree(attend_scored(mask, cap=1e9), given_here, mask)
    if visibility.lengths is not None:
        agree(attend_apart(runs_of(visibility, visibility.lengths)), given_here, mask)


def test_causally_it_is_what_is_written_out_with_a_gradient_or_without():
    given_here, mask = drawn((2, 120), 0), torch.ones(120, 120, dtype=torch.bool).tril().expand(2, -1, -1)
    agree(attend_causally, given_here, mask)
    with torch.no_grad():
        torch.testing.assert_close(attend_causally(*given_here), written_out(given_here, mask), rtol=1e-11, atol=1e-12)


def plainly(score: Tensor, *_: Tensor) -> Tensor:
    return score


def flexed(q: Tensor, k: Tensor, v: Tensor, *, block_mask: Any, enable_gqa: bool, return_aux: Any) -> Any:
    """What the kernels compute, in torch's plain arithmetic."""
    options = {"OUTPUT_LOGSUMEXP": True, "OUTPUT_MAX": False}
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    read, lse, _ = plain_flex_attention(q, k, v, plainly, block_mask.as_tuple(), q.shape[-1] ** -0.5, options, (), ())
    return read, AuxOutput(lse=lse * math.log(2))  # of base 2 within


@given(visibilities(), st.integers(0, 99))
@settings(max_examples=10)
def test_in_blocks_it_is_what_is_written_out(made: Any, seed: int):
    visibility = made()
    given_here, mask = drawn(visibility.piece.shape, seed), visibility.mask()
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(flex, "_run_compiled", flexed)
        found = attend_in_blocks(visibility)(*given_here)
    torch.testing.assert_close(found, written_out(given_here, mask), rtol=1e-9, atol=1e-10)


def test_a_sink_far_below_all_scores_is_none():
    given_here = drawn((1, 7), 1)
    plain, far = given_here[:3], [*given_here[:3], torch.full((4,), -80.0, dtype=torch.float64)]
    torch.testing.assert_close(attend_causally(*far), attend_causally(*plain), rtol=1e-12, atol=1e-14)
