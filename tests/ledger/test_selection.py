"""The choice of a checkpoint: the maximum, the rule of one standard error, and both kinds of noise."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, strategies as st

from thetahat.core.errors import DataError
from thetahat.ledger.ledger import LedgerRow
from thetahat.ledger.selection import Candidate, choose, gain, halves, training_noise


def rows_of(nats, size):
    return [
        LedgerRow(
            id=f"d{i}",
            document=f"d{i}",
            num_tokens=int(n),
            num_bytes=int(n),
            context_length=8,
            log_prob=float(x),
            digest=f"{i * 2654435761 % 2**32:08x}",
        )
        for i, (x, n) in enumerate(zip(nats, size, strict=True))
    ]


def candidates_of(matrix, size, averages=()):
    return [
        Candidate(str(100 * step), 100 * step, step in averages, rows_of(row, size)) for step, row in enumerate(matrix)
    ]


@given(st.integers(2, 6), st.integers(3, 30), st.integers(0, 10**6))
def test_the_best_is_the_likeliest_and_each_is_behind_by_a_paired_ratio(num, count, seed):
    draw = np.random.default_rng(seed)
    size = draw.integers(5, 500, count)
    nats = -size * (1 + 0.1 * draw.standard_normal((num, 1)) + 0.2 * draw.standard_normal((num, count)))
    found = choose(candidates_of(nats, size))
    assert found.best == int(np.argmax([math.fsum(row) for row in nats]))
    for row, standing in zip(nats, found.standings, strict=True):
        bits = (nats[found.best] - row) / math.log(2)
        behind = math.fsum(bits) / size.sum()
        squares = sum((b - behind * t) ** 2 for b, t in zip(bits, size, strict=True))
        error = math.sqrt(count / (count - 1) * squares) / size.sum()
        assert standing.behind == pytest.approx(behind, abs=1e-12)
        assert standing.behind_error == pytest.approx(error, rel=1e-9, abs=1e-12)
        assert standing.value == pytest.approx(-math.fsum(row) / math.log(2) / size.sum())
    steps = [s.step for s in found.standings if s.behind <= s.behind_error or s.behind == 0]
    assert found.standings[found.one_error].step == min(steps)


def test_within_one_error_the_earliest_checkpoint_is_chosen_and_a_mean_of_several_never():
    size = np.full(50, 100)
    draw = np.random.default_rng(0)
    nats = np.stack([-160.0 + draw.standard_normal(50), *(-150.0 + draw.standard_normal((3, 50)))])
    nats[2:] += 0.05 - (nats[2:] - nats[1]).mean(1, keepdims=True)
    nats[2] -= 0.02  # ahead of the first by less than an error
    found = choose(candidates_of(nats, size))
    assert found.best == 3
    assert found.one_error == 1
    assert choose(candidates_of(nats, size, averages=(1, 2, 3))).one_error == 3  # only step 0 is one, and it is far off


def test_equal_likelihoods_choose_the_earliest():
    found = choose(candidates_of(np.full((3, 5), -10.0), np.full(5, 8)))
    assert (found.best, found.one_error) == (0, 0)


def test_the_noise_of_training_is_found_beside_any_trend():
    draw, steps = np.random.default_rng(0), np.arange(4000)
    curve = 3 - 0.1 * np.log1p(steps) + 0.01 * draw.standard_normal(4000)
    points = list(zip(steps.tolist(), curve.tolist(), strict=True))[100:]
    assert training_noise(points) == pytest.approx(0.01, rel=0.05)
    assert training_noise([point for point in points if point[0] % 7 in (0, 1, 5)]) == pytest.approx(0.01, rel=0.05)
    assert training_noise([(step, 2 - 0.001 * step) for step in (100, 200, 300, 310)]) == pytest.approx(0, abs=1e-12)
    assert math.isnan(training_noise([(1, 1.0), (2, 2.0)]))


def test_the_gain_is_paired():
    size = np.array([10, 20, 400, 50])
    nats = np.array([-30.0, -70.0, -900.0, -120.0])
    low, high = gain(rows_of(nats + size * 0.1, size), rows_of(nats, size))[1:]
    assert low == pytest.approx(high) == pytest.approx(0.1 / math.log(2))


def test_halves_share_no_record_and_depend_on_nothing_but_its_text():
    rows = rows_of(np.full(400, -5.0), np.full(400, 5))
    chosen, reported = halves(rows)
    assert len(chosen) + len(reported) == 400
    assert 150 < len(chosen) < 250
    assert not {row.digest for row in chosen} & {row.digest for row in reported}
    assert halves(rows[::-1])[0] == chosen[::-1]


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=30))
def test_halves_share_no_document_either(drawn):
    """Records of one id are one document, whatever their texts, and records of one text may have several ids."""
    plain = rows_of(np.full(13, -5.0), np.full(13, 5))
    rows = [replace(plain[text], id=f"r{i}", document=f"d{document}") for i, (document, text) in enumerate(drawn)]
    chosen, reported = halves(rows)
    assert sorted(row.id for row in chosen + reported) == sorted(row.id for row in rows)
    for name in ("document", "digest"):
        assert not {getattr(row, name) for row in chosen} & {getattr(row, name) for row in reported}


def test_a_candidate_that_is_not_finite_is_named():
    nats = np.array([[-1.0, -2.0], [-1.0, math.nan]])
    with pytest.raises(DataError, match="under 100 is not finite"):
        choose(candidates_of(nats, np.array([3, 4])))


def test_candidates_scored_on_other_rows_are_refused():
    first, second = candidates_of(np.full((2, 3), -1.0), np.full(3, 2))
    with pytest.raises(DataError, match="other rows"):
        choose([first, Candidate(second.name, second.step, False, second.rows[:2])])
