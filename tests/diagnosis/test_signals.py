"""What is measured of a step is what its definition says, however the batch was cut."""

from dataclasses import replace as with_fields

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from tests.diagnosis.faults import SHAPE, packed
from tests.examples import run_config, state_of
from thetahat.diagnosis.signals.regions import VECTORS, joined_norms, regions_of
from thetahat.diagnosis.signals.seen import worst_of
from thetahat.diagnosis.signals.sequences import FULL, LEAST_TARGETS, NUM_VALUES, WORST, summary, sums_of
from thetahat.objective.factorization import causal
from thetahat.objective.log_prob import Told
from thetahat.optimization.clip import clip_and_measure

CPU = torch.device("cpu")


def told_of(batch, draw, excess=None):
    """Log-probabilities of every position, at random; pieces of `excess` cost so much more."""
    size = batch.targets.shape
    log_prob = -torch.rand(size, generator=draw)
    for piece, more in (excess or {}).items():
        log_prob = torch.where(batch.inputs.visibility.piece == piece, log_prob - more, log_prob)
    told = Told(log_prob.flatten(), torch.rand(size, generator=draw).flatten(), torch.zeros(size.numel()).bool())
    if batch.supervised is None:
        return told
    return Told(*(values[batch.supervised] for values in told))


def slowly(batch, told):
    """Targets, nats and log-normalizers of each piece, position by position."""
    where = range(batch.targets.numel()) if batch.supervised is None else batch.supervised.tolist()
    found = {}
    for place, log_prob, log_z in zip(where, told.log_prob.tolist(), told.log_normalizer.tolist(), strict=True):
        if batch.weights.flatten()[place] != 0:
            one = found.setdefault(int(batch.inputs.visibility.piece.flatten()[place]), [0, 0.0, 0.0])
            one[0], one[1], one[2] = one[0] + 1, one[1] - log_prob, one[2] + log_z
    return found


@given(seed=st.integers(0, 10_000), is_sparse=st.booleans())
def test_the_sums_of_a_piece_are_those_of_its_targets(seed, is_sparse):
    draw = torch.Generator().manual_seed(seed)
    batch = causal(packed(rows=(0, 0, 0, 1, 1)))
    weights = batch.weights * (torch.rand(batch.weights.shape, generator=draw) < 0.7)
    supervised = (weights != 0).flatten().nonzero()[:, 0] if is_sparse else None
    batch = with_fields(batch, weights=weights, supervised=supervised)
    told = told_of(batch, draw)
    sums, expected = sums_of(batch, told, 5).T.numpy(), slowly(batch, told)
    for piece in range(5):
        assert sums[piece] == pytest.approx(expected.get(piece, [0, 0, 0]), rel=1e-6)


def test_the_summary_names_the_worst_and_counts_all():
    draw = torch.Generator().manual_seed(1)
    batches = [causal(packed(rows=(0, 0, 0, 1, 1))) for _ in range(2)]
    told = [told_of(batches[0], draw, {3: 2.0}), told_of(batches[1], draw, {1: 5.0, 4: 3.0})]
    sums = [sums_of(batch, one, 5) for batch, one in zip(batches, told, strict=True)]
    found = summary(sums, CPU)
    each = np.concatenate([one.numpy() for one in sums], 1)
    assert found[:3].tolist() == pytest.approx(each.sum(1).tolist(), rel=1e-12)
    means = [nats / count for count, nats, _ in each.T if count >= LEAST_TARGETS]
    assert found[3] == pytest.approx(sorted(means)[(len(means) - 1) // 2], rel=1e-12)
    worst = worst_of([found.tolist()])
    counted = [place for place in range(10) if each[0, place] >= LEAST_TARGETS]
    excess = {
        place: (each[1, place] / each[0, place] - float(found[3])) * min(each[0, place] / FULL, 1) ** 0.5
        for place in counted
    }
    expected = sorted(counted, key=lambda place: -excess[place])[:WORST]
    assert expected[0] in (6, 9, 3)
    assert [one.piece for one in worst] == expected
    assert [one.excess for one in worst] == pytest.approx([excess[place] for place in expected], rel=1e-9)
    assert [one.nats for one in worst] == pytest.approx([each[1, place] / each[0, place] for place in expected])


def test_short_sequences_and_missing_ones_are_no_worst():
    sums = torch.tensor([[3.0, 40.0], [30.0, 40.0], [0.0, 0.0]], dtype=torch.float64)
    (only,) = worst_of([summary([sums], CPU).tolist()])
    assert (only.piece, only.num_tokens, only.excess) == (1, 40, 0.0)
    empty = summary([], CPU).tolist()
    assert worst_of([empty]) == []
    assert len(empty) == NUM_VALUES


def test_the_worst_of_several_ranks_are_told_with_their_ranks():
    sums = [torch.tensor([[20.0] * 4, [20.0, 20.0, 20.0, top], [0.0] * 4], dtype=torch.float64) for top in (40.0, 90.0)]
    found = worst_of([summary([one], CPU).tolist() for one in sums])
    assert [(one.rank, one.piece) for one in found[:2]] == [(1, 3), (0, 3)]
    assert len(found) == WORST


def test_norms_of_regions_join_to_the_norm_of_the_gradient():
    state = state_of(run_config(SHAPE), 61)
    draw = torch.Generator().manual_seed(0)
    named = dict(state.model.named_parameters())
    named["embedding.weight"].requires_grad_(False)
    for parameter in named.values():
        if parameter.requires_grad:
            parameter.grad = torch.randn(parameter.shape, generator=draw, dtype=parameter.dtype)
    regions = regions_of(state.model)
    parameters = list(named.values())
    gradient = clip_and_measure(parameters, None)
    holders = [place for place, parameter in enumerate(parameters) if parameter.grad is not None]
    found = joined_norms(gradient.norms, regions.index(CPU)[holders], len(regions.names))
    assert float(found.square().sum().sqrt()) == pytest.approx(float(gradient.norm), rel=1e-12)
    by_name = dict(zip(regions.names, found.tolist(), strict=True))
    mlp = [one.grad.square().sum() for name, one in named.items() if name.startswith("blocks.1.mlp.")]
    assert by_name["blocks.1.mlp"] == pytest.approx(float(sum(mlp)) ** 0.5, rel=1e-12)
    vectors = [one.grad.square().sum() for one in named.values() if one.ndim == 1]
    assert by_name[VECTORS] == pytest.approx(float(sum(vectors)) ** 0.5, rel=1e-12)
    assert "embedding" not in by_name
    assert regions.blocks == [
        ("blocks.0.attention", "blocks.0.mlp"),
        ("blocks.1.attention", "blocks.1.mlp"),
    ]
