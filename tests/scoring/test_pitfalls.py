"""The twelve ways in which a likelihood goes wrong elsewhere, each shown not to be one here."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from msgspec.structs import replace

from tests.examples import SMALL, corpus_of, decoder, packed_of, texts_of
from tests.scoring.test_scoring import CPU, asked
from thetahat.core.errors import DataError
from thetahat.core.layout import PAIR
from thetahat.core.total import Total
from thetahat.data.corpus.build import build_corpus
from thetahat.data.corpus.encode import Encoding
from thetahat.data.read.record import Record
from thetahat.data.tokens.tokenizer import train_tokenizer
from thetahat.distribution.world import World
from thetahat.ledger.ledger import LedgerRow
from thetahat.ledger.policy import Policy
from thetahat.ledger.summary import summarize
from thetahat.model.layers.head import Head
from thetahat.objective.factorization import causal
from thetahat.objective.log_prob import reference
from thetahat.objective.objective import log_likelihood
from thetahat.scoring.likelihood import bytes_of, ledger_rows, score_corpus
from thetahat.statistics.interval import exact_sum

TOKENIZER = train_tokenizer([*texts_of(60), "Question: 2+2? Answer: 4, naïve façade 北京 🙂👍🏽"], 320)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)


def record(text, prompt=None, id="r"):
    return Record(text, id, id, "test", prompt=prompt)


def corpus(*records, **encoding):
    return build_corpus(list(records), TOKENIZER, {}, None, Encoding(**encoding))


@given(st.sampled_from(["<|endoftext|>", "<|endoftext|>a", "a<|endoftext|><|endoftext|>"]) | TEXTS)
def test_p1_a_text_is_read_after_exactly_one_end_of_text_whatever_it_says_itself(text):
    tokens = corpus(record(text)).span(0).tolist()
    end = TOKENIZER.frames.text.before[0]
    assert tokens[0] == tokens[-1] == end
    assert end not in tokens[1:-1]
    assert TOKENIZER.decode(tokens[1:-1]) == text


@given(TEXTS, TEXTS)
def test_p2_a_completion_s_tokens_are_never_those_of_another_cut(prompt, completion):
    found = corpus(record(completion, prompt))
    is_asked = ~found.column["parts.is_prompt"][found.part_of(np.arange(len(found.tokens)))]
    scored = found.tokens[is_asked].tolist()
    assert TOKENIZER.decode([token for token in scored if token != TOKENIZER.frames.text.before[0]]) == completion
    assert len(scored) >= 2  # something, and the end


def test_p3_every_token_of_a_long_text_is_asked_once_whatever_the_stride():
    corpus, model = corpus_of(3, longest=200), decoder(SMALL, 300, torch.float32)
    for stride in (1, 5, 16, 32):
        found = score_corpus(model, corpus, Policy(context=32, stride=stride), World(), CPU)
        assert len(found.tokens) == len(set(found.tokens.tolist())) == corpus.num_tokens
        assert found.context_length.min() >= 1
    whole = score_corpus(model, corpus, Policy(context=1024, stride=1), World(), CPU)
    first = found.context_length == whole.context_length  # where nothing was out of sight, the numbers are the same
    np.testing.assert_allclose(found.token_log_prob[first], whole.token_log_prob[first], atol=1e-4)


def test_p4_what_does_not_fit_is_an_error_or_a_count_never_silent():
    pair = record("short", prompt="a very long source " * 20)
    with pytest.raises(DataError, match="context"):
        corpus(pair, layout=PAIR, room=16)
    cut = corpus(pair, layout=PAIR, room=16, over_long="truncate-right")
    assert cut.column["documents.prompt_cut"].sum() > 0


def test_p5_the_log_softmax_of_16_bit_logits_is_taken_in_32_bits_and_summed_in_64():
    draw = torch.Generator().manual_seed(0)
    logits = (4 * torch.randn(2000, 512, generator=draw)).bfloat16()
    targets = torch.randint(0, 512, (2000,), generator=draw)
    head = Head(512, 512)
    head.weight.data = torch.eye(512, dtype=torch.bfloat16)  # which rounds nothing
    found = reference(logits, head, targets).log_prob.detach()
    exact = logits.double().log_softmax(-1).gather(-1, targets[:, None])[:, 0]
    assert found.dtype == torch.float32
    assert abs(exact_sum(found.double().numpy()) / float(exact.sum()) - 1) < 1e-6
    in_16_bits = logits.log_softmax(-1).gather(-1, targets[:, None])[:, 0]
    assert abs(float(in_16_bits.double().sum()) / float(exact.sum()) - 1) > 1e-6  # what is guarded against


def test_p6_the_batch_size_changes_no_bit_in_deterministic_mode(tmp_path):
    _, corpus, policy, (model, _) = asked("causal on texts", tmp_path)
    found = [
        score_corpus(model, corpus, replace(policy, deterministic=True, batch_size=size), World(), CPU).log_prob
        for size in (4, 5)
    ]
    assert np.array_equal(*found)


def test_p7_sums_are_divided_once_and_never_averaged():
    rows = [_row(i, num_tokens=1 + 999 * (i >= 20), nats=-5.0 if i < 20 else -2000.0) for i in range(40)]
    summary = summarize(rows)
    assert summary.nats_per_token == pytest.approx((20 * 5 + 20 * 2000) / (20 + 20 * 1000), rel=1e-15)
    means = [summarize(rows[start : start + 8]).nats_per_token for start in range(0, 40, 8)]
    assert abs(sum(means) / 5 / summary.nats_per_token - 1) > 0.05  # what is guarded against


@given(TEXTS)
def test_p8_the_bytes_of_the_tokens_are_the_bytes_of_the_text(text):
    found = corpus(record(text))
    assert int(found.token_bytes[found.tokens].sum()) == len(text.encode())
    assert found.num_bytes == len(text.encode())


def test_p9_every_number_has_an_interval():
    low, high = summarize([_row(i, num_tokens=10, nats=-20.0 - i % 7) for i in range(40)]).bits_per_byte_ci95
    assert low < high


def test_p10_sums_do_not_stop_counting_at_two_to_the_24():
    ones = [float(2**24), *[1.0] * 100]
    assert exact_sum(ones) == 2**24 + 100
    total = Total.zero()
    for one in ones:
        total += Total(torch.tensor(one, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64))
    assert total.log_prob.item() == 2**24 + 100
    counts = summarize([_row(i, num_tokens=2**24 + i, nats=-1.0) for i in range(40)])
    assert counts.num_tokens == 40 * 2**24 + sum(range(40))


@pytest.mark.parametrize("size", [1, 2, 5, 9])
def test_p11_over_any_number_of_ranks_each_token_is_scored_once(size):
    corpus, model = corpus_of(7, longest=30), decoder(SMALL, 300, torch.float32)
    counts = np.zeros(len(corpus.tokens))
    for rank in range(size):
        world = World(rank, size)

        def counting(value):
            if value.ndim == 2:
                counts.__iadd__(value[1].numpy())
            return value

        object.__setattr__(world, "sum", counting)
        object.__setattr__(world, "sum_of_all", lambda value: value)
        score_corpus(model, corpus, Policy(context=32, stride=16, batch_size=2), world, CPU)
    is_first = np.isin(np.arange(len(corpus.tokens)), corpus.offsets[:-1])
    assert np.array_equal(counts, (~is_first).astype(float))


def test_p12_a_last_ragged_micro_batch_weighs_its_tokens_like_any_other():
    model = decoder(replace(SMALL, num_layers=1), 50)
    draw = torch.Generator().manual_seed(0)
    sequences = [torch.randint(0, 50, (n,), generator=draw).tolist() for n in (9, 3, 5, 2, 7)]

    def gradient(cuts):
        model.zero_grad()
        batches = [causal(packed_of(cut, [[1.0] * (len(s) - 1) for s in cut])) for cut in cuts]
        weight = sum(float(batch.weight()) for batch in batches)
        for batch in batches:
            (-log_likelihood(model, batch).log_prob / weight).backward()
        return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])

    whole, ragged = gradient([sequences]), gradient([sequences[:2], sequences[2:4], sequences[4:]])
    torch.testing.assert_close(ragged, whole, rtol=1e-12, atol=1e-15)


def _row(i, *, num_tokens, nats):
    return LedgerRow(
        id=f"r{i}", document=f"r{i}", num_tokens=num_tokens, num_bytes=3 * num_tokens, context_length=8, log_prob=nats
    )


def test_labels_have_no_bytes(tmp_path):
    _, corpus, policy, (model, _) = asked("labels", tmp_path)
    found = score_corpus(model, corpus, policy, World(), CPU)
    assert (
        bytes_of(found, corpus).tolist()
        == [row.num_bytes for row in ledger_rows(found, corpus)]
        == [0] * len(found.part)
    )
    assert math.isfinite(found.log_prob.sum())
