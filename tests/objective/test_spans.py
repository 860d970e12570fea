from collections import Counter
from dataclasses import replace
from itertools import pairwise

import msgspec
import pytest
import torch
from hypothesis import given, strategies as st

from tests.examples import packed_of, run_config
from tests.objective.layouts import (
    END,
    MASK as MASKED,
    SENTINELS,
    SIZE,
    SYMBOLS,
    VOCABULARY,
    WIDTHS,
    layouts,
    read_by,
    written_out,
)
from tests.oracles import factorization as oracle
from thetahat.core.errors import ModelError
from thetahat.core.special import MASK, Frame, Frames
from thetahat.data.config import DataConfig
from thetahat.model.config import EncoderDecoderConfig
from thetahat.objective.config import ObjectiveConfig, Spans
from thetahat.objective.factorization import factor
from thetahat.objective.spans import counts, leave_out, with_spans_left_out
from thetahat.run.prepare import special_tokens

CHOICES = st.builds(Spans, rate=st.sampled_from([0.15, 0.5]), mean_span=st.sampled_from([1.5, 4.0]))
SEEDS = st.integers(0, 2**62)
TEXTS = layouts(prompts_weigh=True, longest=8)  # of which no more than four spans can be left out


def pairs_by_the_oracle(layout, choice):
    """Each piece as its source and its target, with the weights, parts and origins of what the target says."""
    pairs = []
    for p, piece in enumerate(layout.pieces):
        chosen = oracle.left_out(piece, choice.rate, choice.mean_span, VOCABULARY)
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
            chosen = oracle.left_out(piece, choice.rate, choice.mean_span, VOCABULARY)
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
        assert (sum(map(len, left_out.values())), len(left_out)) == oracle.span_counts(
            len(text) - 2, choice.rate, choice.mean_span
        )


def test_a_sentinel_weighs_for_the_first_token_of_its_span_and_the_end_for_the_last():
    weights = [[2.0, 3.0, 5.0, 7.0, 0.0]]
    packed = packed_of([[END, 6, 7, 8, 9, END]], weights)
    pairs = with_spans_left_out(packed, Spans(rate=0.99, mean_span=100.0), SYMBOLS)
    assert pairs.tokens.tolist() == [END, 6, SENTINELS[0], END, END, SENTINELS[0], 7, 8, 9, END]
    assert pairs.weight.tolist() == [0, 0, 0, 0, 0, 3, 3, 5, 7, 7]
    assert pairs.position.tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 4, 5]
    assert pairs.is_prompt.tolist() == [True] * 4 + [False] * 6


def test_of_a_single_token_it_is_that_one_and_the_ends_around_it_are_read():
    pairs = with_spans_left_out(packed_of([[END, 6, END]], [[1.0, 1.0]]), Spans(), SYMBOLS)
    assert pairs.tokens.tolist() == [END, SENTINELS[0], END, END, SENTINELS[0], 6, END]


def test_where_nothing_may_be_left_out_nothing_is_asked():
    packed = packed_of([[END, 6, 7]], [[0.0, 0.0]])
    batch = factor(packed, ObjectiveConfig(factorization=Spans()), SYMBOLS)
    assert batch.inputs.source.inputs.tokens.tolist() == [[END, 6, 7]]
    assert batch.targets.tolist() == [[END]]
    assert batch.weight() == 0


def pieces_of(lengths, rows=None, seeds=None):
    """Pieces of END and so many tokens of text, all of which count."""
    return packed_of([[END] + [6] * n for n in lengths], [[1.0] * n for n in lengths], rows, seeds=seeds)


def left_out_of(packed, choice):
    """Of each piece, as a string of 0 (kept) and 1, without its first token."""
    drawn = leave_out(packed, choice, SYMBOLS)
    return ["".join(map(str, drawn[packed.piece == p].int().tolist()))[1:] for p in range(len(packed.row))]


@given(
    st.lists(st.integers(0, 120), min_size=1, max_size=8),
    st.floats(0.01, 0.99),
    st.floats(1.0, 20.0),
    st.integers(0, 2**62),
)
def test_exactly_so_many_tokens_are_left_out_in_exactly_so_many_spans_that_do_not_touch(lengths, rate, mean, seed):
    choice = Spans(rate=rate, mean_span=mean)
    found = left_out_of(pieces_of(lengths, seeds=[seed + p for p in range(len(lengths))]), choice)
    for n, drawn in zip(lengths, found, strict=True):
        runs = [run for run in drawn.split("0") if run]
        assert (drawn.count("1"), len(runs)) == oracle.span_counts(n, rate, mean)
        if n > 1:
            assert drawn[0] == "0"
            assert drawn[-1] == "1"


def test_the_number_of_tokens_and_of_spans_is_rounded_in_double_precision():
    for percent in range(1, 100):
        found = torch.stack(counts(torch.arange(101), Spans(rate=percent / 100, mean_span=1.1)))
        assert found.T.tolist() == [list(oracle.span_counts(n, percent / 100, 1.1)) for n in range(101)]


def test_the_mean_length_of_a_span_is_the_one_that_was_asked_for():
    for drawn in left_out_of(pieces_of([2000] * 5), Spans(rate=0.15, mean_span=3.0)):
        runs = [run for run in drawn.split("0") if run]
        assert sum(map(len, runs)) == 300 == 3 * len(runs)


def test_every_way_to_divide_what_is_kept_and_what_is_left_out_is_as_likely():
    """Six tokens kept and six left out, each in three stretches: 10 ways for the one, 10 for the other."""
    packed = pieces_of([12] * 20000, seeds=range(20000))
    drawn = leave_out(packed, Spans(rate=0.5, mean_span=2.0), SYMBOLS)
    found = Counter(map(tuple, drawn.view(20000, 13).tolist()))
    assert len(found) == 100
    chi_square = sum((count - 200) ** 2 / 200 for count in found.values())
    assert abs(chi_square - 99) < 4 * (2 * 99) ** 0.5


def test_what_is_left_out_of_a_piece_is_the_same_alone_and_with_others_and_other_for_another_seed():
    choice, lengths, seeds = Spans(rate=0.4, mean_span=2.0), [30, 7, 0, 64, 1], [5, 2**62, 9, 11, 3]
    together = left_out_of(pieces_of(lengths, [0, 0, 1, 1, 2], seeds), choice)
    assert together == [left_out_of(pieces_of([n], seeds=[s]), choice)[0] for n, s in zip(lengths, seeds, strict=True)]
    assert together == left_out_of(pieces_of(lengths[::-1], seeds=seeds[::-1]), choice)[::-1]
    assert together[0] != left_out_of(pieces_of([30], seeds=[6]), choice)[0]


def test_a_token_that_may_not_be_asked_stays_and_counts_for_no_length():
    """Special tokens, prompts and tokens of weight 0, all in the midst of what may be: 6 of 12 in 3 spans of 2."""
    tokens = [END, 6, 6, 6, 23, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, END]
    weights = [1.0] * 8 + [0.0] + [1.0] * 7
    prompts = [[j == 13 for j in range(17)]]
    for seed in range(50):
        packed = packed_of([tokens], [weights], prompts=prompts, seeds=[seed])
        drawn = leave_out(packed, Spans(rate=0.5, mean_span=2.0), SYMBOLS).tolist()
        assert not any(drawn[k] for k in (0, 4, 9, 13, 16))
        free = "".join(str(int(drawn[k])) for k in range(17) if k not in (0, 4, 9, 13, 16))
        assert (free.count("1"), sum(1 for run in free.split("0") if run)) == (6, 3)


@given(st.integers(2, 200), st.sampled_from([0.05, 0.15, 0.5, 0.9]), st.sampled_from([1.0, 3.0, 7.5]), st.data())
def test_as_many_sentinels_suffice_as_are_made_and_one_less_does_not(context, rate, mean, data):
    choice = Spans(rate=rate, mean_span=mean)
    names = choice.special_tokens(context)
    number = len(names)
    symbols = replace(SYMBOLS, special={name: 100 + i for i, name in enumerate(names)})
    shorter = data.draw(st.lists(st.integers(0, context - 1), max_size=4))
    packed = pieces_of(
        [*shorter, context - 1], seeds=data.draw(st.lists(SEEDS, min_size=len(shorter) + 1, max_size=len(shorter) + 1))
    )
    pairs = with_spans_left_out(packed, choice, symbols)
    assert set(pairs.tokens[pairs.tokens >= 100].tolist()) == set(range(100, 100 + number))
    with pytest.raises(ModelError, match=rf"no <\|sentinel-{number - 1}\|>: {number} spans"):
        with_spans_left_out(
            packed, choice, replace(symbols, special={name: symbols.special[name] for name in names[:-1]})
        )


def test_a_run_adds_exactly_the_sentinels_that_its_longest_sequence_needs():
    config = run_config(EncoderDecoderConfig(), objective=ObjectiveConfig(factorization=Spans(rate=0.15)))
    context = msgspec.structs.replace(config, data=DataConfig(context=512))
    assert special_tokens(context) == [f"<|sentinel-{number}|>" for number in range(26)]  # 77 of 511 tokens


def test_no_mask_is_needed():
    packed = packed_of([[END, 6, 7, END]], [[1.0] * 3])
    with_spans_left_out(
        packed, Spans(), replace(SYMBOLS, special={name: id for name, id in SYMBOLS.special.items() if name != MASK})
    )
    assert torch.equal(packed.tokens, torch.tensor([END, 6, 7, END]))


@given(plain_texts(), CHOICES)
def test_source_and_target_stand_in_the_frames_of_encoder_and_decoder(texts, choice):
    """As T5: nothing before a source, a start of its own before a target, and one that is given behind it."""
    texts, seeds = texts
    packed = packed_of(texts, [[1.0] * (len(text) - 1) for text in texts], [0] * len(texts), seeds=seeds)
    frames = Frames(Frame((END,), (END,)), Frame((), (END,)), Frame((MASKED, 23), (END,)))
    plain = with_spans_left_out(packed, choice, SYMBOLS)
    found = with_spans_left_out(packed, choice, replace(SYMBOLS, frames=frames))
    for index in range(len(packed.row)):
        (source, target), (theirs, says) = (
            [one.tokens[one.piece == 2 * index + side].tolist() for side in (0, 1)] for one in (found, plain)
        )
        assert source == theirs[1:]
        assert target == [MASKED, 23, *says[1:]]
        weights = found.weight[found.piece == 2 * index + 1]
        assert weights[:2].tolist() == [0, 0]
        assert (weights[2:] > 0).all()
