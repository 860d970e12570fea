import numpy as np
import pytest
import torch
from hypothesis import given

from tests.examples import packed_of, parts_of
from tests.objective.layouts import layouts
from thetahat.ledger.contribution import spread
from thetahat.objective.config import ObjectiveConfig
from thetahat.objective.weights import counted_weights


@given(layouts(prompts_weigh=True))
def test_a_token_counts_for_its_weight_over_the_count_of_its_normalization(layout):
    found = counted_weights(layout.packed, layout.objective)
    assert found.dtype == torch.float64
    assert found.tolist() == [weight for piece in layout.pieces for weight in piece.weight]


# 990 records of one turn with 20 tokens, and 10 of five turns with 400 tokens each
RECORDS = [(1, 20)] * 990 + [(5, 400)] * 10


@pytest.mark.parametrize(
    ("normalization", "effective_number", "top_share"),
    [
        ("token", 39.2128, 0.50251),  # half of everything is ten records
        ("sum", 39.2128, 0.50251),
        ("length", 597.035, 0.09174),
        ("turn", 872.258, 0.04808),
        ("sequence", 1000, 0.01),
        ("dialogue", 1000, 0.01),
    ],
)
def test_on_how_many_records_an_objective_rests_under_each_normalization(normalization, effective_number, top_share):
    turns = [(r, turns, size) for r, (turns, size) in enumerate(RECORDS) for _ in range(turns)]
    parts = parts_of(
        [size for _, _, size in turns], [count * size for _, count, size in turns], [count for _, count, _ in turns]
    )
    packed = packed_of(
        [[0] * (size + 1) for turns, size in RECORDS for _ in range(turns)],
        [[1.0] * size for turns, size in RECORDS for _ in range(turns)],
        part=[[index] * (size + 1) for index, (_, _, size) in enumerate(turns)],
        parts=parts,
    )
    weights = counted_weights(packed, ObjectiveConfig(normalization=normalization))
    record = torch.tensor([record for record, _, _ in turns])[packed.part]
    of_record = torch.zeros(len(RECORDS), dtype=torch.float64).index_add_(0, record, weights)
    found = spread(of_record)
    assert found.effective_number == pytest.approx(effective_number, rel=1e-4)
    assert found.top_share == pytest.approx(top_share, rel=1e-3)


def test_every_record_and_every_turn_weighs_what_its_normalization_promises():
    parts = parts_of([2, 4, 3], [6, 6, 3], [2, 2, 1])
    packed = packed_of([[0] * 7, [0] * 4], [[1.0] * 6, [1.0] * 3], part=[[0] * 3 + [1] * 4, [2] * 4], parts=parts)
    promised = {
        "token": (2, 4, 3),
        "sum": (2, 4, 3),
        "sequence": (1 / 3, 2 / 3, 1),
        "turn": (1, 1, 1),
        "dialogue": (1 / 2, 1 / 2, 1),
        "length": (2 / 6**0.5, 4 / 6**0.5, 3**0.5),
    }
    for normalization, expected in promised.items():
        weights = counted_weights(packed, ObjectiveConfig(normalization=normalization))
        found = torch.zeros(3, dtype=torch.float64).index_add_(0, packed.part, weights)
        np.testing.assert_allclose(found, expected, rtol=1e-14)
