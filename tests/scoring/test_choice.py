"""Which choice is the likeliest: against the oracle's log-probabilities, and by every rule."""

import math
from collections import Counter

import pytest
import torch
from hypothesis import given, strategies as st
from msgspec.structs import replace

from tests.examples import SMALL, lively, sampled_ids, shape_of
from tests.model.test_decoder import arrays_of, settings_of
from tests.oracles.decoder import token_log_probs as oracle_log_probs
from thetahat.core.errors import NonFiniteError
from thetahat.core.layout import PAIR, STREAM, WHOLE
from thetahat.core.special import MASK
from thetahat.data.corpus import choice as choosing
from thetahat.data.corpus.choice import QuestionEncoding, encode_questions
from thetahat.data.read.question import question
from thetahat.data.read.record import Record
from thetahat.data.tokens.tokenizer import train_tokenizer
from thetahat.distribution.world import World
from thetahat.generation.sample import Sampling
from thetahat.ledger.policy import Policy
from thetahat.model.build import build_model
from thetahat.model.config import EncoderConfig, EncoderDecoderConfig
from thetahat.objective.config import Conditional, Masked
from thetahat.scoring.choice import Accuracy, ScoredQuestion, accuracies, macro_interval, scored_questions
from thetahat.scoring.likelihood import ledger_rows, score_corpus
from thetahat.statistics.paired import wilson_interval

CPU = torch.device("cpu")
TOKENIZER = train_tokenizer(["the whale, the sea and the captain; a ship that sails at night " * 9], 300, [MASK])
END = TOKENIZER.frames.text.before[0]
SHAPE = replace(SMALL, num_layers=1, width=8, head_width=4, inner_width=8)
MODEL = lively(build_model(SHAPE, TOKENIZER.vocab_size))
POLICY = Policy(context=48, stride=24, batch_size=4, dtype="float64")


def asked_of(items, layout=STREAM, **how):
    questions = [
        question(contexts, choices, gold, Record("", f"q{index}", f"q{index}", source))
        for index, (contexts, choices, gold, source) in enumerate(items)
    ]
    return encode_questions(questions, TOKENIZER, QuestionEncoding(layout, 48, 48, **how))


def answered(asked, model=MODEL, policy=POLICY):
    likelihoods = score_corpus(model, asked.corpus, policy, World(), CPU)
    rows = ledger_rows(likelihoods, asked.corpus)
    return scored_questions(asked, likelihoods, rows), rows


@pytest.mark.parametrize("deterministic", [False, True])
def test_choices_read_in_one_tree_are_as_likely_as_each_alone(deterministic, monkeypatch):
    monkeypatch.setattr(choosing, "WORTH", 0)
    items = [
        (["the whale, the sea and"] * 3, [" a ship", " the captain", " sails at night"], 1, "one"),
        (["the captain", "the captain that"], [" sails", " sails"], 0, "two"),
        (["", ""], ["the sea and the sea", "a whale"], 0, "three"),
        (["the ship"], [" and"], 0, "four"),
    ]
    apart, shared = (asked_of(items, shares=shares) for shares in (False, True))
    assert (shared.corpus.lengths - 1).sum() < (apart.corpus.lengths - 1).sum()
    for batch_size in (1, 64):
        policy = replace(POLICY, deterministic=deterministic, batch_size=batch_size)
        (one, one_rows), (other, other_rows) = (answered(asked, policy=policy) for asked in (apart, shared))
        found = {(row.id, row.part): row for row in other_rows}
        assert len(found) == len(one_rows)
        for row in one_rows:
            same = found[row.id, row.part]
            assert same.log_prob == pytest.approx(row.log_prob, rel=1e-12)
            assert (same.num_tokens, same.context_length) == (row.num_tokens, row.context_length)
        assert accuracies(one) == accuracies(other)


def oracle(tokens, first):
    return oracle_log_probs(arrays_of(MODEL), settings_of(SHAPE), tokens)[first - 1 :]


ITEMS = [
    (["the whale"] * 3, ["sails at night", "and", "the ship; the sea"], 1, "one"),
    (["a ship that", "the captain"], ["sails"] * 2, 0, "two"),
    (["", ""], ["the sea and the whale", "sea the and"], 0, "two"),
    (["the ship"], ["sails"], 0, "cloze"),
]


def test_every_score_is_the_oracle_s():
    asked = asked_of(ITEMS)
    found, rows = answered(asked)
    for (contexts, choices, _, _), answer in zip(ITEMS, found, strict=True):
        for index, (context, choice) in enumerate(zip(contexts, choices, strict=True)):
            joined = f"{context} {choice}" if context else choice
            given, (whole,) = TOKENIZER.encode([context])[0], TOKENIZER.encode([joined])
            expected = oracle([END, *whole], 1 + len(given))
            span = joined[len(context) :]
            if len(choices) == 1:
                row = next(row for row in rows if row.id == answer.id)
                assert row.log_prob == pytest.approx(math.fsum(expected), rel=1e-11)
                continue
            assert answer.scores["sum"][index] == pytest.approx(math.fsum(expected), rel=1e-11)
            assert answer.scores["per_token"][index] == pytest.approx(math.fsum(expected) / len(expected), rel=1e-11)
            per_byte = math.fsum(expected) / len(span.encode())
            assert answer.scores["per_byte"][index] == pytest.approx(per_byte, rel=1e-11)
            if context:
                alone = oracle([END, *whole[len(given) :]], 1)
                difference = math.fsum(expected) - math.fsum(alone)
                assert answer.scores["against_alone"][index] == pytest.approx(difference, rel=1e-9)
            else:
                assert "against_alone" not in answer.scores
    parts = Counter(row.part for row in rows)
    assert parts == {"choice-0": 4, "choice-1": 3, "choice-2": 1, "alone-0": 2, "alone-1": 2, "alone-2": 1}


def test_a_cloze_is_right_where_the_model_would_write_it():
    contexts = ["the whale", "a ship that sails", "night and", "the captain;"]
    prompts = [[END, *TOKENIZER.encode([context])[0]] for context in contexts]
    written = sampled_ids(MODEL, prompts, Sampling(temperature=0, max_tokens=2), context=48)
    endings = [TOKENIZER.decode(tokens) for tokens in written]
    both = [context + ending for context, ending in zip(contexts, endings, strict=True)]
    fair = [
        (context, ending)
        for context, ending, joined, tokens in zip(contexts, endings, both, written, strict=True)
        if TOKENIZER.encode([joined])[0] == [*TOKENIZER.encode([context])[0], *tokens]
    ]
    assert fair
    items = [([context], [ending], 0, "right") for context, ending in fair]
    items += [([context], [" night and night"], 0, "wrong") for context in contexts[:2]]
    items += [
        ([context], [next(one for one in ",;" if text[0] != one)], 0, "one wrong token") for context, text in fair
    ]
    found, _ = answered(asked_of(items, delimiter=""))
    assert [answer.is_right("greedy") for answer in found] == [True] * len(fair) + [False] * (2 + len(fair))
    counted = accuracies(found)["greedy"]
    assert (counted.num_right, counted.num_questions, counted.tied) == (len(fair), len(items), ())


def test_an_encoder_answers_by_pseudo_log_likelihood_and_batching_changes_nothing():
    model = lively(build_model(EncoderConfig(**shape_of(SHAPE)), TOKENIZER.vocab_size))
    policy = Policy(48, 24, dtype="float64", factorization=Masked())
    together, rows = answered(asked_of(ITEMS, WHOLE), model, policy)
    assert sum(row.num_tokens for row in rows) == sum(row.num_tokens for row in answered(asked_of(ITEMS))[1])
    for item, answer in zip(ITEMS, together, strict=True):
        (alone,), _ = answered(asked_of([item], WHOLE), model, policy)
        for rule, scores in answer.scores.items():
            assert scores == pytest.approx(alone.scores[rule], rel=1e-11)


def test_an_encoder_decoder_reads_the_context_as_its_source():
    model = lively(build_model(EncoderDecoderConfig(**shape_of(SHAPE), num_encoder_layers=1), TOKENIZER.vocab_size))
    policy = Policy(48, 24, dtype="float64", factorization=Conditional())
    (first, _), rows = answered(asked_of(ITEMS[:2], PAIR), model, policy)
    assert {row.num_tokens for row in rows if row.part == "choice-1" and row.id == "q0"} == {
        len(TOKENIZER.encode(["and"])[0])
    }
    assert len(first.scores["against_alone"]) == 3
    assert min(map(abs, first.scores["against_alone"])) > 0


def answer_of(sums, gold, source="s", id="q"):
    return ScoredQuestion(id, id, source, gold, {"sum": tuple(sums)})


def test_a_tie_is_named_and_is_not_right():
    some = [
        answer_of((-1.0, -2.0), 0, id="right"),
        answer_of((-1.0, -1.0), 1, id="tied"),
        answer_of((-3.0, -1.0, -1.0), 0, id="wrong"),
    ]
    found = accuracies(some)["sum"]
    assert (found.num_right, found.num_questions, found.tied) == (1, 3, ("tied",))
    twins, _ = answered(asked_of([(["the whale"] * 2, ["sails", "sails"], 0, "s")]))
    assert accuracies(twins)["sum"].tied == ("q0",)


def test_questions_that_share_an_id_count_once_where_they_agree():
    single = [answer_of((-1.0, -2.0), int(index % 3 == 0), id=f"q{index}") for index in range(30)]
    double = [answer for answer in single for _ in range(2)]
    ours, theirs = (accuracies(some)["sum"] for some in (single, double))
    assert ours.interval == pytest.approx(theirs.interval)
    assert (theirs.num_questions, theirs.to_dict()["num_clusters"]) == (60, 30)
    assert ours.interval == wilson_interval(ours.num_right, 30)


def test_what_is_not_finite_is_no_answer():
    model = lively(build_model(SHAPE, TOKENIZER.vocab_size))
    model.head.weight.data[:] = math.nan
    with pytest.raises(NonFiniteError, match="q0"):
        answered(asked_of(ITEMS[:1]), model)


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_s_ends_are_the_shares_that_the_score_test_does_not_reject(counts):
    right, number = counts
    share, low, high = wilson_interval(right, number)
    assert 0 <= low <= share <= high <= 1
    for end in (low, high):
        if 0 < end < 1:
            error = math.sqrt(end * (1 - end) / number)
            assert abs(share - end) / error == pytest.approx(1.959963984540054, rel=1e-6)
    assert (low == 0) == (right == 0)
    assert (high == 1) == (right == number)
    mirrored = wilson_interval(number - right, number)
    assert (1 - mirrored.high, 1 - mirrored.low) == pytest.approx((low, high), abs=1e-12)


def test_the_macro_average_weighs_every_source_alike():
    parts = [Accuracy(10, 5, ()), Accuracy(1000, 900, ())]
    mean, low, high = macro_interval(parts)
    assert mean == pytest.approx(0.7)
    (a, la, ha), (b, lb, hb) = (part.interval for part in parts)
    assert low == pytest.approx(mean - math.hypot(a - la, b - lb) / 2)
    assert high == pytest.approx(mean + math.hypot(ha - a, hb - b) / 2)
    assert macro_interval(parts[:1]) == pytest.approx(parts[0].interval)
