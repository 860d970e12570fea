"""Held-out totals: the same whatever is read together, in whatever order, by however many ranks."""

import math

import numpy as np
import pytest
import torch
from msgspec.structs import replace

from tests.examples import SMALL, corpus_of, decoder, texts_of
from tests.model.test_decoder import arrays_of, settings_of
from tests.oracles.decoder import token_log_probs as oracle_log_probs
from thetahat.data.corpus.build import build_corpus
from thetahat.data.read.record import Record
from thetahat.data.tokens.tokenizer import train_tokenizer
from thetahat.distribution.world import World
from thetahat.ledger.policy import Policy
from thetahat.ledger.summary import summarize
from thetahat.scoring.likelihood import ledger_rows, score_corpus

POLICY = Policy(context=48, stride=24, batch_size=16, dtype="float32")
CPU = torch.device("cpu")
VOCABULARY = 300


@pytest.fixture(scope="module")
def corpus():
    return corpus_of(120)


@pytest.fixture(scope="module")
def models():
    return {dtype: decoder(SMALL, VOCABULARY, getattr(torch, dtype)) for dtype in ("float32", "float64")}


def scored(model, corpus, world=None, **changes):
    return score_corpus(model, corpus, replace(POLICY, **changes), world or World(), CPU)


def shuffled(order):
    """The corpus of the fixture, its documents in another order."""
    texts = texts_of(120)
    records = [Record(texts[i], f"d{i}", f"d{i}", "test") for i in order]
    return build_corpus(records, train_tokenizer(texts, VOCABULARY), {}, None)


def test_every_document_is_the_oracle_s():
    """A document that fits is read whole; a window of a longer one is read from its own position 0."""
    config = replace(SMALL, num_layers=1, width=8, head_width=4, inner_width=8)
    model, corpus = decoder(config, VOCABULARY), corpus_of(5, longest=12)
    found = scored(model, corpus, dtype="float64")
    for index in range(corpus.num_documents):
        tokens = corpus.span(index)[: POLICY.context + 1].tolist()
        expected = oracle_log_probs(arrays_of(model), settings_of(config), tokens)
        start = found.start[index]
        np.testing.assert_allclose(found.token_log_prob[start : start + len(expected)], expected, rtol=1e-11)


@pytest.mark.parametrize(("dtype", "bound", "each"), [("float32", 3e-9, 5e-6), ("float64", 1e-12, 1e-12)])
def test_totals_do_not_depend_on_batch_size_or_order(dtype, bound, each, corpus, models):
    plain = scored(models[dtype], corpus, dtype=dtype, batch_size=1)
    lengths = corpus.lengths - 1
    if dtype == "float32":  # two ways that are both this far from the truth may be twice as far from each other
        exact = scored(models["float64"], corpus, dtype="float64", batch_size=1)
        each = min(each, 2 * np.abs((plain.log_prob - exact.log_prob) / lengths).max())
    for batch_size in (2, 3, 7, 16, 64):
        other = scored(models[dtype], corpus, dtype=dtype, batch_size=batch_size)
        assert math.fsum(other.log_prob) == pytest.approx(math.fsum(plain.log_prob), rel=bound)
        assert np.abs((other.log_prob - plain.log_prob) / lengths).max() <= each
    order = np.random.default_rng(0).permutation(corpus.num_documents)
    other = scored(models[dtype], shuffled(order), dtype=dtype)
    assert math.fsum(other.log_prob) == pytest.approx(math.fsum(plain.log_prob), rel=bound)
    assert np.abs((other.log_prob - plain.log_prob[order]) / lengths[order]).max() <= each


def test_in_deterministic_mode_no_bit_changes(corpus, models):
    plain = scored(models["float32"], corpus, deterministic=True)
    for batch_size in (1, 5, 64):
        other = scored(models["float32"], corpus, deterministic=True, batch_size=batch_size)
        assert np.array_equal(other.token_log_prob, plain.token_log_prob)
    order = np.random.default_rng(0).permutation(corpus.num_documents)
    other = scored(models["float32"], shuffled(order), deterministic=True)
    assert np.array_equal(other.log_prob, plain.log_prob[order])
    assert math.fsum(other.log_prob) == math.fsum(plain.log_prob)


def test_ranks_score_every_token_once(corpus, models):
    plain = scored(models["float64"], corpus, dtype="float64")
    for size in (2, 3):
        parts = [_alone(models["float64"], corpus, rank, size) for rank in range(size)]
        order = np.argsort(np.concatenate([part.tokens for part in parts]))
        np.testing.assert_array_equal(np.concatenate([part.tokens for part in parts])[order], plain.tokens)
        found = np.concatenate([part.token_log_prob for part in parts])[order]
        np.testing.assert_allclose(found, plain.token_log_prob, rtol=1e-12)


def _alone(model, corpus, rank, size):
    world = World(rank, size)
    object.__setattr__(world, "sum", lambda value: value)
    object.__setattr__(world, "sum_of_all", lambda value: value)
    return scored(model, corpus, world, dtype="float64")


def test_strided_windows_approach_the_full_context(models):
    """The nearer the stride is to one token, the more context each token gets; the tokens stay the same."""
    corpus = corpus_of(3, longest=200)
    found = [scored(models["float64"], corpus, dtype="float64", stride=stride) for stride in (48, 24, 1)]
    assert len({len(each.token_log_prob) for each in found}) == 1
    first = slice(0, 48)
    for each in found:
        np.testing.assert_allclose(each.token_log_prob[first], found[0].token_log_prob[first], rtol=1e-12)


def test_the_rows_add_up_to_the_total(corpus, models):
    found = scored(models["float32"], corpus)
    rows = ledger_rows(found, corpus)
    summary = summarize(rows)
    assert summary.num_tokens == corpus.num_tokens
    assert summary.num_bytes == corpus.num_bytes
    assert summary.log_likelihood == math.fsum(found.token_log_prob)
    assert summary.bits_per_byte == -summary.log_likelihood / math.log(2) / corpus.num_bytes
