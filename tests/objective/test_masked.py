from dataclasses import replace

import pytest
import torch
from hypothesis import given, strategies as st

from tests.examples import packed_of
from tests.objective.layouts import BEGINS_WORD, SPECIAL, SYMBOLS, VOCABULARY, WIDTHS, layouts, written_out
from tests.oracles import factorization as oracle
from thetahat.core.errors import ModelError
from thetahat.objective.config import Masked, ObjectiveConfig
from thetahat.objective.masked import draw_masked, masked, pseudo

RATES = st.sampled_from([0.15, 0.3, 0.5, 0.9])
UNITS = ["token", "word", "span"]
CHOICES = st.builds(
    Masked,
    rate=RATES,
    unit=st.sampled_from(UNITS),
    replace=st.sampled_from(["mask", "80-10-10"]),
    mean_span=st.sampled_from([1.0, 2.5, 10.0]),
)
MASKABLE = layouts(prompts_weigh=True, longest=16)


def drawn_by_the_oracle(piece, choice):
    return oracle.chosen(piece, choice.rate, choice.unit, choice.mean_span, VOCABULARY)


def by_piece(packed, chosen):
    """The chosen places of each piece."""
    return [chosen[packed.piece == p].nonzero()[:, 0].tolist() for p in range(len(packed.row))]


def long_piece(length, seed, num_pieces=1, rows=None):
    """Pieces of text tokens only, all of which count."""
    draw = torch.Generator().manual_seed(seed)
    tokens = torch.randint(6, 23, (num_pieces, length), generator=draw).tolist()
    return packed_of(
        tokens, [[1.0] * (length - 1)] * num_pieces, rows, seeds=[seed * 1000 + i for i in range(num_pieces)]
    )


@given(MASKABLE, CHOICES, WIDTHS)
def test_a_masked_batch_is_what_the_definition_says(layout, choice, width):
    chosen = [drawn_by_the_oracle(piece, choice) for piece in layout.pieces]
    read = [
        oracle.replaced(piece, one, choice.replace, VOCABULARY)
        for piece, one in zip(layout.pieces, chosen, strict=True)
    ]
    batch = masked(layout.packed, layout.objective, choice, SYMBOLS, width)
    assert written_out(batch) == oracle.masked(layout.pieces, chosen, read)


@given(MASKABLE, CHOICES)
def test_what_may_not_be_masked_is_not_and_of_the_rest_as_much_as_the_rate_says(layout, choice):
    for piece, chosen in zip(
        layout.pieces, by_piece(layout.packed, draw_masked(layout.packed, choice, SYMBOLS)), strict=True
    ):
        assert not any(piece.tokens[k] in SPECIAL or piece.is_prompt[k] or piece.weight[k] == 0 for k in chosen)
        free = sum(oracle.maskable(piece, VOCABULARY))
        wanted = max(1, round(choice.rate * free)) if free else 0
        if choice.unit == "token":
            assert len(chosen) == wanted
        else:
            assert min(wanted, free) <= len(chosen) <= free


def test_the_number_of_masked_tokens_is_rounded_in_double_precision():
    lengths = range(1, 101)
    packed = packed_of([[6] * (n + 1) for n in lengths], [[1.0] * n for n in lengths])
    for percent in range(1, 100):
        chosen = draw_masked(packed, Masked(rate=percent / 100), SYMBOLS)
        found = torch.bincount(packed.piece[chosen], minlength=100).tolist()
        assert found == [max(1, round(percent / 100 * n)) for n in lengths]


@given(MASKABLE, RATES)
def test_words_are_masked_whole(layout, rate):
    for piece, chosen in zip(
        layout.pieces,
        by_piece(layout.packed, draw_masked(layout.packed, Masked(rate=rate, unit="word"), SYMBOLS)),
        strict=True,
    ):
        free = oracle.maskable(piece, VOCABULARY)
        for k in range(1, len(piece.tokens)):
            if free[k - 1] and free[k] and piece.tokens[k] not in BEGINS_WORD:
                assert (k in chosen) == (k - 1 in chosen)


def test_spans_are_contiguous_and_of_the_mean_length():
    """Of the runs of a piece whose mean span is 1 none is longer than chance makes it; of one of 10, they are."""
    packed = long_piece(20001, seed=3)
    for mean in (1.0, 4.0, 10.0):
        chosen = draw_masked(packed, Masked(rate=0.1, unit="span", mean_span=mean), SYMBOLS)
        runs = int((chosen[1:] & ~chosen[:-1]).sum())
        # a span is followed at once by another with probability 0.1, and then they are one run
        assert 2000 <= int(chosen.sum()) < 2000 + 20 * mean
        assert abs(int(chosen.sum()) / runs / (mean / 0.9) - 1) < 0.15


def test_eight_of_ten_are_masked_one_is_any_token_and_one_is_itself():
    packed = long_piece(40001, seed=5)
    batch = masked(packed, ObjectiveConfig(), Masked(rate=0.5, replace="80-10-10"), SYMBOLS)
    asked = batch.weights[0] != 0
    read, wanted = batch.inputs.tokens[0][asked], batch.targets[0][asked]
    assert torch.equal(batch.inputs.tokens[0][~asked], batch.targets[0][~asked])
    is_mask, is_same = read == SYMBOLS.mask, read == wanted
    # any of 17 tokens may also be the one that stood there
    for found, share in ((is_mask, 0.8), (is_same, 0.1 + 0.1 / 17), (~is_mask & ~is_same, 0.1 - 0.1 / 17)):
        assert abs(float(found.double().mean()) - share) < 4 * (share * (1 - share) / 20000) ** 0.5
    others = torch.bincount(read[~is_mask & ~is_same], minlength=24)
    assert not others[:6].any()
    assert not others[23]
    assert ((others[6:23] - others.sum() / 17).abs() < 4 * (others.sum() / 17) ** 0.5).all()


@pytest.mark.parametrize("unit", UNITS)
def test_the_masks_of_a_piece_are_the_same_alone_and_with_others_and_others_for_another_seed(unit):
    choice = Masked(unit=unit, replace="80-10-10")
    together = long_piece(40, seed=2, num_pieces=5, rows=[0, 0, 1, 1, 1])
    batch = masked(together, ObjectiveConfig(), choice, SYMBOLS)
    read = {place: entry.token for place, entry in written_out(batch).items()}
    for p in range(5):
        tokens = together.tokens[together.piece == p].tolist()
        alone = packed_of([tokens], [[1.0] * 39], seeds=[int(together.seed[p])])
        found = masked(alone, ObjectiveConfig(), choice, SYMBOLS).inputs.tokens[0]
        assert found.tolist() == [read[p, k] for k in range(40)]
        reseeded = masked(replace(alone, seed=alone.seed + 1), ObjectiveConfig(), choice, SYMBOLS).inputs.tokens[0]
        assert not torch.equal(found, reseeded)


@given(MASKABLE, st.integers(0, 20), WIDTHS)
def test_pseudo_asks_each_token_once_and_never_reads_it(layout, num_passes, width):
    found = {}
    batches = list(pseudo(layout.packed, layout.objective, SYMBOLS, num_passes, width))
    for batch in batches:
        for place, entry in written_out(batch).items():
            piece = layout.pieces[place[0]]
            if entry.question is None:
                assert entry.token == piece.tokens[place[1]]
            else:
                assert entry.token == SYMBOLS.mask
                assert place not in found
                found[place] = entry.question
    expected = {
        (p, k): oracle.Question(piece.tokens[k], piece.weight[k], piece.part[k], piece.place + k)
        for p, piece in enumerate(layout.pieces)
        for k, free in enumerate(oracle.maskable(piece, VOCABULARY))
        if free
    }
    assert found == expected
    longest = max(sum(oracle.maskable(piece, VOCABULARY)) for piece in layout.pieces)
    assert len(batches) == min(num_passes or longest, longest)


def test_without_an_end_of_passes_only_one_token_of_a_piece_is_masked_at_a_time():
    for batch in pseudo(long_piece(8, seed=1, num_pieces=2, rows=[0, 0]), ObjectiveConfig(), SYMBOLS, 0):
        assert torch.bincount(batch.inputs.visibility.piece[batch.weights != 0]).tolist() == [1, 1]


def test_a_vocabulary_without_a_mask_is_refused():
    maskless = replace(SYMBOLS, special={})
    with pytest.raises(ModelError, match=r"no <\|mask\|>"):
        masked(long_piece(4, seed=0), ObjectiveConfig(), Masked(), maskless)
    with pytest.raises(ModelError, match=r"no <\|mask\|>"):
        next(pseudo(long_piece(4, seed=0), ObjectiveConfig(), maskless, 0))
