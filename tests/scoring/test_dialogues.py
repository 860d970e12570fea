"""The turns of a dialogue, read in one pass, are what each is when it is read alone behind its own inference prompt."""

from dataclasses import replace as change
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from msgspec.structs import replace as change_config

from tests.examples import SMALL, decoder
from tests.model.test_decoder import arrays_of, settings_of
from tests.oracles import decoder as decoder_oracle, dialogue as oracle
from tests.verbs.test_families import config_of
from thetahat.core.errors import ConfigError, DataError
from thetahat.data.chat.encode import ChatOptions
from thetahat.data.chat.template import TEMPLATES
from thetahat.data.config import DataConfig
from thetahat.data.corpus.build import build_corpus
from thetahat.data.corpus.encode import Encoding
from thetahat.data.order.plan import gather, plan_scoring, plan_training
from thetahat.data.read.dialogue import parse_dialogue
from thetahat.data.read.record import Record
from thetahat.data.tokens.tokenizer import train_tokenizer
from thetahat.distribution.world import World
from thetahat.ledger.policy import Policy
from thetahat.run.prepare import prepare
from thetahat.scoring.likelihood import ledger_rows, score_corpus

CPU = torch.device("cpu")
POLICY = Policy(context=512, stride=50, batch_size=3, dtype="float64")
SPECIAL = list(dict.fromkeys(token for template in TEMPLATES.values() for token in template.special_tokens))
SAID = ["a", "b", "ab", "the sea and the ship", "<think>\nb\n</think>\n\na", "\n", " a", "é"]
contents = st.lists(st.sampled_from(SAID), min_size=2, max_size=7)
dialogues = st.lists(st.tuples(contents, st.lists(st.sampled_from(SAID), max_size=2)), min_size=1, max_size=4)
templates = st.sampled_from([*TEMPLATES])


@cache
def tokenizer():
    return train_tokenizer(SAID * 4, 270 + len(SPECIAL), SPECIAL)


@cache
def model(dtype):
    return decoder(SMALL, tokenizer().vocab_size, getattr(torch, dtype))


def record_of(contents, answers, index):
    roles = ("user", "assistant")
    # with their weights, so that white space may be an answer of which a template writes the end alone
    messages = [{"role": roles[i % 2], "content": content, "weight": i % 2} for i, content in enumerate(contents)]
    if answers:
        messages = messages[: len(messages) - 1 + len(messages) % 2]  # what is answered is a user's
    fields = {"messages": messages, "answers": [{"content": answer, "weight": 1} for answer in answers]}
    return Record("", f"d{index}", f"d{index}", "s", dialogue=parse_dialogue(fields, "d"))


def corpus_of(records, template, *, shares, context=POLICY.context):
    options = ChatOptions(TEMPLATES[template], context, shares_prefixes=shares)
    return build_corpus(records, tokenizer(), {}, None, Encoding(chat=options))


def rows_of(corpus, policy):
    """What a ledger says, by id and part in its order, and all that belongs to single tokens."""
    found = score_corpus(model(policy.dtype), corpus, policy, World(), CPU)
    tokens = [
        (found.token_log_prob[a:b], found.context_length[a:b], corpus.tokens[found.tokens[a:b]])
        for a, b in zip(found.start[:-1], found.start[1:], strict=True)
    ]
    return list(zip(ledger_rows(found, corpus), tokens, strict=True))


@settings(max_examples=30)
@given(dialogues, templates, st.sampled_from(["float64", "float32"]), st.sampled_from([60, 90, 512]))
def test_a_turn_of_one_pass_is_the_turn_alone(drawn, template, dtype, context):
    """With 60 positions many turns need windows, with 90 many dialogues need several passes."""
    records = [record_of(*one, index) for index, one in enumerate(drawn)]
    policy, bound = change_config(POLICY, dtype=dtype, context=context), {"float64": 1e-12, "float32": 2e-6}[dtype]
    one, apart = (
        rows_of(corpus_of(records, template, shares=shares, context=context), policy) for shares in (True, False)
    )
    for (row, (nats, seen, tokens)), (plain, (plain_nats, plain_seen, plain_tokens)) in zip(one, apart, strict=True):
        assert change(row, log_prob=0.0) == change(plain, log_prob=0.0)
        assert np.array_equal(seen, plain_seen)
        assert np.array_equal(tokens, plain_tokens)
        assert np.abs(nats - plain_nats).max() <= bound * np.abs(plain_nats).max()


@settings(max_examples=20)
@given(dialogues, templates, st.sampled_from([60, 90, 512]), st.integers(1, 9), st.randoms(use_true_random=False))
def test_company_and_order_of_dialogues_change_no_bit_in_deterministic_mode(drawn, template, context, size, random):
    records = [record_of(*one, index) for index, one in enumerate(drawn)]
    policy = change_config(POLICY, dtype="float32", context=context, deterministic=True)
    chosen = {"template": template, "shares": True, "context": context}
    together = {(row.id, row.part): row for row, _ in rows_of(corpus_of(records, **chosen), policy)}
    random.shuffle(records)
    other = rows_of(corpus_of(records, **chosen), change_config(policy, batch_size=size))
    assert {(row.id, row.part): row for row, _ in other} == together
    for record in records:
        alone = rows_of(corpus_of([record], **chosen), policy)
        assert [row for row, _ in alone] == [together[row.id, row.part] for row, _ in alone]


@pytest.mark.parametrize("name", ["chatml", "qwen3"])
def test_every_turn_is_a_plain_loop_s(name):
    contents = ["the sea and the ship", "<think>\nb\n</think>\n\na", "b", "ab", "a", "é"]
    record = record_of(contents, [], 0)
    messages = [message.fields for message in record.dialogue.messages]
    found = {row.part: tokens for row, tokens in rows_of(corpus_of([record], name, shares=True), POLICY)}
    parameters, shape = arrays_of(model("float64")), settings_of(SMALL)
    for index in (1, 3, 5):
        prompt, completion = oracle.path(TEMPLATES[name], messages, index, tokenizer().to_json())
        nats, seen, tokens = found[f"turn-{index}"]
        expected = decoder_oracle.token_log_probs(parameters, shape, prompt + completion)[len(prompt) - 1 :]
        np.testing.assert_allclose(nats, expected, rtol=1e-10)
        assert seen.tolist() == [len(prompt) + j for j in range(len(completion))]
        assert tokens.tolist() == completion


@given(dialogues, templates, st.sampled_from([90, 512]))
def test_scoring_asks_every_token_of_every_turn_once_and_a_tree_lies_in_one_row(drawn, template, context):
    records = [record_of(*one, index) for index, one in enumerate(drawn)]
    corpus = corpus_of(records, template, shares=True, context=context)
    plan = plan_scoring(corpus, context, 7)
    packed = gather(corpus, plan, np.arange(len(plan.pieces)))
    assert packed.weight.sum() == corpus.num_tokens == plan.kept.sum()
    has_parent = packed.parent >= 0
    assert torch.equal(packed.row[has_parent], packed.row[packed.parent[has_parent]])
    assert np.bincount(plan.pieces.row, plan.pieces.size).max() <= context


def test_one_pass_reads_less_and_is_said_where_it_happens():
    records = [record_of(["a", "b"] * 3, [], 0), record_of(["a", "b"], [], 1)]
    one, apart = (corpus_of(records, "chatml", shares=shares) for shares in (True, False))
    sizes = [plan_scoring(corpus, 512, 256).pieces.size.sum() for corpus in (one, apart)]
    assert sizes[0] < sizes[1] / 1.5
    assert (one.reads_parts_together, apart.reads_parts_together) == (True, False)
    assert change_config(POLICY, reads_parts_together=True).words() == f"{POLICY.words()}, parts in one pass"
    assert not corpus_of(records[1:], "chatml", shares=True).reads_parts_together


def test_a_tree_that_does_not_fit_is_no_tree_of_this_context():
    record = record_of(["the sea and the ship", "<think>\nb\n</think>\n\na"] * 3, [], 0)
    corpus = corpus_of([record], "qwen3", shares=True)
    with pytest.raises(ConfigError, match=r"a dialogue takes \d+ positions, and the context holds 40"):
        plan_scoring(corpus, 40, 7)


FAMILIES = {"causal on dialogues that branch": True, "prefix on dialogues that branch": False,
            "conditional on dialogues": False}  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_only_a_causal_decoder_reads_held_out_turns_together(name, tmp_path, monkeypatch):
    monkeypatch.setenv("THETAHAT_CACHE", str(tmp_path / "cache"))
    config = config_of(name, tmp_path)
    config = change_config(config, data=change_config(config.data, held_out="tail:0.3"))
    held_out = prepare(config, tmp_path, World()).held_out
    assert held_out.reads_parts_together == FAMILIES[name]


def test_a_dialogue_of_which_nothing_is_asked_is_an_error_or_left_out_and_counted():
    fields = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0}]
    silent = Record("", "d7", "d7", "s", dialogue=parse_dialogue({"messages": fields}, "d"), where="d.jsonl:8")
    spoken, options = record_of(["a", "b"], [], 0), ChatOptions(TEMPLATES["chatml"], 512)
    with pytest.raises(DataError, match=r"d.jsonl:8: every message has weight 0"):
        build_corpus([spoken, silent], tokenizer(), {}, None, Encoding(chat=options))
    skipping = Encoding(chat=options, unsupervised="skip")
    for records in ([spoken, silent], [silent, spoken]):
        corpus = build_corpus(records, tokenizer(), {}, None, skipping)
        _, report = plan_training(corpus, DataConfig(context=512, unsupervised="skip"))
        assert (report.num_documents, report.documents_dropped, report.num_tokens) == (1, 1, corpus.num_tokens)
        assert [row.id for row, _ in rows_of(corpus, POLICY)] == ["d0"]
    with pytest.raises(DataError, match="every record is left out"):
        build_corpus([silent], tokenizer(), {}, None, skipping)
