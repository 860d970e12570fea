"""Totals of a ledger, and what is said of their intervals."""

import pytest

from thetahat.ledger.ledger import Block, LedgerRow
from thetahat.ledger.summary import count_of, summarize


def row(number, num_tokens=7, blocks=()):
    return LedgerRow(
        id=f"r{number}",
        document=f"r{number}",
        num_tokens=num_tokens,
        num_bytes=3 * num_tokens,
        context_length=8,
        log_prob=-2.0 * num_tokens - number,
        blocks=blocks,
    )


@pytest.mark.parametrize(
    ("rows", "count", "caution"),
    [
        ([row(1, 1500), row(2, 1500)], 0, None),  # longer than a block, and their blocks are not known: no interval
        ([row(1)], 1, None),
        ([row(1), row(2)], 2, "2 blocks of 1,024 tokens"),
        ([row(1, 3072, tuple(Block(1024, 3072, -9.0 - each) for each in range(3)))], 3, "3 blocks of 1,024 tokens"),
        ([row(1, 40960, tuple(Block(1024, 3072, -9.0 - each) for each in range(40)))], 40, None),
        ([row(number) for number in range(29)], 29, "29 blocks of 1,024 tokens"),
        ([row(number) for number in range(30)], 30, None),
    ],
)
def test_intervals_of_few_units_are_called_rough(rows, count, caution):
    found = summarize(rows)
    assert found.num_interval_units == found.to_dict()["num_interval_units"] == count
    said = f"the intervals rest on {caution}, fewer than 30: they are rough" if caution else None
    assert found.caution == said


def test_one_unit_is_singular():
    names = ("documents", "blocks of 1,024 tokens of 2 documents")
    assert [count_of(1, name) for name in names] == ["1 document", "1 block of 1,024 tokens of 2 documents"]
    assert [count_of(2000, name) for name in names] == ["2,000 documents", f"2,000 {names[1]}"]
