import itertools
import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, strategies as st

from tests.oracles import factorization as oracle
from thetahat.core.errors import DataError
from thetahat.ledger.contribution import account, deciles, lorenz, spread, top_share
from thetahat.objective.config import ObjectiveConfig

weights = st.lists(st.floats(0.01, 1e6), min_size=1, max_size=120)


@given(weights)
def test_a_spread_is_that_of_all_pairs_and_of_the_loop(drawn):
    found = spread(drawn)
    gini = sum(abs(a - b) for a, b in itertools.product(drawn, drawn)) / (2 * len(drawn) * sum(drawn))
    assert found.gini == pytest.approx(gini, rel=1e-9, abs=1e-9)
    known = oracle.concentration(drawn)
    assert (found.effective_number, found.top_share) == pytest.approx(known, rel=1e-9)
    assert found.number == len(drawn)


def test_equal_weights_spread_evenly_and_one_that_holds_everything_not_at_all():
    assert spread([3.0] * 200) == pytest.approx((200, 200, 0, 0.01))
    assert spread([0.0] * 9 + [5.0]) == pytest.approx((10, 1, 0.9, 0.1))
    for wrong in ([], [0.0], [-1.0, 2.0]):
        with pytest.raises(DataError, match="no spread"):
            spread(wrong)


@given(weights)
def test_a_lorenz_curve_lies_below_the_diagonal_and_its_area_is_gini_s(drawn):
    curve = lorenz(drawn, len(drawn) + 1)
    assert (curve[0], curve[-1]) == (0, pytest.approx(1))
    assert all(low <= high + 1e-12 for low, high in itertools.pairwise(curve))
    area = sum((low + high) / 2 for low, high in itertools.pairwise(curve)) / len(drawn)
    assert spread(drawn).gini == pytest.approx(1 - 2 * area, abs=1e-9)


@given(weights, st.floats(0, 1), st.floats(0, 1))
def test_a_larger_part_of_the_records_never_holds_a_smaller_share(drawn, one, other):
    small, large = sorted((one, other))
    assert top_share(drawn, small) + 1e-12 >= 0
    assert top_share(drawn, small) <= top_share(drawn, large) + 1e-12
    assert spread(drawn).top_share <= 1 - lorenz(drawn)[9] + 1e-12  # 1 % against a tenth


ROWS = [
    {"step": 1, "id": "a", "source": "x", "num_tokens": 4, "weight": 1.0, "log_prob": -8.0},
    {"step": 1, "id": "b", "source": "y", "num_tokens": 2, "weight": 2.0, "log_prob": -3.0},
    {"step": 2, "id": "a", "source": "x", "num_tokens": 4, "weight": 1.0, "log_prob": -6.0},
]


def test_the_account_of_a_ledger_by_hand():
    told = account(pa.Table.from_pylist(ROWS), ObjectiveConfig())
    assert (told["steps"], told["rows"]) == (2, 3)
    assert told["records"]["effective_number"] == pytest.approx(4 / (1.5**2 + 0.5**2))
    x, y = told["sources"]
    assert (x["name"], x["rows"], x["weight"], x["tokens"]) == ("x", 2, 0.75, 0.8)
    assert y["nats"] == pytest.approx(0.75 / (1.0 + 0.75 + 1.5))
    assert [group["name"] for group in told["lengths"]] == ["4 tokens", "2 tokens"]
    summed = account(pa.Table.from_pylist(ROWS), ObjectiveConfig(normalization="sum"))
    assert summed["sources"][0]["weight"] == pytest.approx(8 / 12)
    json.dumps(told, allow_nan=False)
    with pytest.raises(DataError, match="has no rows"):
        account(pa.Table.from_pylist(ROWS).slice(0, 0), ObjectiveConfig())


@given(st.lists(st.integers(1, 40), min_size=1, max_size=200))
def test_deciles_keep_the_order_of_lengths_and_equal_lengths_together(lengths):
    names = deciles(lengths)
    ends = {name: [int(edge.replace(",", "")) for edge in name.removesuffix(" tokens").split(" to ")] for name in names}
    assert all(ends[name][0] <= length <= ends[name][-1] for name, length in zip(names, lengths, strict=True))
    assert len(set(zip(lengths, names, strict=True))) == len(set(lengths))
    assert len(ends) <= 10
    ordered = sorted(ends.values())
    assert all(low[-1] < high[0] for low, high in itertools.pairwise(ordered))


def test_accounts_need_no_torch():
    code = "import sys, thetahat.ledger.contribution, thetahat.ledger.run_ledger; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert np.isfinite(spread([1.0]).gini)
