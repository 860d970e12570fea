"""Which context holds how much of a text, against counting it out; and what an error for one too small says."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

from thetahat.core.errors import DataError
from thetahat.core.layout import PAIR, STREAM
from thetahat.data.config import DataConfig
from thetahat.data.corpus.build import build_corpus
from thetahat.data.corpus.encode import Encoding
from thetahat.data.order.fit import fit_of, fits_of
from thetahat.data.order.stream import TrainingOrder
from thetahat.data.read.record import Record


def behind(needed, context):
    return sum(max(one - context, 0) for one in needed)


@given(st.lists(st.integers(1, 400), min_size=1, max_size=40), st.integers(1, 500))
def test_the_contexts_that_hold_all_and_nearly_all_are_the_least(needed, context):
    fit = fit_of(np.array(needed), "data.context", context)
    assert fit.behind == behind(needed, context) / sum(needed)
    assert fit.whole == max(needed)
    assert (
        behind(needed, fit.nearly) <= 0.01 * sum(needed) < max(behind(needed, fit.nearly - 1), 0.01 * sum(needed) + 1)
    )
    assert fit.nearly == 1 or behind(needed, fit.nearly - 1) > 0.01 * sum(needed)


def records(sizes, prompt=None):
    return [Record("x" * size, f"{n}", f"{n}", "s", prompt=prompt and prompt * (n + 1)) for n, size in enumerate(sizes)]


SIZES = [*range(5, 105), 300]  # characters, each a token, and an end


@pytest.mark.parametrize("policy", ["split", "truncate-right", "drop"])
def test_a_text_is_whole_at_the_context_that_is_said_and_not_below(byte_tokenizer, policy):
    corpus = build_corpus(records(SIZES), byte_tokenizer, {}, None)
    (fit,) = fits_of(corpus, DataConfig(context=50))
    needed = [size + 1 for size in SIZES]
    assert (fit.behind, fit.whole) == (behind(needed, 50) / sum(needed), 301)
    for context in (fit.whole, fit.whole - 1):
        order = TrainingOrder(corpus, DataConfig(context=context, over_long=policy), 0, 4)
        assert (order.cut.documents_cut + order.cut.documents_dropped == 0) == (context == fit.whole)
    order = TrainingOrder(corpus, DataConfig(context=fit.nearly, over_long="truncate-right"), 0, 4)
    assert order.cut.tokens_cut <= 0.01 * sum(needed)
    assert not fits_of(build_corpus(records([500]), byte_tokenizer, {}, None), DataConfig(context=50))


def test_a_context_that_is_too_small_is_refused_with_the_one_that_holds_all_and_what_would_be_cut(byte_tokenizer):
    corpus = build_corpus(records(SIZES), byte_tokenizer, {}, None)
    with pytest.raises(DataError) as refused:
        TrainingOrder(corpus, DataConfig(context=100), 0, 4)
    cure = refused.value.cure
    assert cure.startswith("data.context=301, which holds all; or data.over_long=split (or truncate-left, ")
    assert "3.7% of the text lies behind data.context=100, and at most 1% behind data.context=" in cure
    TrainingOrder(corpus, DataConfig(context=301), 0, 4)
    asking = build_corpus(records([4, 4, 4], prompt="p" * 30), byte_tokenizer, {}, None)
    with pytest.raises(
        DataError, match=r"2 of 3 records ask nothing .*\n  try: data\.context=95, which holds them whole"
    ):
        TrainingOrder(asking, DataConfig(context=50, over_long="truncate-right"), 0, 4)
    assert TrainingOrder(asking, DataConfig(context=95, over_long="truncate-right"), 0, 4).cut.tokens_cut == 0


@pytest.mark.parametrize("policy", ["truncate-left", "drop", "error"])
def test_what_an_encoder_reads_has_a_context_of_its_own(byte_tokenizer, policy):
    some = records([9, 9, 9], prompt="p" * 20)
    config = DataConfig(context=12, source_context=45, over_long=policy)
    if policy == "error":
        with pytest.raises(
            DataError, match=r"\n  try: data\.source_context=(\d+), which holds it; or data\.over"
        ) as one:
            build_corpus(some, byte_tokenizer, {}, None, Encoding(PAIR, room=config.source_room))
        needed = int(one.value.cure.partition("=")[2].partition(",")[0])
        build_corpus(some, byte_tokenizer, {}, None, Encoding(PAIR, room=needed))
        with pytest.raises(DataError):
            build_corpus(some, byte_tokenizer, {}, None, Encoding(PAIR, room=needed - 1))
        return
    corpus = build_corpus(some, byte_tokenizer, {}, None, Encoding(PAIR, room=45, over_long=policy))
    target, source = fits_of(corpus, config)
    assert (target.key, target.whole, source.key) == ("data.context", 10, "data.source_context")
    assert 60 <= source.whole <= 63
    assert source.behind > 0 == target.behind
    assert corpus.layout != STREAM
