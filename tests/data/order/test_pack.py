import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from tests.oracles import packing as oracle
from thetahat.core.errors import ConfigError, DataError
from thetahat.data.config import DataConfig
from thetahat.data.corpus.build import build_corpus
from thetahat.data.order.pack import best_fit, cut, lay, windows
from thetahat.data.order.plan import gather, plan_scoring, plan_training
from thetahat.data.read.record import Record

lengths_of = st.lists(st.integers(3, 60), min_size=1, max_size=20).map(lambda values: np.array(values, np.int64))
contexts = st.integers(2, 16)
policies = st.sampled_from(["split", "truncate-left", "truncate-right", "drop"])


def targets_of(pieces, document):
    """The targets of a document, piece by piece."""
    mine = np.flatnonzero(pieces.span == document)
    return [list(range(pieces.scored_from[piece], pieces.stop[piece])) for piece in mine]


@given(lengths_of, contexts, st.data())
def test_a_split_puts_each_target_in_the_block_that_a_loop_would(lengths, context, data):
    phase = np.array(data.draw(st.lists(st.integers(0, context - 1), min_size=len(lengths), max_size=len(lengths))))
    pieces, report = cut(lengths, context, "split", phase=phase)
    for document, length in enumerate(lengths):
        assert targets_of(pieces, document) == oracle.split(length - 1, context, phase[document])
    np.testing.assert_array_equal(pieces.start, pieces.scored_from - 1)
    assert pieces.positions.max() <= context
    assert (report.num_tokens, report.tokens_cut) == ((lengths - 1).sum(), 0)


@given(lengths_of, contexts, policies.filter(lambda policy: policy != "split"))
def test_truncation_keeps_what_a_loop_would(lengths, context, policy):
    pieces, report = cut(lengths, context, policy)
    kept = [oracle.truncate(length - 1, context, policy) for length in lengths]
    for document, targets in enumerate(kept):
        assert targets_of(pieces, document) == ([targets] if targets else [])
    np.testing.assert_array_equal(pieces.start, pieces.scored_from - 1)
    long = sum(length - 1 > context for length in lengths)
    assert report.num_tokens == sum(map(len, kept))
    assert report.tokens_cut == sum(lengths - 1) - report.num_tokens
    assert (report.documents_cut, report.documents_dropped) == ((0, long) if policy == "drop" else (long, 0))
    assert report.num_documents == sum(map(bool, kept))


def test_a_document_that_just_fits_is_whole_under_any_policy():
    for policy in ("error", "split", "truncate-left", "truncate-right", "drop"):
        pieces, report = cut(np.array([9]), 8, policy, phase=np.array([3]))
        assert (pieces.start.tolist(), pieces.scored_from.tolist(), pieces.stop.tolist()) == ([0], [1], [9])
        assert str(report) == "1 document with 8 tokens, none longer than context=8"


def test_by_default_a_document_that_is_too_long_is_an_error_with_a_cure():
    with pytest.raises(DataError) as error:
        cut(np.array([9, 12, 10]), 8, "error", name=lambda index: f"a.txt:{index}")
    message = str(error.value)
    assert message.startswith("document a.txt:1 has 11 tokens to predict where the context holds 8; 2 of 3 documents")
    assert "2 of 3 documents are too long, also a.txt:2 (9)\n" in message
    assert "data.over_long=split" in message


def test_what_is_lost_is_said():
    _, report = cut(np.array([5, 101]), 50, "truncate-left")
    assert str(report) == (
        "2 documents with 54 tokens; over_long=truncate-left at context=50: 1 cut, 50 targets (48.08%) left out"
    )
    _, report = cut(np.array([5, 101]), 50, "drop")
    assert str(report).endswith("1 dropped, 100 targets (96.15%) left out")
    _, report = cut(np.array([5, 101]), 50, "split")
    assert str(report).endswith("1 split, no target left out")


@given(lengths_of, contexts, st.data())
def test_windows_count_each_target_once_with_the_context_that_a_loop_gives_it(lengths, context, data):
    stride = data.draw(st.integers(1, context))
    pieces = windows(lengths, context, stride)
    for document, length in enumerate(lengths):
        seen = {}
        for piece in np.flatnonzero(pieces.span == document):
            for target in range(pieces.scored_from[piece], pieces.stop[piece]):
                assert target not in seen
                seen[target] = target - pieces.start[piece]
        assert seen == oracle.context_of_targets(length - 1, context, stride)
    assert pieces.positions.max() <= context
    is_later = pieces.scored_from > 1
    assert (pieces.positions[is_later] == context).all()
    assert (pieces.targets[is_later] <= stride).all()


@pytest.mark.parametrize("stride", [0, -1, 9])
def test_a_stride_outside_the_context_is_refused(stride):
    with pytest.raises(ConfigError, match=f"a stride of {stride}"):
        windows(np.array([30]), 8, stride)


@given(
    st.integers(1, 30).flatmap(
        lambda capacity: st.tuples(st.just(capacity), st.lists(st.integers(1, capacity), max_size=60))
    )
)
def test_best_fit_is_what_one_piece_at_a_time_gives(example):
    capacity, sizes = example
    rows = best_fit(np.array(sizes, np.int64), capacity)
    assert rows.tolist() == oracle.best_fit_decreasing(sizes, capacity)


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=100), st.integers(40, 60), st.sampled_from(["best-fit", "none"])
)
def test_no_row_is_over_full_and_no_piece_is_lost(sizes, capacity, packing):
    pieces, _ = cut(np.array(sizes) + 1, capacity, "error")
    laid = lay(pieces, capacity, packing)
    assert np.bincount(laid.row, laid.positions, laid.num_rows).max() <= capacity
    assert np.bincount(laid.row).tolist() == ([1] * len(sizes) if packing == "none" else np.bincount(laid.row).tolist())
    assert sorted(laid.span) == list(range(len(sizes)))
    assert (np.diff(laid.row) >= 0).all()
    assert set(laid.row) == set(range(laid.num_rows))


@pytest.mark.parametrize("sizes", [[5], [2, 0]])
def test_a_piece_that_cannot_lie_in_a_row_is_refused(sizes):
    with pytest.raises(ValueError, match="do not fit"):
        best_fit(np.array(sizes), 4)


def test_a_million_pieces_are_packed_in_seconds():
    sizes = np.random.default_rng(0).integers(1, 1025, 1_000_000)
    start = time.perf_counter()
    rows = best_fit(sizes, 1024)
    assert time.perf_counter() - start < 5
    assert np.bincount(rows, sizes).max() <= 1024
    assert rows.max() < 1.01 * sizes.sum() / 1024


# --- gather


@pytest.fixture(scope="module")
def corpus(byte_tokenizer):
    texts = ["abcdefgh", "x", "0123456789012345", "caf\u00e9"]
    return build_corpus(
        [Record(text, f"id{i}", f"doc{i}", "s", weight=0.5 * i) for i, text in enumerate(texts)],
        byte_tokenizer,
        {},
        None,
    )


def planned(corpus, context, policy):
    plan, _ = plan_training(corpus, DataConfig(context=context, over_long=policy))
    return plan


@given(contexts, policies, st.randoms(use_true_random=False))
def test_gathered_tokens_are_those_of_their_pieces(corpus, context, policy, random):
    plan = planned(corpus, context, policy)
    if not len(plan.pieces):
        return
    laid = lay(plan.pieces, context, "best-fit")
    index = np.array(sorted(random.sample(range(len(laid)), random.randint(1, len(laid)))))
    packed = gather(corpus, replace(plan, pieces=laid), index)
    for place, piece in enumerate(index):
        mine = packed.piece == place
        span, start, stop = (int(column[piece]) for column in (laid.span, laid.start, laid.stop))
        tokens = corpus.span(span)[start:stop]
        assert packed.tokens[mine].tolist() == tokens.tolist()
        assert packed.position[mine].tolist() == list(range(stop - start))
        assert packed.num_bytes[mine].tolist() == corpus.token_bytes[tokens].tolist()
        (part,) = packed.part[mine].unique()
        kept = int(laid.targets[laid.span == span].sum())
        assert packed.parts.named([int(part)]) == corpus.describe([span])
        assert packed.parts.num_tokens[part] == packed.parts.record_tokens[part] == kept
        weights = [
            float(packed.parts.weight[part]) * (token >= laid.scored_from[piece]) for token in range(start, stop)
        ]
        assert packed.weight[mine].tolist() == weights
    assert packed.row.tolist() == np.unique(laid.row[index], return_inverse=True)[1].tolist()
    assert (packed.parent == -1).all()
    assert (packed.piece.diff() >= 0).all()
    assert packed.weight.dtype == torch.float64


def test_pieces_of_one_document_share_a_part(corpus):
    plan = planned(corpus, 4, "split")
    pieces = plan.pieces
    packed = gather(corpus, plan, np.arange(len(pieces)))
    assert [part.id for part in packed.parts.named()] == ["id1", "id2", "id3"]  # the first weighs 0
    assert packed.parts.record_tokens.tolist() == [2, 17, 6]
    for part in range(3):
        assert (packed.weight[packed.part == part] == 0).sum() == (pieces.span == part + 1).sum()
    assert packed.num_bytes[packed.part == 2].sum() == len("caf\u00e9".encode()) + 1  # one byte is read twice


def test_windows_may_be_gathered_in_any_order(corpus):
    plan = plan_scoring(corpus, 6, 2)
    pieces = plan.pieces
    index = np.arange(len(pieces))[::-1].copy()
    packed = gather(corpus, plan, index)
    assert packed.row.tolist() == list(range(len(pieces)))
    first = packed.tokens[packed.piece == 0].tolist()
    assert first == corpus.span(3)[pieces.start[-1] : pieces.stop[-1]].tolist()


def test_scoring_weighs_every_target_alike(corpus):
    plan = plan_scoring(corpus, 6, 2)
    packed = gather(corpus, plan, np.arange(len(plan.pieces)))
    assert packed.weight.sum() == corpus.num_tokens
    assert set(packed.weight.tolist()) == {0.0, 1.0}
