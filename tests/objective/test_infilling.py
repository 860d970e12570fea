from dataclasses import replace

import pytest
import torch
from hypothesis import given, strategies as st

from tests.examples import packed_of
from tests.objective.layouts import END, SYMBOLS, WIDTHS, layouts, written_out
from tests.oracles import factorization as oracle
from thetahat.core.errors import ModelError
from thetahat.objective.config import INFILLING, FillInTheMiddle, ObjectiveConfig
from thetahat.objective.factorization import causal, factor
from thetahat.objective.infilling import with_middle_moved
from thetahat.objective.scoring import scored_batches

SENTINELS = (20, 21, 22)
KNOWN = replace(SYMBOLS, special=dict(zip(INFILLING, SENTINELS, strict=True)))


def objective_of(layout, rate):
    plain = layout.objective
    return ObjectiveConfig(
        factorization=FillInTheMiddle(rate=rate),
        normalization=plain.normalization,
        length_exponent=plain.length_exponent,
    )


@given(layouts(has_trees=True), st.sampled_from([0.0, 0.5, 1.0]), WIDTHS)
def test_a_batch_of_infilling_is_what_the_definition_says(layout, rate, width):
    pieces, places = oracle.infilling(layout.pieces, rate, SENTINELS, END)
    expected = {
        (p, k): entry._replace(
            question=entry.question
            and entry.question._replace(origin=places[p][entry.question.origin - pieces[p].place])
        )
        for (p, k), entry in oracle.causal(pieces).items()
    }
    assert written_out(factor(layout.packed, objective_of(layout, rate), KNOWN, width)) == expected


@given(layouts(has_prompts=False), st.sampled_from([0.3, 1.0]))
def test_every_token_is_asked_once_and_weighs_what_it_weighs_in_a_causal_text(layout, rate):
    found = factor(layout.packed, objective_of(layout, rate), KNOWN)
    plain = causal(layout.packed, layout.objective)
    for batch in (found, plain):
        assert batch.origin[batch.weights != 0].unique().numel() == (batch.weights != 0).sum()
    weights = [
        torch.zeros(len(layout.packed.tokens), dtype=torch.float64).index_put_(
            (batch.origin[batch.weights != 0],), batch.weights[batch.weights != 0]
        )
        for batch in (found, plain)
    ]
    assert torch.equal(*weights)


def test_the_share_of_texts_and_the_lengths_of_their_middles_are_the_drawn_ones():
    """Of 12 tokens with 13 places to cut: the mean of the larger less the smaller is (13² - 1) / (3 · 13) = 4.31."""
    packed = packed_of([[END, *[6] * 12, END]] * 4000, [[1.0] * 13] * 4000, seeds=[7919 * i for i in range(4000)])
    moved = with_middle_moved(packed, FillInTheMiddle(rate=0.25), KNOWN)
    size = torch.bincount(moved.piece)
    assert set(size.tolist()) == {14, 17}
    assert abs(int((size == 17).sum()) - 1000) < 4 * (4000 * 0.25 * 0.75) ** 0.5
    starts = (moved.tokens == SENTINELS[2]).nonzero()[:, 0]
    ends = (size.cumsum(0) - 1)[moved.piece[starts]]
    lengths = (ends - starts - 1).double()
    assert abs(float(lengths.mean()) - 168 / 39) < 4 * float(lengths.std()) / len(starts) ** 0.5


@given(layouts(has_trees=True))
def test_scoring_reads_every_text_from_the_left(layout):
    objective = objective_of(layout, 1.0)
    (batch,) = scored_batches(layout.packed, objective, KNOWN)
    assert written_out(batch) == written_out(causal(layout.packed))


def test_a_prompt_with_a_suffix_asks_for_the_middle_and_any_other_is_continued():
    choice, (before, suffix, middle) = FillInTheMiddle(), INFILLING
    assert choice.prompt(f"def f({suffix}): pass") == ("", before, "def f(", suffix, "): pass", middle, "")
    assert choice.prompt("def f(") == ("def f(",)


def test_a_vocabulary_without_the_sentinels_is_refused():
    with pytest.raises(ModelError, match="fim_prefix"):
        with_middle_moved(packed_of([[END, 6, END]], [[1.0] * 2]), FillInTheMiddle(), SYMBOLS)
