from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, strategies as st

from tests.examples import packed_of
from tests.objective.layouts import END, SENTINELS, SIZE, SYMBOLS, VOCABULARY, WIDTHS, layouts, read_by, written_out
from tests.oracles import factorization as oracle
from thetahat.core.errors import ModelError
from thetahat.objective.config import ObjectiveConfig, Spans
from thetahat.objective.factorization import factor
from thetahat.objective.spans import with_spans_left_out

CHOICES = st.builds(Spans, rate=st.sampled_from([0.15, 0.5]), mean_span=st.sampled_from([1.5, 4.0]))
TEXTS = layouts(prompts_weigh=True, longest=8)  # of which no more than four spans can be left out


def pairs_by_the_oracle(layout, choice):
    """Each piece as its source and its target, with the weights, parts and origins of what the target says."""
    pairs = []
    for p, piece in enumerate(layout.pieces):
        chosen = oracle.chosen(piece, choice.rate, "span", choice.mean_span, VOCABULARY)
        source, target = oracle.spans(piece, chosen, VOCABULARY)
        pairs.append(oracle.Piece(source, [0.0] * len(source), [], [], 0, piece.row))
        weight = [0.0 if k is None else piece.weight[k] for _, k in target]
        part = [0 if k is None else piece.part[k] for _, k in target]
        tokens = [token for token, _ in target]
        pairs.append(oracle.Piece(tokens, weight, [], part, 0, piece.row, parent=2 * p))
    return pairs


@given(TEXTS, CHOICES, WIDTHS)
def test_a_batch_of_spans_is_what_the_definition_says(layout, choice, width):
    batch = factor(layout.packed, replace_factorization(layout.objective, choice), SYMBOLS, width)
    pairs = pairs_by_the_oracle(layout, choice)
    sources, targets = oracle.conditional(pairs)
    found = written_out(batch)
    assert read_by(batch.inputs.source.inputs) == sources
    assert without_origins(found) == without_origins(targets)
    for (p, k), entry in found.items():
        if entry.question is not None:  # it comes from the token that it weighs for
            piece = layout.pieces[p // 2]
            chosen = oracle.chosen(piece, choice.rate, "span", choice.mean_span, VOCABULARY)
            _, says = oracle.spans(piece, chosen, VOCABULARY)
            assert entry.question.origin == piece.place + says[k + 1][1]


def replace_factorization(objective, choice):
    return ObjectiveConfig(
        factorization=choice, normalization=objective.normalization, length_exponent=objective.length_exponent
    )


def without_origins(entries):
    return {
        place: entry._replace(question=entry.question and entry.question._replace(origin=0))
        for place, entry in entries.items()
    }


@st.composite
def plain_texts(draw):
    """Texts without sentinels of their own."""
    tokens = st.lists(st.integers(6, SIZE - 2), min_size=1, max_size=8)
    texts = [[END, *one, END] for one in draw(st.lists(tokens, min_size=1, max_size=4))]
    seeds = draw(st.lists(st.integers(0, 2**62), min_size=len(texts), max_size=len(texts)))
    return texts, seeds


@given(plain_texts(), CHOICES)
def test_the_spans_in_place_of_the_sentinels_give_the_text(texts, choice):
    texts, seeds = texts
    packed = packed_of(texts, [[1.0] * (len(text) - 1) for text in texts], [0] * len(texts), seeds=seeds)
    pairs = with_spans_left_out(packed, choice, SYMBOLS)
    for p, text in enumerate(texts):
        source, target = (pairs.tokens[pairs.piece == q].tolist() for q in (2 * p, 2 * p + 1))
        assert target[0] == target[-1] == END
        said = [token for token in target if token in SENTINELS]
        assert said == [token for token in source if token in SENTINELS] == list(SENTINELS[: len(said)])
        assert not any(a in SENTINELS and b in SENTINELS for a, b in pairwise(source))
        left_out, span = {}, None
        for token in target[1:-1]:
            if token in SENTINELS:
                span = left_out.setdefault(token, [])
            else:
                span.append(token)
        assert all(left_out.values())
        put_back = [token for one in source for token in left_out.get(one, [one])]
        assert put_back == text
        assert sum(map(len, left_out.values())) >= max(1, round(choice.rate * (len(text) - 2)))


def test_a_sentinel_weighs_for_the_first_token_of_its_span_and_the_end_for_the_last():
    weights = [[2.0, 3.0, 5.0, 7.0, 0.0]]
    packed = packed_of([[END, 6, 7, 8, 9, END]], weights)
    pairs = with_spans_left_out(packed, Spans(rate=0.99, mean_span=100.0), SYMBOLS)
    assert pairs.tokens.tolist() == [END, SENTINELS[0], END, END, SENTINELS[0], 6, 7, 8, 9, END]
    assert pairs.weight.tolist() == [0, 0, 0, 0, 2, 2, 3, 5, 7, 7]
    assert pairs.position.tolist() == [0, 1, 2, 0, 1, 2, 3, 4, 5, 6]
    assert pairs.is_prompt.tolist() == [True] * 3 + [False] * 7


def test_where_nothing_may_be_left_out_nothing_is_asked():
    packed = packed_of([[END, 6, 7]], [[0.0, 0.0]])
    batch = factor(packed, ObjectiveConfig(factorization=Spans()), SYMBOLS)
    assert batch.inputs.source.inputs.tokens.tolist() == [[END, 6, 7]]
    assert batch.targets.tolist() == [[END]]
    assert batch.weight() == 0


def test_a_vocabulary_without_sentinels_or_with_too_few_is_refused():
    packed = packed_of([[6] * 60], [[1.0] * 59])
    with pytest.raises(ModelError, match=r"no <\|sentinel-0\|>"):
        with_spans_left_out(packed, Spans(), replace(SYMBOLS, sentinels=()))
    with pytest.raises(ModelError, match="more than the 4 sentinels"):
        with_spans_left_out(packed, Spans(rate=0.5, mean_span=1.0), SYMBOLS)


def test_no_mask_is_needed():
    packed = packed_of([[END, 6, 7, END]], [[1.0] * 3])
    with_spans_left_out(packed, Spans(), replace(SYMBOLS, mask=None))
    assert torch.equal(packed.tokens, torch.tensor([END, 6, 7, END]))
