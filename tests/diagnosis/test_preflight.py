"""Every check before the first step passes where nothing is wrong, and fails on the fault that it is for."""

import math
from dataclasses import replace as with_fields

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from torch import nn

from tests.diagnosis.faults import both_ways, documents, merged, packed, probe_of, seeing, shifted, with_mask, with_rate
from tests.examples import corpus_of, parts_of, run_config, state_of
from thetahat.core.visibility import Visibility
from thetahat.data.corpus.build import build_corpus
from thetahat.data.read.record import Record
from thetahat.data.tokens.tokenizer import train_tokenizer
from thetahat.diagnosis.preflight.budget import epochs, schedule
from thetahat.diagnosis.preflight.check import check
from thetahat.diagnosis.preflight.likelihood import beginning
from thetahat.diagnosis.preflight.records import (
    LEAST_REPEATS,
    LONGEST_PERIOD,
    duplicates,
    near_empty,
    records,
    repeated,
)
from thetahat.diagnosis.preflight.vocabulary import unused_tokens
from thetahat.distribution.world import World
from thetahat.objective.config import Masked, ObjectiveConfig, Prefix
from thetahat.objective.factorization import causal, prefix
from thetahat.optimization.config import WSD, Constant, Cosine, OptimizationConfig
from thetahat.recipes.quickstart import quickstart
from thetahat.run.step import step


def names(found):
    return [finding.name for finding in found]


def wrong(probe):
    return [finding.name for finding in check(probe) if finding.is_wrong]


def test_nothing_is_found_where_nothing_is_wrong():
    assert check(probe_of()) == []


def test_a_prefix_may_see_all_of_its_prompt():
    objective = ObjectiveConfig(factorization=Prefix())
    assert wrong(probe_of(prefix(packed(seeds=[7, 8, 9, 10, 11]), objective), factorization=Prefix())) == []


def test_branches_may_see_what_they_continue():
    record = [[number] * len(text) for number, text in zip([0, 0, 1, 2, 2], documents(5), strict=True)]
    branches = packed(parents=[-1, 0, -1, -1, 3], part=record, parts=parts_of([30, 12, 30]))
    assert wrong(probe_of(causal(branches))) == []


@pytest.mark.parametrize("rows", [(0, 1, 2), (0, 0, 0, 1, 1)], ids=["alone", "packed"])
def test_a_look_at_the_future_is_found(rows):
    probe = both_ways(probe_of(causal(packed(rows))))
    assert "reads-the-future" in wrong(probe)


def test_a_mask_that_is_late_by_one_is_found(monkeypatch):
    def late(seen, mask):
        return mask | (torch.eye(mask.shape[1], dtype=torch.bool).roll(1, 1) & mask.new_ones(()))

    assert wrong(seeing(probe_of())) == []
    monkeypatch.setattr(Visibility, "mask", with_mask(late))
    assert "reads-the-future" in wrong(seeing(probe_of()))


def test_documents_that_see_each_other_are_found():
    assert wrong(merged(probe_of())) == ["shifted-targets", "leak-between-documents"]


def test_a_mask_that_forgets_the_documents_is_found(monkeypatch):
    def forgetting(seen, mask):
        return mask.new_ones(mask.shape).tril()

    monkeypatch.setattr(Visibility, "mask", with_mask(forgetting))
    assert wrong(seeing(probe_of())) == ["leak-between-documents"]


@pytest.mark.parametrize("offset", [0, 2, 3, -1])
def test_targets_that_are_shifted_are_found(offset):
    found = [finding for finding in check(shifted(probe_of(), offset)) if finding.is_wrong]
    assert "shifted-targets" in names(found)
    if offset in (0, 2, -1):
        assert f"100% are {offset} positions behind" in str(found[0])


def test_a_target_that_an_encoder_reads_is_found():
    probe = shifted(probe_of(), 0)
    assert "reads-its-targets" in wrong(with_fields(probe, factorization=Masked()))


def test_a_model_that_knows_its_targets_is_found():
    config = run_config(dtype="float32")
    state = state_of(config, 61)
    batch = causal(packed())
    for _ in range(40):
        step(state, [batch], World())
    knowing = with_fields(probe_of(batch), model=state.model, optimizer=state.optimizer)
    assert "knows-targets-already" in wrong(knowing)
    assert "knows-targets-already" not in wrong(with_fields(knowing, is_drawn=False))


def test_a_base_that_knows_less_than_chance_is_said():
    probe = probe_of(is_drawn=False)
    with torch.no_grad():
        probe.model.head.weight.mul_(400)
    assert "base-knows-less-than-chance" in names(check(probe))


def test_first_parameters_of_the_wrong_scale_are_found():
    probe = probe_of()
    with torch.no_grad():
        probe.model.head.weight.mul_(50)
    assert wrong(probe) == ["wrong-scale"]


def test_log_probabilities_that_are_not_finite_are_found():
    probe = probe_of()
    with torch.no_grad():
        probe.model.head.weight[3] = torch.inf
    assert "not-finite" in wrong(probe)


def test_the_first_value_is_that_of_normal_logits():
    probe = probe_of()
    with torch.no_grad():
        probe.model.head.weight.mul_(20)
    found = beginning(probe)
    assert found.chance == pytest.approx(math.log(61) + found.deviation**2 / 2, abs=0.25)
    hidden = probe.hidden.double().flatten(0, 1).numpy()
    where = np.flatnonzero(probe.batch.weights.flatten().numpy())
    logits = hidden[where] @ probe.model.head.weight.detach().double().numpy().T
    log_z = np.log(np.exp(logits).sum(1))
    targets = probe.batch.targets.flatten().numpy()[where]
    costs = [log_z[i] - logits[i, target] for i, target in enumerate(targets)]
    assert found.mean == pytest.approx(sum(costs) / len(costs), rel=1e-5)
    assert found.chance == pytest.approx((log_z - logits.mean(1)).mean(), rel=1e-5)
    assert found.deviation == pytest.approx(math.sqrt(logits.var(1).mean()), rel=1e-5)
    shares = [list(targets).count(target) / len(targets) for target in set(targets)]
    assert found.spread == pytest.approx(found.deviation * math.sqrt(sum(p * p for p in shares)), rel=1e-9)


def test_a_parameter_that_no_group_has_is_found():
    probe = probe_of()
    del probe.optimizer.rules[0].group.parameters["blocks.0.mlp.up.weight"]
    assert wrong(probe) == ["wrong-group"]


def test_a_parameter_that_is_frozen_by_mistake_is_found():
    probe = probe_of()
    probe.model.blocks[0].mlp.up.weight.requires_grad_(False)
    found = [finding for finding in check(probe) if finding.is_wrong]
    assert names(found) == ["wrong-group", "frozen-parameters"]
    assert "blocks.0.mlp.up.weight" in found[1].what
    assert wrong(with_fields(probe_of(), trained=frozenset())) == []


def test_an_optimizer_of_other_parameters_is_found():
    """As when a model is moved or wrapped after its optimizer was made."""
    probe = probe_of()
    block = probe.model.blocks[1]
    block.mlp.down.weight = nn.Parameter(block.mlp.down.weight.detach().clone())
    assert "wrong-group" in wrong(probe)


def test_an_update_that_moves_nothing_is_found():
    assert wrong(probe_of(config=with_rate(1e-30))) == ["not-updated"]
    probe = probe_of()
    probe.optimizer.rules[1].optimizer.step = lambda: None
    assert wrong(probe) == ["not-updated"]


def test_a_parameter_that_no_log_probability_depends_on_is_found(monkeypatch):
    probe = probe_of()
    block = probe.model.blocks[0]
    monkeypatch.setattr(type(block), "_network", lambda self, x: x * 0 if self is block else block_network(self, x))
    found = [finding for finding in check(probe) if finding.is_wrong]
    assert names(found) == ["not-in-the-objective"]
    assert "blocks.0.mlp" in found[0].what


def block_network(block, x):
    return block.dropout(block.mlp_out_norm(block.mlp(block.mlp_norm(x))))


def test_a_learning_rate_that_overwrites_the_parameters_is_said():
    found = check(probe_of(config=with_rate(0.5)))
    assert names(found) == ["learning-rate-too-high"]
    assert not found[0].is_wrong


def test_decay_of_gains_is_said():
    found = check(probe_of(config=with_rate(1e-3, weight_decay=0.1)))
    assert names(found) == ["decayed-gains"]
    assert "optimization.vectors.weight_decay=0" in str(found[0])


def test_a_source_that_the_wrong_document_reads_is_found(monkeypatch):
    from tests.diagnosis.pairs import pair_probe
    from thetahat.core.batch import Source

    assert wrong(pair_probe()) == []
    monkeypatch.setattr(Source, "mask", lambda self: torch.ones(*self.piece.shape, self.inputs.tokens.shape[1]).bool())
    assert wrong(pair_probe()) == ["leak-between-documents"]


def test_the_state_is_left_as_it_was_to_the_bit():
    probe = probe_of(config=with_rate(1e-3))
    torch.manual_seed(5)
    tensors = {**dict(probe.model.named_parameters()), **probe.optimizer.state()}
    before = {name: value.detach().clone() for name, value in tensors.items()}
    random, rates = torch.get_rng_state(), [r.optimizer.param_groups[0]["lr"] for r in probe.optimizer.rules]
    check(probe)
    assert all(torch.equal(value, before[name]) for name, value in tensors.items())
    assert {name: value.data_ptr() for name, value in probe.optimizer.state().items()}.keys() <= before.keys()
    assert torch.equal(torch.get_rng_state(), random)
    assert all(parameter.grad is None for parameter in probe.model.parameters())
    assert probe.model.training
    assert rates == [rule.optimizer.param_groups[0]["lr"] for rule in probe.optimizer.rules]


def test_a_warm_up_that_outlasts_the_run_is_said():
    rules = with_rate(1e-3).optimization
    plain = dict(matrices=rules.matrices, embeddings=rules.embeddings, vectors=rules.vectors)
    for chosen, num_steps, share in (
        (Constant(warmup_steps=200), 100, "50%"),
        (Constant(warmup_steps=100), 100, ""),
        (WSD(warmup_steps=100, decay=0.5), 100, "67%"),
        (WSD(warmup_steps=50, decay=0.5), 100, ""),
        (Cosine(warmup_steps=150), 100, "67%"),
        (quickstart().optimization.schedule, 20, ""),  # 91 %
        (Constant(warmup_steps=200), 19, ""),  # a trial
    ):
        found = list(schedule(OptimizationConfig(schedule=chosen, **plain), num_steps))
        assert names(found) == ["peak-never-reached"] * bool(share)
        assert all(finding.what.endswith(f"come to {share} of their peak") for finding in found)


def test_many_epochs_are_said():
    assert names(epochs(4100, 100)) == ["many-epochs"]
    assert names(epochs(4000, 100)) == []


def slowly_repeated(tokens):
    found = np.zeros(len(tokens), bool)
    for period in range(1, LONGEST_PERIOD + 1):
        size = period * LEAST_REPEATS
        for start in range(len(tokens) - size + 1):
            if all(tokens[i] == tokens[i - period] for i in range(start + period, start + size)):
                found[start : start + size] = True
    return found


@given(seed=st.integers(0, 10_000))
def test_repeated_n_grams_are_those_of_the_definition(seed):
    draw = np.random.default_rng(seed)
    pieces = [draw.integers(0, 50, draw.integers(0, 30)) for _ in range(3)]
    period = draw.integers(1, 6)
    gram = draw.integers(0, 3, period)
    size = LEAST_REPEATS * period + draw.integers(-3, 4)
    tokens = np.concatenate([pieces[0], np.resize(gram, size), *pieces[1:]])
    assert repeated(tokens).tolist() == slowly_repeated(tokens.tolist()).tolist()


def corpus(texts):
    made = [Record(text=text, id=f"d{i}", document=f"d{i}", source="test") for i, text in enumerate(texts)]
    return build_corpus(made, train_tokenizer(["a whale and a ship", *texts], 300), {}, None)


def test_the_training_data_is_looked_through():
    assert names(records(corpus_of(20))) == []
    texts = [f"text number {i} of some that are all alike in length" for i in range(20)]
    assert "3 of 23 records (13%)" in str(next(duplicates(corpus([*texts, *texts[:3]]))))
    found = [finding for finding in records(corpus([*texts[:5], "na " * 400])) if finding.name == "repeated-n-grams"]
    assert "first in d5" in found[0].what
    assert "the first of them d7" in str(next(near_empty(corpus([*texts[:7], "", *texts[7:]]))))


def test_a_vocabulary_of_other_text_is_said():
    ours, theirs = (
        train_tokenizer(["a whale, ", "a ship and "] * 9, 261),
        train_tokenizer(["zyx wvu tsr qpo " * 9], 290),
    )
    of = Record("a whale, a ship and ", "d", "d", "s", 1.0)
    assert list(unused_tokens(build_corpus([of], ours, {}, None), ours.num_bytes)) == []
    foreign = build_corpus([of], theirs, {}, None)
    (found,) = unused_tokens(foreign, theirs.num_bytes)
    asked = [size for size in theirs.num_bytes.tolist() if size >= 2]
    used = {token for token in foreign.tokens.tolist() if theirs.num_bytes[token] >= 2}
    assert f"{len(asked) - len(used):,} of {len(asked):,} tokens" in found.what
    assert not found.is_wrong
