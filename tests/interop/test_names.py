"""How tensors of theirs are joined of ours, and parted."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, strategies as st

from thetahat.core.errors import ModelError
from thetahat.interop.names import Link, entries

QKV = ("blocks.*.attention.query", "blocks.*.attention.key", "blocks.*.attention.value")


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 5), st.sampled_from(["rows", "transposed", "heads"]))
def test_what_is_joined_comes_apart_again(num_heads, head_width, width, layout):
    rows = num_heads * head_width
    names = [name.replace("*", "3") for name in QKV]
    shapes = {f"{name}.weight": (rows, width) for name in names} | {f"{name}.bias": (rows,) for name in names}
    found = entries([Link("layer.*.qkv", QKV, layout)], shapes, num_heads)
    assert [entry.theirs for entry in found] == ["layer.3.qkv.weight", "layer.3.qkv.bias"]
    for entry in found:
        ours = [torch.randn(shapes[name]) for name in entry.ours]
        joined = entry.join(ours)
        assert joined.shape == entry.shape
        assert all(torch.equal(one, other) for one, other in zip(entry.split(joined), ours, strict=True))


def test_heads_stand_one_behind_the_other_with_their_queries_keys_and_values():
    shapes = {f"{name.replace('*', '0')}.bias": (4,) for name in QKV}
    (entry,) = entries([Link("qkv", QKV, "heads")], shapes, 2)
    query, key, value = torch.arange(4), torch.arange(4) + 10, torch.arange(4) + 20
    assert entry.join([query, key, value]).tolist() == [0, 1, 10, 11, 20, 21, 2, 3, 12, 13, 22, 23]


@given(st.integers(1, 4), st.integers(1, 3), st.integers(0, 3), st.sampled_from(["rotary", "rotary_heads"]))
def test_what_is_rotated_stands_last_in_pairs_and_comes_back(num_heads, num_pairs, plain, layout):
    """Ours: the first of all pairs, the second of all, what is not rotated; theirs: what is not, and pairs."""
    number = num_heads if layout == "rotary_heads" else 1
    ours = [[("first", j) for j in range(num_pairs)] + [("second", j) for j in range(num_pairs)]] * number
    theirs = [[("plain", j) for j in range(plain)] + [(at, j) for j in range(num_pairs) for at in ("first", "second")]]
    ours = [(head, *row) for head in range(number) for row in ours[0] + [("plain", j) for j in range(plain)]]
    theirs = [(head, *row) for head in range(number) for row in theirs[0]]
    link = Link("q", "blocks.*.attention.query", layout)
    (entry,) = entries([link], {"blocks.0.attention.query.weight": (len(ours), 1)}, num_heads)
    entry = replace(entry, rotary_width=2 * num_pairs)
    numbers = torch.arange(len(ours))[:, None]
    joined = entry.join([numbers])
    assert [ours[row] for row in joined[:, 0].tolist()] == theirs
    assert torch.equal(entry.split(joined)[0], numbers)


def test_a_parameter_without_a_place_is_named():
    with pytest.raises(ModelError, match=r"blocks\.0\.mlp\.gate\.weight has no place"):
        entries([Link("up", "blocks.*.mlp.up")], {"blocks.0.mlp.gate.weight": (2, 2)}, 1)
    with pytest.raises(ModelError, match=r"qkv\.weight needs blocks\.0\.attention\.key\.weight"):
        entries([Link("qkv", QKV)], {"blocks.0.attention.query.weight": (2, 2)}, 1)


def test_a_link_holds_beside_what_it_needs_only():
    links = [Link("wi_1", "blocks.*.mlp.up"), Link("wi", "blocks.*.mlp.up", without="blocks.*.mlp.gate")]
    gate = Link("wi_0", "blocks.*.mlp.gate")
    up = {"blocks.0.mlp.up.weight": (2, 2)}
    assert [entry.theirs for entry in entries(links, up, 1)] == ["wi.weight"]
    gated = {"blocks.0.mlp.gate.weight": (2, 2), **up}
    assert [entry.theirs for entry in entries([*links, gate], gated, 1)] == ["wi_0.weight", "wi_1.weight"]
