"""Prompts, pairs and labels: what is read, what is asked, what a policy leaves out."""

from collections import Counter
from dataclasses import replace as replace_fields

import numpy as np
import pytest
from hypothesis import given, strategies as st
from msgspec.structs import replace

from thetahat.core.errors import DataError
from thetahat.core.layout import LABEL, PAIR, STREAM, WHOLE
from thetahat.core.special import MASK
from thetahat.data.config import DataConfig
from thetahat.data.corpus.build import build_corpus
from thetahat.data.corpus.encode import Encoding
from thetahat.data.order.fit import needed_by
from thetahat.data.order.pack import lay
from thetahat.data.order.plan import gather, plan_scoring, plan_training
from thetahat.data.read.record import Record
from thetahat.objective.config import Masked, ObjectiveConfig, Prefix
from thetahat.objective.factorization import factor
from thetahat.objective.masked import maskable

END = 0
pairs_of = st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=12)
contexts = st.integers(4, 30)


def corpus_of(sizes, tokenizer, layout=STREAM, labels=()):
    records = [
        Record("c" * target, f"id{i}", f"id{i}", "s", 1.0 + i, prompt="p" * source if source else None)
        for i, (source, target) in enumerate(sizes)
    ]
    return build_corpus(records, tokenizer, {}, None, Encoding(layout, labels))


def ids_of(tokenizer, text):
    return tokenizer.encode([text])[0]


@given(pairs_of)
def test_a_completion_is_asked_with_its_end_and_its_prompt_is_not(byte_tokenizer, sizes):
    corpus = corpus_of(sizes, byte_tokenizer)
    plan, _ = plan_training(corpus, DataConfig(context=64))
    packed = gather(corpus, plan, np.arange(len(plan.pieces)))
    for piece, (source, target) in enumerate(sizes):
        mine = packed.piece == piece
        expected = [END, *ids_of(byte_tokenizer, "p" * source), *ids_of(byte_tokenizer, "c" * target), END]
        assert packed.tokens[mine].tolist() == expected
        assert packed.is_prompt[mine].tolist() == [True] * (source + 1) + [False] * (target + 1)
        assert packed.weight[mine].tolist() == [0.0] * (source + 1) + [1.0 + piece] * (target + 1)
        num_targets, parts = int(packed.part[mine][-1]), packed.parts
        counts = (int(parts.num_tokens[num_targets]), int(parts.record_tokens[num_targets]))
        assert (parts.named([num_targets])[0].name, *counts) == ("completion", target + 1, target + 1)
    assert corpus.num_tokens == sum(target + 1 for _, target in sizes)
    assert corpus.num_bytes == sum(target for _, target in sizes)


@given(pairs_of, st.integers(14, 40), st.integers(14, 40))
def test_a_pair_is_a_source_and_a_target_that_fit_in_one_row(byte_tokenizer, sizes, context, source_context):
    corpus = corpus_of(sizes, byte_tokenizer, PAIR)
    plan, report = plan_training(corpus, DataConfig(context=context, source_context=source_context))
    laid = lay(plan.pieces, context, "best-fit")
    packed = gather(corpus, plan, np.arange(len(plan.pieces)))
    assert packed.parent.tolist() == [x for i in range(len(sizes)) for x in (-1, 2 * i)]
    for pair, (source, target) in enumerate(sizes):
        assert packed.tokens[packed.piece == 2 * pair].tolist() == [END, *ids_of(byte_tokenizer, "p" * source)]
        assert packed.tokens[packed.piece == 2 * pair + 1].tolist() == [END, *ids_of(byte_tokenizer, "c" * target), END]
    assert (packed.weight[packed.is_prompt] == 0).all()
    lengths = laid.stop - laid.start
    is_source = laid.parent == 0
    assert np.bincount(laid.row[is_source], lengths[is_source]).max() <= source_context
    assert np.bincount(laid.row[~is_source], laid.positions[~is_source]).max() <= context
    assert (laid.row[is_source] == laid.row[~is_source]).all()
    assert report.num_tokens == corpus.num_tokens


@given(pairs_of, contexts, st.sampled_from(["split", "truncate-left", "truncate-right", "drop"]))
def test_every_asked_token_is_kept_once_or_counted_as_cut(byte_tokenizer, sizes, context, policy):
    corpus = corpus_of(sizes, byte_tokenizer)
    config = DataConfig(context=context, over_long=policy, unsupervised="skip")
    plan, report = plan_training(corpus, config)
    num_targets = [
        (int(span), place)
        for span, first, stop in zip(plan.pieces.span, plan.pieces.scored_from, plan.pieces.stop, strict=True)
        for place in range(first, stop)
        if place > sizes[span][0]
    ]
    assert len(set(num_targets)) == len(num_targets) == report.num_tokens == plan.kept.sum()
    assert report.num_tokens + report.tokens_cut == corpus.num_tokens
    if policy == "split":
        assert report.tokens_cut == 0


@given(pairs_of, contexts, st.sampled_from(["split", "truncate-left", "truncate-right"]), st.booleans(), st.booleans())
def test_normalisations_count_what_may_be_asked(byte_tokenizer, sizes, context, policy, is_text, is_whole):
    """Of one stream all that is kept; where all is read at once not the end, which no mask and no span ever hides."""
    corpus = corpus_of([(0 if is_text else x, y) for x, y in sizes], byte_tokenizer, WHOLE if is_whole else STREAM)
    plan, _ = plan_training(corpus, DataConfig(context=context, over_long=policy, unsupervised="skip"))
    packed = gather(corpus, plan, np.arange(len(plan.pieces)))
    may_be = maskable(packed, corpus.symbols) if is_whole else packed.weight != 0
    of_record = Counter(part.document for part in packed.parts.named(packed.part[may_be].tolist()))
    for part, number in Counter(packed.part[may_be].tolist()).items():
        (one,), parts = packed.parts.named([part]), packed.parts
        counts = [int(count[part]) for count in (parts.num_tokens, parts.record_tokens, parts.record_parts)]
        assert counts == [number, of_record[one.document], 1]
    assert plan.num_targets.sum() == may_be.sum()
    if not is_whole:
        assert plan.num_targets.tolist() == plan.kept.tolist()


def test_by_sequence_a_masked_record_weighs_the_share_of_its_text_that_is_masked(byte_tokenizer):
    sizes = [(0, n) for n in (1, 2, 5, 10, 40)]
    corpus = corpus_of(sizes, byte_tokenizer, WHOLE)
    plan, _ = plan_training(corpus, DataConfig(context=16, over_long="split"))
    objective = ObjectiveConfig(factorization=Masked(rate=0.5), normalization="sequence")
    symbols = replace_fields(corpus.symbols, special={MASK: corpus.symbols.frames.text.before[0]})
    batch = factor(gather(corpus, plan, np.arange(len(plan.pieces))), objective, symbols)
    found = np.bincount(batch.part.flatten(), batch.weights.flatten(), len(sizes))
    shares = [1, 1 / 2, 2 / 5, 1 / 2, (8 + 8 + 5) / 40]  # 15, 15 and 10 of 40 in a piece each; times 1, 2, ...
    np.testing.assert_allclose(found, [(i + 1) * share for i, share in enumerate(shares)], rtol=1e-12)


@pytest.mark.parametrize(("policy", "num_open"), [("split", [5, 0, 0]), ("truncate-left", [0])])
def test_a_piece_of_a_completion_that_lies_behind_its_prompt_is_read_causally(byte_tokenizer, policy, num_open):
    """A prompt of 4 tokens and a completion of 20, 10 a piece; beside them a text, which has no prompt."""
    corpus = corpus_of([(4, 20), (0, 9)], byte_tokenizer)
    plan, _ = plan_training(corpus, DataConfig(context=10, over_long=policy))
    packed = gather(corpus, plan, np.arange(len(plan.pieces)))
    batch = factor(packed, ObjectiveConfig(factorization=Prefix()), corpus.symbols)
    *ours, of_text = batch.inputs.visibility.is_open.sum(1).tolist()
    assert ours == num_open
    assert of_text > 0
    assert (batch.weights[:-1] != 0).sum() == plan.kept[1]


def test_a_completion_of_which_nothing_is_left_is_an_error_unless_it_may_be_skipped(byte_tokenizer):
    corpus = corpus_of([(3, 2), (9, 2)], byte_tokenizer)
    config = DataConfig(context=8, over_long="truncate-right")
    with pytest.raises(DataError, match=r"1 of 2 records ask nothing under over_long=truncate-right.*id1"):
        plan_training(corpus, config)
    plan, report = plan_training(corpus, replace(config, unsupervised="skip"))
    assert (report.num_documents, report.num_tokens, report.tokens_cut) == (1, 3, 3)
    assert plan.pieces.span.tolist() == [0]


@given(pairs_of, st.sampled_from([STREAM, PAIR, WHOLE]), st.integers(2, 9))
def test_scoring_asks_every_token_of_every_completion_once(byte_tokenizer, sizes, layout, stride):
    corpus = corpus_of(sizes, byte_tokenizer, layout)
    plan = plan_scoring(corpus, 10, stride)
    packed = gather(corpus, plan, np.arange(len(plan.pieces)))
    assert packed.weight.sum() == corpus.num_tokens == plan.kept.sum()
    assert (plan.pieces.size <= 10).all() or layout is PAIR


def test_a_label_is_an_index_behind_its_text_and_one_that_was_not_declared_is_named(byte_tokenizer):
    corpus = corpus_of([(4, 1), (2, 2)], byte_tokenizer, LABEL, ("cc", "c"))
    assert corpus.span(0)[-1] == 1
    assert corpus.span(1)[-1] == 0
    assert corpus.num_tokens == 2
    assert corpus.num_bytes == 0  # a label is a choice, and no text
    with pytest.raises(DataError, match="id0: the label 'c' is not one of those declared"):
        corpus_of([(4, 1)], byte_tokenizer, LABEL, ("x", "y"))


@given(st.lists(st.integers(1, 30), min_size=1, max_size=12), st.integers(4, 30), st.integers(1, 9))
def test_a_text_fills_the_context_and_its_label_is_kept_in_training_and_scoring(byte_tokenizer, sizes, context, stride):
    """A label is predicted at the first position and read at none, so a text may take every position there is."""
    records = [Record("x", f"id{i}", f"id{i}", "s", prompt="p" * size) for i, size in enumerate(sizes)]
    frames = byte_tokenizer.frames.text
    around = len(frames.before) + len(frames.after)
    for policy in ("truncate-right", "truncate-left"):
        corpus = build_corpus(records, byte_tokenizer, {}, None, Encoding(LABEL, ("x",), context, policy))
        config = DataConfig(context=context, over_long=policy)
        (plan, report), scoring = plan_training(corpus, config), plan_scoring(corpus, context, stride)
        for pieces in (plan.pieces, scoring.pieces):
            assert pieces.size.tolist() == [min(size + around, context) for size in sizes]
            assert (pieces.stop == corpus.lengths).all()
            assert not pieces.start.any()
        cut = sum(max(size + around - context, 0) for size in sizes)
        assert (report.num_tokens, report.tokens_cut, report.prompt_cut) == (len(sizes), 0, cut)
        assert f"{len(sizes):,} document{'s' * (len(sizes) > 1)} with {len(sizes):,} labels" in str(report)
        assert needed_by(corpus, np.arange(len(sizes))).tolist() == [min(size + around, context) for size in sizes]
    if cut:
        with pytest.raises(DataError, match=f"data.context={max(sizes) + around}, which holds"):
            build_corpus(records, byte_tokenizer, {}, None, Encoding(LABEL, ("x",), context))


def test_a_text_alone_has_nothing_for_an_encoder_to_read(byte_tokenizer):
    with pytest.raises(DataError, match="a text alone"):
        build_corpus([Record("x", "a", "a", "s")], byte_tokenizer, {}, None, Encoding(PAIR))


@pytest.mark.parametrize(
    ("policy", "kept", "prompt_cut"), [("truncate-left", [3, 3], 5), ("truncate-right", [3, 3], 5), ("drop", [3], 0)]
)
def test_a_prompt_that_an_encoder_cannot_read_is_cut_and_counted(byte_tokenizer, policy, kept, prompt_cut):
    records = [Record("cc", f"id{i}", f"id{i}", "s", prompt="p" * size) for i, size in enumerate((4, 12))]
    corpus = build_corpus(records, byte_tokenizer, {}, None, Encoding(PAIR, room=8, over_long=policy))
    plan, report = plan_training(corpus, DataConfig(context=8, over_long=policy))
    assert corpus.part_tokens[[1, 3]].tolist()[: len(kept)] == kept
    assert (report.num_documents, report.tokens_cut) == (len(kept), 6 - sum(kept))
    assert report.prompt_cut == (prompt_cut or 12)
    assert plan.kept.sum() == sum(kept)


def test_a_prompt_that_an_encoder_cannot_read_is_an_error_by_default(byte_tokenizer):
    records = [Record("cc", "id0", "id0", "s", prompt="p" * 12)]
    with pytest.raises(DataError, match=r"the prompt of id0 has 12 tokens where the encoder reads 7") as error:
        build_corpus(records, byte_tokenizer, {}, None, Encoding(PAIR, room=8))
    assert error.value.exit_code == 3
