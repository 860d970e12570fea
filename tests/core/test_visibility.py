import numpy as np
import torch
from hypothesis import given, strategies as st

from tests.oracles import visibility as oracle
from thetahat.core.visibility import Visibility, ancestors_of, visibility_of


@st.composite
def forests(draw):
    """A parent for each piece, before it or none."""
    return [draw(st.integers(-1, child - 1)) for child in range(draw(st.integers(1, 6)))]


@given(forests(), st.integers(1, 3), st.integers(1, 9), st.integers(0, 2**31), st.booleans())
def test_the_mask_is_the_relation_whatever_the_branches_and_the_padding(parent, rows, positions, seed, is_causal):
    piece = np.random.default_rng(seed).integers(-1, len(parent), size=(rows, positions))
    visibility = Visibility(torch.from_numpy(piece), ancestors_of(torch.tensor(parent)), is_causal=is_causal)
    expected = oracle.mask(piece, parent, is_causal=is_causal)
    np.testing.assert_array_equal(visibility.mask().numpy(), expected)


@given(st.integers(0, 2**31), st.booleans())
def test_packed_documents_stay_apart(seed, is_causal):
    piece = np.random.default_rng(seed).integers(-1, 3, size=(2, 7))
    mask = Visibility(torch.from_numpy(piece), is_causal=is_causal).mask().numpy()
    np.testing.assert_array_equal(mask, oracle.mask(piece, None, is_causal=is_causal))


def test_branches_see_the_prefix_and_not_each_other():
    piece = torch.tensor([[0, 0, 1, 1, 2, 2]])
    mask = Visibility(piece, ancestors_of(torch.tensor([-1, 0, 0]))).mask()[0]
    assert mask[3].tolist() == [True, True, True, True, False, False]
    assert mask[5].tolist() == [True, True, False, False, True, True]


def test_every_position_sees_itself_so_that_no_softmax_is_empty():
    piece = torch.tensor([[0, 1, -1, -1]])
    assert Visibility(piece).mask()[0].diagonal().all()


def test_padding_is_seen_by_padding_alone():
    mask = Visibility(torch.tensor([[0, -1, 1]]), ancestors_of(torch.tensor([-1, 0])), is_causal=False).mask()[0]
    assert mask[:, 1].tolist() == [False, True, False]
    assert mask[1].tolist() == [False, True, False]


def test_without_parents_there_are_no_ancestors_to_carry():
    assert ancestors_of(torch.tensor([-1, -1, -1])) is None


def test_it_moves_whole():
    visibility = Visibility(torch.tensor([[0, 1]]), ancestors_of(torch.tensor([-1, 0])), is_causal=False, is_plain=True)
    moved = visibility.to("meta")
    assert moved.piece.is_meta
    assert moved.ancestors.is_meta
    assert (moved.is_causal, moved.is_plain) == (False, True)


@given(st.lists(st.lists(forests(), max_size=3), min_size=1, max_size=3), st.integers(1, 4), st.integers(0, 3))
def test_lengths_say_on_the_host_what_stands_apart(rows, size, num_more):
    """Rows of trees, each of one root and of pieces of `size` positions, and the padding behind them."""
    rows = [[[-1, *(max(above, 0) for above in parent[1:])] for parent in row] for row in rows]
    widest = max(1, max(size * sum(map(len, row)) for row in rows)) + num_more
    piece, parents, expected = [], [], []
    for row in rows:
        laid = []
        for parent in row:
            first = len(parents)
            parents += [above if above < 0 else first + above for above in parent]
            laid += [one for one in range(first, len(parents)) for _ in range(size)]
            expected.append(size * len(parent))
        expected += [widest - len(laid)] if len(laid) < widest else []
        piece.append(laid + [-1] * (widest - len(laid)))
    visibility = visibility_of(torch.tensor(piece), torch.tensor(parents or [-1]))
    assert visibility.lengths == tuple(expected)
    assert visibility.to("meta").lengths == visibility.lengths


def test_what_is_scattered_over_its_row_has_no_lengths():
    assert visibility_of(torch.tensor([[0, 1, 0]])).lengths is None
    assert visibility_of(torch.tensor([[0, 2, 1]]), torch.tensor([-1, 0, -1])).lengths is None
    assert visibility_of(torch.tensor([[0, 2, 1]]), torch.tensor([-1, 0, 0])).lengths == (3,)
