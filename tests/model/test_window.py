"""Attention within a window, a chunk of queries at a time, is attention under the mask."""

import pytest
import torch
from hypothesis import given, strategies as st

from tests.model.test_blockwise import drawn
from thetahat.core.visibility import visibility_of
from thetahat.model.attention import choice, window
from thetahat.model.attention.choice import compile_visibility
from thetahat.model.attention.kernels import attend_under


@pytest.fixture(autouse=True, scope="module")
def _small_chunks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(window, "CHUNK", 3)
        patch.setattr(choice, "FEW", 1)
        yield


def gradients(attend, given, sinks):
    """Of a sum of what is read, in which each number counts otherwise."""
    given = [one.detach().clone().requires_grad_() for one in (*given, *sinks)]
    found = attend(*given)
    (found * torch.arange(found.numel(), dtype=found.dtype).sin().view_as(found)).sum().backward()
    return [found.detach(), *(one.grad for one in given)]


@given(
    st.lists(st.sampled_from([1, 2, 9, 10, 23, 40]), min_size=1, max_size=3),
    st.sampled_from([1, 2, 4, 7]),
    st.sampled_from([0, 0, 1, 4]),
    st.booleans(),
    st.booleans(),
)
def test_chunks_say_what_the_mask_says(lengths, distance, num_global, is_causal, has_sinks):
    piece = torch.cat([torch.full((length,), number) for number, length in enumerate([*lengths, 2])])[None]
    piece[0, -2:] = -1  # padding
    position = torch.cat([torch.arange(length) for length in [*lengths, 2]])[None]
    seen = visibility_of(piece, is_causal=is_causal).within(distance, position, num_global=num_global)
    given, num_text = drawn(1, 4, 2, piece.shape[1]), sum(lengths)
    sinks = [torch.linspace(-1, 1, 4, dtype=torch.float64)] if has_sinks else []
    ours = gradients(compile_visibility(seen, 4, torch.float64), given, sinks)
    theirs = gradients(attend_under(seen.mask()), given, sinks)
    for mine, other in zip(ours, theirs, strict=True):
        mine, other = (x[:, :, :num_text] if x.ndim == 4 and not has_sinks else x for x in (mine, other))
        torch.testing.assert_close(mine, other, rtol=1e-11, atol=1e-11)


def test_rows_that_are_read_alike_are_read_in_chunks_and_others_under_the_mask(monkeypatch):
    taken = []
    whole = window.attend_in_window
    monkeypatch.setattr(choice, "attend_in_window", lambda *given, **more: taken.append(given) or whole(*given, **more))
    position = torch.arange(40).expand(2, -1)
    piece = torch.arange(2)[:, None].expand(-1, 40)
    for start in (0, 5):  # texts from their beginning, and others
        compile_visibility(visibility_of(piece).within(4, position + start), 4, torch.float64)
        assert taken == [(40, 4, 0)]  # once for both rows
    branching = torch.tensor([[0] * 20 + [1] * 10 + [2] * 10])
    seen = visibility_of(branching, torch.tensor([-1, 0, 0])).within(4, position[:1])
    compile_visibility(seen, 4, torch.float64)
    assert len(taken) == 1
