"""The blocks and the relation that the GPU's kernels are given, and what torch's plain arithmetic makes of them."""

import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch._higher_order_ops.flex_attention import flex_attention as plain_flex_attention
from torch.nn.attention.flex_attention import create_block_mask
from torch.nn.functional import scaled_dot_product_attention

from thetahat.core.visibility import Visibility, ancestors_of, visibility_of
from thetahat.model.attention import flex
from thetahat.model.attention.choice import runs_of
from thetahat.model.attention.flex import attend_in_blocks, blocks_of, obstacle, relation
from thetahat.model.attention.kernels import attend_apart
from thetahat.model.precision import product_dtype

CUDA = torch.device("cuda")


@st.composite
def visibilities(draw, max_positions=23):
    """Trees and separate pieces, in order of their rows or in any, with padding, prefixes, windows, both ways."""
    parent = [draw(st.integers(-1, child - 1)) for child in range(draw(st.integers(1, 6)))]
    if draw(st.booleans()):
        parent = [-1] * len(parent)
    rows, positions = draw(st.integers(1, 3)), draw(st.integers(1, max_positions))
    source = np.random.default_rng(draw(st.integers(0, 2**31)))
    piece = source.integers(-1, len(parent), size=(rows, positions))
    if draw(st.booleans()):
        piece.sort(axis=1)
        piece = np.roll(piece, -(piece < 0).sum(axis=1).max(), axis=1)  # padding mostly at the end
    is_open = torch.from_numpy(source.random((rows, positions)) < 0.4) if draw(st.booleans()) else None
    window = draw(st.sampled_from([None, 1, 4])), torch.from_numpy(positions_of(piece, parent)), 0, draw(globals_)
    return partial(laid_out, torch.from_numpy(piece), torch.tensor(parent), is_open, draw(st.booleans()), window)


def positions_of(piece, parent):
    """Of each place of a row, how much of its path stands before it: of its piece, and of those that it continues."""
    found = np.zeros_like(piece)
    for row, place in np.ndindex(*piece.shape):
        above, name = (piece[row, :place] == piece[row, place]).sum(), parent[piece[row, place]]
        while piece[row, place] >= 0 and name >= 0:
            above, name = above + (piece[row] == name).sum(), parent[name]
        found[row, place] = above
    return found


def laid_out(piece, parent, is_open, is_causal, window=(None, None)):
    """Made in the test: what checks types draws at random which items it looks at, which a strategy must not."""
    visibility = replace(visibility_of(piece, parent, is_causal=is_causal), is_open=is_open)
    return visibility if window[0] is None else visibility.within(*window)


globals_ = st.sampled_from([0, 0, 1, 3])  # positions of each text that a window never hides


@given(visibilities())
def test_the_relation_is_the_mask_at_every_place(made):
    visibility = made()
    rows, positions = visibility.piece.shape
    row, query, key = torch.meshgrid(*map(torch.arange, (rows, positions, positions)), indexing="ij")
    assert torch.equal(relation(visibility)(row, torch.tensor(0), query, key), visibility.mask())


@given(visibilities(), st.integers(0, 99))
def test_what_stands_apart_is_read_apart_as_under_the_mask(made, seed):
    visibility = made()
    if visibility.lengths is None:  # in any order, something is scattered over its row
        return
    runs = runs_of(visibility, visibility.lengths)
    assert sum(run.number * run.length for run in runs) == visibility.piece.numel()
    q, k, v = drawn(visibility, 4, 2, 8, torch.float64, seed)
    found = attend_apart(runs)(q, k, v)
    expected = scaled_dot_product_attention(q, k, v, attn_mask=visibility.mask()[:, None], enable_gqa=True)
    is_text = (visibility.piece >= 0)[:, None, :, None].expand_as(found)
    torch.testing.assert_close(found[is_text], expected[is_text], rtol=1e-12, atol=1e-13)


@st.composite
def rows_of_trees(draw):
    """Trees one after the other, as data is laid out, in rows that are padded at their end."""
    piece, parent, num_trees = [], [], 0
    for _ in range(draw(st.integers(1, 2))):
        row = []
        for _ in range(draw(st.integers(1, 3))):
            first, num_trees = len(parent), num_trees + 1
            for child in range(draw(st.integers(1, 4))):
                parent.append(draw(st.integers(first, first + child - 1)) if child else -1)
                row += [len(parent) - 1] * draw(st.integers(1, 6))
        piece.append(row)
    widest = max(map(len, piece)) + draw(st.integers(0, 2))
    laid = torch.tensor([row + [-1] * (widest - len(row)) for row in piece])
    is_open = torch.rand(laid.shape, generator=torch.Generator().manual_seed(len(parent))) < 0.3
    made = partial(laid_out, laid, torch.tensor(parent), is_open if draw(st.booleans()) else None, is_causal=True)
    return made, num_trees + int((laid[:, -1] < 0).sum())


@given(rows_of_trees(), st.integers(0, 99))
def test_trees_are_runs_of_their_own_with_gradients_as_under_the_mask(drawn_rows, seed):
    made, num_runs = drawn_rows
    visibility = made()
    runs = runs_of(visibility, visibility.lengths)
    assert sum(run.number for run in runs) == num_runs
    q, k, v = (x.requires_grad_() for x in drawn(visibility, 4, 2, 8, torch.float64, seed))
    ours = attend_apart(runs)(q, k, v)
    theirs = scaled_dot_product_attention(q, k, v, attn_mask=visibility.mask()[:, None], enable_gqa=True)
    pull = torch.randn_like(ours) * (visibility.piece >= 0)[:, None, :, None]
    for a, b in zip(*(torch.autograd.grad(x, (q, k, v), pull) for x in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


@given(visibilities(), st.sampled_from([1, 3, 4, 8]), st.sampled_from([1, 40, 2**26]))
def test_no_visible_block_is_left_out_and_whole_blocks_are_whole(made, size, cells):
    visibility = made()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flex, "CELLS", cells)  # some rows of the matrix at a time, or all
        found = blocks_of(visibility, size)
    rows, positions = visibility.piece.shape
    count = -(-positions // size)
    padded = torch.zeros(rows, count * size, count * size, dtype=torch.bool)
    padded[:, :positions, :positions] = visibility.mask()
    tiles = padded.view(rows, count, size, count, size).transpose(2, 3).flatten(3)
    partly, whole = tiles.any(-1) & ~tiles.all(-1), tiles.all(-1)
    by_query = {"kv": partly, "full_kv": whole}
    by_key = {"q": partly.transpose(1, 2), "full_q": whole.transpose(1, 2)}
    for name, expected in (by_query | by_key).items():
        numbers, places = (getattr(found, f"{name}_{what}") for what in ("num_blocks", "indices"))
        listed = torch.zeros_like(expected)
        for row, line in np.ndindex(rows, count):
            listed[row, line, places[row, 0, line, : numbers[row, 0, line]].long()] = True
        assert torch.equal(listed, expected), name
    assert found.shape[-2:] == (positions, positions)


@given(visibilities())
@settings(max_examples=10)
def test_the_blocks_are_those_that_torch_finds(made):
    visibility = made()
    rows, positions = visibility.piece.shape
    ours = blocks_of(visibility, 4)
    theirs = create_block_mask(relation(visibility), rows, None, positions, positions, device="cpu", BLOCK_SIZE=4)
    for name in ("kv_num_blocks", "kv_indices", "full_kv_num_blocks", "full_kv_indices", "q_indices", "full_q_indices"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name)), name


def plain_attention(q, k, v, blocks):
    """What the kernels compute, with a gradient also on the CPU, where the public function refuses to give one."""
    options = {"OUTPUT_LOGSUMEXP": True, "OUTPUT_MAX": False}
    scale = q.shape[-1] ** -0.5
    return plain_flex_attention(q, k, v, lambda score, *_: score, blocks.as_tuple(), scale, options, (), ())[0]


def drawn(visibility, num_heads, num_kv_heads, width, dtype=torch.float64, seed=0):
    rows, positions = visibility.piece.shape
    draw = torch.Generator().manual_seed(seed)
    shapes = [(rows, heads, positions, width) for heads in (num_heads, num_kv_heads, num_kv_heads)]
    return [torch.randn(shape, generator=draw, dtype=dtype) for shape in shapes]


@given(visibilities(), st.sampled_from([1, 2, 4]))
@settings(max_examples=10)
def test_attention_and_its_gradient_are_those_under_the_mask(made, num_kv_heads):
    visibility = made()
    leaves = [x.requires_grad_() for x in drawn(visibility, 4, num_kv_heads, 6)]
    found = plain_attention(*leaves, blocks_of(visibility))
    expected = scaled_dot_product_attention(*leaves, attn_mask=visibility.mask()[:, None], enable_gqa=True)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)
    assert bool(expected.isfinite().all())  # no softmax is empty: what is padding sees padding
    along = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    gradients = [torch.autograd.grad((way * along).sum(), leaves) for way in (found, expected)]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)


def dialogue(seed, positions, num_rows=2, num_pieces=9):
    """Trees in rows, of another shape for every seed."""
    source = np.random.default_rng(seed)
    parent = [-1] + [int(source.integers(-1, child)) for child in range(1, num_pieces)]
    piece = np.sort(source.integers(0, num_pieces, size=(num_rows, positions)), axis=1)
    piece[0, positions - 20 :] = -1
    return Visibility(torch.from_numpy(piece), ancestors_of(torch.tensor([*parent[:-1], 0])))


@torch.no_grad()
def test_other_trees_compile_nothing_again():
    """The compiler reads the code as it does inside a compiled block; its graphs are run as they are."""
    graphs = []

    def count(graph, _):
        graphs.append(graph)
        return graph

    torch.compiler.reset()
    run = torch.compile(lambda attend, *qkv: attend(*qkv), backend=count, fullgraph=True)
    for seed, num_pieces in enumerate([9, 5, 12, 30, 7]):
        visibility = dialogue(seed, 300, num_pieces=num_pieces)
        qkv = drawn(visibility, 4, 2, 16)
        expected = scaled_dot_product_attention(*qkv, attn_mask=visibility.mask()[:, None], enable_gqa=True)
        torch.testing.assert_close(run(attend_in_blocks(visibility), *qkv), expected, rtol=1e-12, atol=1e-13)
    assert len(graphs) == 1


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles for the CPU with g++")
@pytest.mark.filterwarnings("ignore")  # the compiler has many
@torch.no_grad()
def test_a_compiled_kernel_reads_just_what_is_visible():
    """The CPU's, which has no backward pass and one shape: it leaves out the blocks that the GPU's leaves out."""
    torch.compiler.reset()
    run = torch.compile(lambda attend, *qkv: attend(*qkv), fullgraph=True)
    for seed in range(3):
        visibility = dialogue(seed, 300)
        qkv = drawn(visibility, 4, 2, 16, torch.float32)
        expected = scaled_dot_product_attention(*qkv, attn_mask=visibility.mask()[:, None], enable_gqa=True)
        torch.testing.assert_close(run(attend_in_blocks(visibility), *qkv), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("reason", "device", "dtype", "head_width", "num_positions"),
    [
        ("cpu: only on CUDA", torch.device("cpu"), torch.float32, 64, 1024),
        ("float64: the kernels add in float32", CUDA, torch.float64, 64, 1024),
        ("heads of width 8: ", CUDA, torch.bfloat16, 8, 1024),
        ("rows of 128 positions: one block", CUDA, torch.bfloat16, 64, 128),
    ],
)
def test_what_the_kernels_cannot_do_is_said(reason, device, dtype, head_width, num_positions):
    assert reason in obstacle(device, dtype, head_width, num_positions)


@pytest.mark.parametrize(
    ("dtype", "inside"), [("float32", "bfloat16"), ("bfloat16", "bfloat16"), ("float64", "float64")]
)
def test_the_dtype_of_a_product_is_the_one_that_autocast_gives_it(dtype, inside):
    x = torch.ones(2, 2, dtype=getattr(torch, dtype))
    assert product_dtype(x) == (x @ x).dtype == x.dtype
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert product_dtype(x) == (x @ x).dtype == getattr(torch, inside)
