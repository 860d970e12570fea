"""A likelihood taken apart: the parts add up, and each is what a loop over its tokens says."""

import json
import math
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, strategies as st

from thetahat.core.plain import as_json
from thetahat.ledger.breakdown import by_position, by_row, groups_of, position_cells
from thetahat.ledger.ledger import LedgerRow
from thetahat.statistics.interval import bits_per_byte_interval

counts = st.integers(1, 2000)
ROWS = st.lists(
    st.tuples(
        st.integers(0, 60), st.sampled_from(["a", "b", "c"]), st.sampled_from(["turn-1", "turn-2", "turn-10"]), counts
    ),
    min_size=1,
    max_size=80,
)


def rows_of(drawn):
    draw = random.Random(0)
    return [
        LedgerRow(
            id=f"r{i}",
            document=f"d{document}",
            source=source,
            part=part,
            role="assistant",
            num_tokens=size,
            num_bytes=3 * size,
            context_length=8,
            log_prob=-2.5 * size + draw.gauss(0, size**0.5),
        )
        for i, (document, source, part, size) in enumerate(drawn)
    ]


@given(ROWS)
def test_groups_add_up_to_the_whole_and_each_is_a_plain_sum(drawn):
    rows = rows_of(drawn)
    found = by_row(rows)
    assert "role" not in found  # all have the same
    for name, groups in found.items():
        assert sum(group.num_tokens for group in groups) == sum(row.num_tokens for row in rows)
        assert math.fsum(g.log_likelihood for g in groups) == pytest.approx(math.fsum(r.log_prob for r in rows))
        if name in {"source", "part"}:
            for group in groups:
                mine = [row for row in rows if getattr(row, name) == group.name]
                assert group.log_likelihood == pytest.approx(math.fsum(row.log_prob for row in mine), rel=1e-15)
                assert group.num_documents == len({row.document for row in mine})
                assert group.bits_per_byte == pytest.approx(
                    -group.log_likelihood / math.log(2) / sum(row.num_bytes for row in mine)
                )


@given(ROWS, st.randoms())
def test_the_order_of_the_rows_changes_no_bit_of_a_group(drawn, order):
    rows = rows_of(drawn)
    shuffled = list(rows)
    order.shuffle(shuffled)
    assert by_row(shuffled) == by_row(rows)


@given(ROWS)
def test_documents_of_one_length_share_a_bucket_and_longer_ones_come_later(drawn):
    rows = rows_of(drawn)
    lengths: dict[str, int] = {}
    for row in rows:
        lengths[row.document] = lengths.get(row.document, 0) + row.num_tokens
    left = sorted(lengths.values())
    for group in by_row(rows).get("length", []):
        ends = [int(word.replace(",", "")) for word in group.name.split() if word[0].isdigit()]
        mine, left = left[: group.num_documents], left[group.num_documents :]
        assert (min(mine), max(mine)) == (ends[0], ends[-1])
        assert not left or left[0] > max(mine)


def test_turns_stand_in_their_order_and_few_documents_have_no_interval():
    rows = rows_of([(i, "a", f"turn-{1 + i % 12}", 5) for i in range(400)])
    turns = by_row(rows)["part"]
    assert [group.name for group in turns] == [f"turn-{number}" for number in range(1, 13)]
    clustered = bits_per_byte_interval(*map(list, zip(*_by_document(rows, "turn-2"), strict=True)))
    assert turns[1].bits_per_byte_ci95 == (clustered.low, clustered.high)
    few = by_row(rows_of([(i % 29, "a", f"turn-{i % 2}", 5) for i in range(400)]))["part"]
    assert [group.bits_per_byte_ci95 for group in few] == [None, None]


def _by_document(rows, part):
    sums: dict[str, list[float]] = {}
    for row in rows:
        if row.part == part:
            nats, size = sums.setdefault(row.document, [0.0, 0])
            sums[row.document] = [nats + row.log_prob, size + row.num_bytes]
    return list(sums.values())


def test_positions_are_counted_from_1_in_buckets_that_grow():
    sizes = (16, 300, 1, 17)
    rows = rows_of([(i, "a", "document", size) for i, size in enumerate(sizes)])
    nats, num_bytes = np.linspace(-3, -1, sum(sizes)), np.arange(sum(sizes))
    names = ["1 to 16 tokens", "17 to 64 tokens", "65 to 256 tokens", "257 to 1,024 tokens"]
    edges, expected, before = [0, 16, 64, 256, 1024], [], 0
    for row, size in zip(rows, sizes, strict=True):
        for name, low, high in zip(names, edges[:-1], edges[1:], strict=True):
            at = slice(before + low, before + min(high, size))
            if low < size:
                one = (name, row.document, min(high, size) - low, num_bytes[at].sum(), math.fsum(nats[at]))
                expected.append((*one, False))
        before += size
    cells = list(position_cells(rows, nats, num_bytes))
    assert cells == expected
    assert [group.name for group in by_position(rows, cells)["position"]] == names
    assert list(position_cells([], nats[:0], num_bytes[:0])) == []


def test_a_group_is_printed_as_json_even_where_it_is_not_finite():
    rows = rows_of([(i, "a" if i % 2 else "b", "document", 5) for i in range(90)])
    sick = [replace(rows[0], log_prob=math.nan), *rows[1:]]
    printed = as_json(by_row(sick)["source"])
    assert printed[1]["nats_per_token"] == "nan"
    json.dumps(printed, allow_nan=False)
    assert groups_of([]) == []
