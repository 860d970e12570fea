"""Every document's log-probability is that of a plain loop: one document at a time, in float64, nothing packed."""

import math
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace as change

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, strategies as st
from msgspec.structs import replace

from tests.examples import lively
from tests.model.test_decoder import arrays_of, settings_of
from tests.objective.layouts import SYMBOLS, WIDTHS, layouts
from tests.objective.test_factorization import pairs
from tests.oracles import decoder as decoder_oracle, encoder as encoder_oracle, encoder_decoder as both_oracle
from tests.verbs.test_families import config_of
from thetahat.distribution.world import World
from thetahat.model.build import build_model
from thetahat.objective.config import Causal, Conditional, Labels, Masked
from thetahat.objective.factorization import factor
from thetahat.run.card import card_of
from thetahat.run.prepare import prepare
from thetahat.scoring import likelihood
from thetahat.scoring.grouping import side_by_side
from thetahat.scoring.journal import FolderJournal
from thetahat.scoring.likelihood import (
    Abandoned,
    Reader,
    ScoringHooks,
    bytes_of,
    context_lengths,
    ledger_rows,
    score_corpus,
)
from thetahat.scoring.noise import noise_floor
from thetahat.scoring.tokens import TOKEN_SCHEMA, token_table, write_tokens

CPU = torch.device("cpu")
FAMILIES = ["causal on texts", "causal on pairs", "masked tokens", "conditional"]
FINE = ["prefix on pairs", "labels", "spans", "causal on dialogues that branch"]


def asked(name, tmp_path, dtype="float32"):
    """A run's model, corpus and policy, and the same parameters in float64."""
    config = config_of(name, tmp_path, dtype=dtype)
    prepared = prepare(config, tmp_path, World())
    sizes = prepared.tokenizer.vocab_size, len(prepared.labels)
    models = [lively(build_model(config.model, *sizes), each) for each in (getattr(torch, dtype), torch.float64)]
    return (
        config,
        prepared.train,
        replace(card_of(config, prepared.labels).policy(config.inference), batch_size=5),
        models,
    )


def plain_loop(config, corpus, model):
    """[documents] in nats, by the oracle of the family."""
    parameters, settings = arrays_of(model), settings_of(config.model)
    stacked = {name: value[None] for name, value in parameters.items()}  # the other oracles take several models at once
    first = np.flatnonzero(np.diff(corpus.column["spans.document"], prepend=-1))
    found = []
    for span in first.tolist():
        tokens = corpus.span(span).tolist()
        place = np.arange(corpus.offsets[span], corpus.offsets[span + 1])
        is_asked = ~corpus.column["parts.is_prompt"][corpus.part_of(place)]
        match config.objective.factorization:
            case Causal():
                log_probs = decoder_oracle.token_log_probs(parameters, settings, tokens)
                found.append(math.fsum(np.array(log_probs)[is_asked[1:]]))
            case Conditional():
                target, depth = corpus.span(span + 1).tolist(), config.model.num_encoder_layers
                found.append(math.fsum(both_oracle.log_probs(stacked, settings, depth, tokens, target)[0]))
            case Masked():
                mask, total = corpus.symbols.mask, []
                for j, token in enumerate(tokens):
                    if is_asked[j] and not corpus.symbols.is_special[token]:
                        read = [*tokens[:j], mask, *tokens[j + 1 :]]
                        total.append(encoder_oracle.log_probs(stacked, settings, read, tokens)[0][j])
                found.append(math.fsum(total))
    return np.array(found)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_document_is_a_plain_float64_loop_s(name, tmp_path):
    config, corpus, policy, (model, exact) = asked(name, tmp_path)
    found = score_corpus(model, corpus, policy, World(), CPU)
    rows = ledger_rows(found, corpus)
    expected = plain_loop(config, corpus, exact)
    per_document = {row.id: row for row in rows}
    assert len(per_document) == corpus.num_documents == len(expected)
    apart = np.abs(np.array([row.log_prob for row in rows]) - expected)
    assert apart.max() <= 5e-4  # nats; no document here has 1,000 tokens
    # 8 float32 roundings a token: kernels of different CPUs add in different orders, and 4.6 of them were seen on one
    assert apart.sum() <= 8 * np.finfo(np.float32).eps * sum(row.num_tokens for row in rows)


@pytest.mark.parametrize("name", [*FAMILIES, *FINE])
def test_batch_sizes_orders_and_ranks_change_no_bit_in_deterministic_mode(name, tmp_path):
    _, corpus, policy, (model, _) = asked(name, tmp_path)
    policy = replace(policy, deterministic=True)
    plain = score_corpus(model, corpus, replace(policy, batch_size=1), World(), CPU)
    for batch_size in (2, 7, 64, 256):
        other = score_corpus(model, corpus, replace(policy, batch_size=batch_size), World(), CPU)
        assert np.array_equal(other.token_log_prob, plain.token_log_prob)
        assert np.array_equal(other.context_length, plain.context_length)
    together = sum(_of_rank(model, corpus, policy, rank, 3) for rank in range(3))
    assert np.array_equal(together[plain.tokens], plain.token_log_prob)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", [*FAMILIES, *FINE])
def test_windows_read_together_say_what_each_alone_says(name, padded, tmp_path, monkeypatch):
    _, corpus, policy, (_, exact) = asked(name, tmp_path, "float64")
    alone = score_corpus(exact, corpus, replace(policy, dtype="float64", deterministic=True), World(), CPU)
    if padded:  # as on a GPU
        monkeypatch.setattr(likelihood, "end_to_end", lambda pieces, room: (pieces, side_by_side(pieces, room)))
    for batch_size in (1, 3, 64):
        together = replace(policy, dtype="float64", batch_size=batch_size)
        assert len(Reader(exact, corpus, together, CPU).groups) < len(corpus.lengths)
        found = score_corpus(exact, corpus, together, World(), CPU)
        np.testing.assert_allclose(found.token_log_prob, alone.token_log_prob, rtol=1e-12, atol=1e-13)
        assert np.array_equal(found.context_length, alone.context_length)


def test_groups_read_in_a_row_say_what_each_says_alone(tmp_path):
    _, corpus, policy, (model, _) = asked("causal on pairs", tmp_path)
    reader = Reader(model, corpus, replace(policy, batch_size=1), CPU)
    numbers = list(range(len(reader.groups)))[1:]
    found = list(reader.score(numbers))
    assert [number for number, _ in found] == numbers
    for number, answers in found:
        assert all(map(np.array_equal, answers, reader.score_group(number)))
    assert list(reader.score([])) == []


def test_rows_are_as_wide_as_a_multiple_of_a_vector(tmp_path, monkeypatch):
    _, corpus, policy, (model, _) = asked("causal on texts", tmp_path)
    widths = []
    hidden = model.hidden
    monkeypatch.setattr(model, "hidden", lambda inputs: widths.append(inputs.tokens.shape[1]) or hidden(inputs))
    score_corpus(model, corpus, policy, World(), CPU)
    assert widths
    assert all(width % 16 == 0 for width in widths)


def _of_rank(model, corpus, policy, rank, size):
    """What one of several ranks contributes: the sum over them is what each of them gets."""
    world, kept = World(rank, size), {}

    def keeping(value):
        if value.ndim == 2:
            kept["found"] = value.numpy()
        return value

    object.__setattr__(world, "sum", keeping)
    object.__setattr__(world, "sum_of_all", lambda value: value)
    score_corpus(model, corpus, policy, world, CPU)
    return kept["found"][0]


KINDS = {Causal(): layouts(has_trees=True), Conditional(): pairs(), Masked(): layouts(), Labels(): layouts()}


@given(st.sampled_from(list(KINDS)).flatmap(lambda kind: st.tuples(st.just(kind), KINDS[kind])), WIDTHS)
def test_a_context_length_counts_what_a_target_may_see(drawn, width):
    """Written out: the columns of the mask that are true, and those of the source; less what is masked."""
    factorization, layout = drawn
    hides = factorization.hides_targets
    batch = factor(layout.packed, replace(layout.objective, factorization=factorization), SYMBOLS, width)
    sees = batch.inputs.visibility.mask() & (batch.inputs.visibility.piece >= 0)[:, None, :]
    if hides:
        sees &= (batch.weights == 0)[:, None, :]
    expected = sees.sum(-1)
    if batch.inputs.source is not None:
        read = (batch.inputs.source.inputs.visibility.piece >= 0)[:, None, :]
        expected = expected + (batch.inputs.source.mask() & read).sum(-1)
    counts = batch.weights > 0
    assert torch.equal(context_lengths(batch, hides_targets=hides)[counts], expected[counts])


def test_no_token_of_a_strided_window_sees_more_than_the_context_and_each_says_what_it_saw(tmp_path):
    _, corpus, policy, (model, _) = asked("causal on texts", tmp_path)
    policy = replace(policy, context=8, stride=3)
    found = score_corpus(model, corpus, policy, World(), CPU)
    position = np.arange(len(found.tokens)) - np.repeat(found.start[:-1], np.diff(found.start))
    assert found.context_length.max() == 8
    assert np.array_equal(found.context_length[position < 8], position[position < 8] + 1)
    assert (found.context_length[position >= 8] >= 8 - 3 + 1).all()


def test_the_noise_floor_is_what_other_company_changes(tmp_path):
    _, corpus, policy, (model, _) = asked("causal on texts", tmp_path)
    found = score_corpus(model, corpus, policy, World(), CPU)
    floor = noise_floor(model, corpus, policy, found, CPU)
    assert floor.num_sequences >= 4
    assert floor.nats_per_token <= 1e-5
    moved = change(found, token_log_prob=found.token_log_prob - 0.25)  # as if company had moved every token
    assert noise_floor(model, corpus, policy, moved, CPU).nats_per_token == pytest.approx(0.25, abs=1e-5)
    alone = replace(policy, deterministic=True)
    assert noise_floor(model, corpus, alone, score_corpus(model, corpus, alone, World(), CPU), CPU).nats == 0.0


def test_tokens_in_a_file_add_up_to_the_rows(tmp_path):
    for name in ("causal on pairs", "masked tokens", "labels", "conditional", "spans"):
        (tmp_path / name).mkdir()
        _, corpus, policy, (model, _) = asked(name, tmp_path / name)
        found = score_corpus(model, corpus, policy, World(), CPU)
        rows = ledger_rows(found, corpus)
        path = tmp_path / f"{name}.parquet"
        write_tokens(path, token_table(found, corpus, rows), {"unit": "nats"})
        table = pq.read_table(path)
        assert table.schema.equals(TOKEN_SCHEMA)
        columns = table.to_pydict()
        for row in rows:
            mine = [
                i
                for i, pair in enumerate(zip(columns["id"], columns["part"], strict=True))
                if pair == (row.id, row.part)
            ]
            assert [columns["position"][i] for i in mine] == list(range(row.num_tokens))
            assert math.fsum(columns["log_prob"][i] for i in mine) == row.log_prob
            assert sum(columns["num_bytes"][i] for i in mine) == row.num_bytes
            assert max(columns["context_length"][i] for i in mine) == row.context_length
        assert sum(bytes_of(found, corpus)) == sum(row.num_bytes for row in rows)


@pytest.fixture
def readers(monkeypatch):
    """Groups so small that several are read at once; who reads, and with how many threads."""
    monkeypatch.setattr(likelihood, "ROOM_ON_CPU", 32)
    found = set()

    def hooks(model, number):
        hidden, together = model.hidden, threading.Barrier(number)

        def watched(inputs):
            who = "main" if threading.current_thread() is threading.main_thread() else threading.get_ident()
            reader = who, torch.get_num_threads()
            if reader not in found:
                found.add(reader)
                if who != "main":
                    together.wait(10)  # for as many as are to read at once
            return hidden(inputs)

        monkeypatch.setattr(model, "hidden", watched)
        return found

    return hooks


@pytest.mark.parametrize("name", [*FAMILIES, *FINE])
def test_groups_read_at_once_say_what_one_thread_says(name, readers, tmp_path):
    _, corpus, policy, (model, _) = asked(name, tmp_path)
    policy = replace(policy, batch_size=64)
    plain, reader = score_corpus(model, corpus, policy, World(), CPU), Reader(model, corpus, policy, CPU)
    torch.set_num_threads(2)
    at_once = dict(reader.score(range(len(reader.groups) - 2)))  # none of which all threads read
    torch.set_num_threads(1)
    assert all(np.array_equal(answers.log_prob, reader.score_group(i).log_prob) for i, answers in at_once.items())
    found = readers(model, 2)
    torch.set_num_threads(2)
    together = score_corpus(model, corpus, policy, World(), CPU)
    assert ("main", 2) in found  # the last groups are read by all threads
    assert sorted(threads for _, threads in found) == [1, 1, 2]
    np.testing.assert_allclose(together.token_log_prob, plain.token_log_prob, rtol=1e-5, atol=1e-5)
    assert np.array_equal(together.context_length, plain.context_length)
    assert np.array_equal(together.is_greedy, plain.is_greedy)


@pytest.mark.parametrize("name", [*FAMILIES, *FINE])
def test_in_deterministic_mode_one_thread_reads_each_group(name, readers, tmp_path):
    _, corpus, policy, (model, _) = asked(name, tmp_path)
    policy = replace(policy, batch_size=64, deterministic=True)
    plain = score_corpus(model, corpus, policy, World(), CPU)
    found = readers(model, 2)
    torch.set_num_threads(2)
    assert np.array_equal(score_corpus(model, corpus, policy, World(), CPU).log_prob, plain.log_prob)
    assert sorted(threads for _, threads in found) == [1, 1]
    narrow = replace(policy, batch_size=1)
    assert np.array_equal(score_corpus(model, corpus, narrow, World(), CPU).log_prob, plain.log_prob)
    assert {threads for _, threads in found} == {1}


@pytest.mark.filterwarnings("ignore:.*script_method.*:DeprecationWarning")  # of torch.compile's own imports
@pytest.mark.parametrize("why", ["compiled", "no room", "too little to do"])
def test_all_threads_read_one_group(why, readers, tmp_path, monkeypatch):
    _, corpus, policy, (model, _) = asked("causal on texts", tmp_path)
    policy = replace(policy, batch_size=1 if why == "no room" else 64)
    if why == "compiled":
        model.blocks[0].compile()
    if why == "too little to do":
        monkeypatch.setattr(likelihood, "ROOM_ON_CPU", 128)  # two groups, of which the last is short
    if why == "no room":
        monkeypatch.setattr(likelihood, "ROOM_ON_CPU", policy.context)
    found = readers(model, 1)
    torch.set_num_threads(2)
    with torch.compiler.set_stance("force_eager"):
        score_corpus(model, corpus, policy, World(), CPU)
    assert found == {("main", 2)}


def test_whoever_reads_at_once_gives_the_threads_back(readers, tmp_path):
    _, corpus, policy, (model, _) = asked("causal on texts", tmp_path)
    policy = replace(policy, batch_size=64)
    for threads in (5, 3, 2):
        torch.set_num_threads(threads)
        score_corpus(model, corpus, policy, World(), CPU)
        assert torch.get_num_threads() == threads
        with ThreadPoolExecutor(1) as later:
            assert later.submit(torch.get_num_threads).result() == threads


def test_a_later_start_asks_only_for_what_is_not_yet_known(tmp_path):
    _, corpus, policy, (model, _) = asked("causal on texts", tmp_path)
    policy = replace(policy, batch_size=1)
    plain = score_corpus(model, corpus, policy, World(), CPU)
    asked_groups = []
    journal = FolderJournal(tmp_path / "journal", "key")
    stops = iter([False, False, True])
    hooks = ScoringHooks(stops=lambda: next(stops, True), journal=journal)
    with pytest.raises(Abandoned):
        score_corpus(model, corpus, policy, World(), CPU, hooks)
    journal.save()
    again = FolderJournal(tmp_path / "journal", "key")
    assert len(again.known()) == 2
    done = score_corpus(
        model, corpus, policy, World(), CPU, ScoringHooks(shows=lambda n, total: asked_groups.append(n), journal=again)
    )
    assert np.array_equal(done.token_log_prob, plain.token_log_prob)
    assert np.array_equal(done.context_length, plain.context_length)
    again.save()
    everything = FolderJournal(tmp_path / "journal", "key").known()
    assert len(asked_groups) == len(everything) - 2


def test_answers_of_another_key_and_damaged_ones_are_not_used(tmp_path):
    _, corpus, policy, (model, _) = asked("causal on texts", tmp_path)
    journal = FolderJournal(tmp_path / "journal", "key")
    score_corpus(model, corpus, policy, World(), CPU, ScoringHooks(journal=journal))
    journal.save()
    assert FolderJournal(tmp_path / "journal", "other").known() == {}
    file = next((tmp_path / "journal" / "key").rglob("answers.safetensors"))
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    journal = FolderJournal(tmp_path / "journal", "key")
    journal.clear_others()
    assert journal.known() == {}
    score_corpus(model, corpus, policy, World(), CPU, ScoringHooks(journal=journal))
    journal.save()  # beside the damaged part, under another name
    assert len(FolderJournal(tmp_path / "journal", "key").known()) > 0
    FolderJournal(tmp_path / "journal", "other").clear_others()
    assert FolderJournal(tmp_path / "journal", "key").known() == {}
