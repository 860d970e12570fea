"""What a step did to each sequence, against a gradient of every sequence."""

import numpy as np
import pytest
import torch
from msgspec.structs import replace

from tests.examples import state_of
from tests.verbs.test_families import config_of
from thetahat.core.errors import NonFiniteError
from thetahat.core.random import derived_seed
from thetahat.distribution.world import World
from thetahat.objective.objective import log_likelihood
from thetahat.run.prepare import prepare
from thetahat.run.replay.again import micro_batches
from thetahat.run.replay.effects import effects, parameters_of
from thetahat.run.step import step

KINDS = ["causal on texts", "masked tokens", "labels", "spans", "causal on dialogues that branch", "prefix on pairs"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("THETAHAT_CACHE", str(tmp_path / "cache"))


def start(name, tmp_path, normalization="token", **changes):
    config = replace(config_of(name, tmp_path, normalization, micro_batch_size=2), batch_size=4, **changes)
    prepared = prepare(config, None, World())
    state = state_of(config, prepared.tokenizer.vocab_size) if not prepared.labels else _labelled(config, prepared)
    return state, micro_batches(prepared, 0, 1)


def made(state, micro):
    """The report of the step, and what it did."""
    before = parameters_of(state)
    report = step(state, [one.batch for one in micro], World())
    return report, effects(state, micro, before, report)


def _labelled(config, prepared):
    from tests.examples import enliven
    from thetahat.run.state import first_state

    state = first_state(config, prepared.tokenizer.vocab_size, 4, torch.device("cpu"), len(prepared.labels))
    enliven(state.model)
    return state


def gradients_one_by_one(state, micro):
    """By part and piece, the gradient of its share of the objective, each by a backward pass of its own."""
    batches = [one.batch for one in micro]
    divisor = 1.0 if state.config.objective.normalization == "sum" else sum(b.weight().item() for b in batches)
    found = []
    for index, batch in enumerate(batches):
        piece = batch.inputs.visibility.piece
        asked = batch.weights != 0
        for key in sorted({*zip(piece[asked].tolist(), batch.part[asked].tolist(), strict=True)}):
            mine = asked & (piece == key[0]) & (batch.part == key[1])
            torch.manual_seed(derived_seed(state.config.seed, "dropout", state.step, 0, index))
            alone = batch.__class__(
                batch.inputs,
                batch.targets,
                torch.where(mine, batch.weights, 0.0),
                batch.part,
                batch.origin,
                batch.num_bytes,
                batch.parts,
            )
            value = log_likelihood(state.model, alone).log_prob / divisor
            wanted = [p for p in state.model.parameters() if p.requires_grad]
            parts = torch.autograd.grad(value, wanted, materialize_grads=True)
            found.append(torch.cat([part.flatten() for part in parts]).numpy())
    return np.stack(found)


def check(found, each):
    """Norms, dot products and shares are those of these gradients."""
    whole = each.sum(0)
    norms, dots = np.linalg.norm(each, axis=1), each @ whole
    np.testing.assert_allclose([one.gradient_norm for one in found], norms, rtol=1e-9)
    np.testing.assert_allclose([one.dot for one in found], dots, rtol=1e-9, atol=1e-12 * (whole @ whole))
    np.testing.assert_allclose([one.share for one in found], dots / (whole @ whole), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", KINDS)
def test_shares_are_those_of_gradients_taken_one_by_one(name, tmp_path):
    state, batches = start(name, tmp_path, "sequence")
    each = gradients_one_by_one(state, batches)
    _, found = made(state, batches)
    check(found, each)
    assert sum(one.share for one in found) == pytest.approx(1, abs=1e-12)
    assert [one.sequence for one in found] == list(range(len(found)))


@pytest.mark.parametrize("case", ["dropout", "clip", "sum", "frozen", "chunks"])
def test_shares_hold_with_dropout_clipping_sums_frozen_parameters_and_chunks(case, tmp_path):
    state, batches = start("causal on pairs", tmp_path, "sum" if case == "sum" else "token")
    config = state.config
    if case == "dropout":
        config = replace(config, model=replace(config.model, dropout=0.3))
    if case == "clip":
        config = replace(config, optimization=replace(config.optimization, clip=1e-3))
    if case == "chunks":
        config = replace(config, objective=replace(config.objective, chunk_size=3))
    if case == "frozen":
        config = replace(config, frozen=("embedding.*",))
    state = state_of(config, state.model.embedding.weight.shape[0])
    each = gradients_one_by_one(state, batches)
    check(made(state, batches)[1], each)


def test_before_and_after_are_what_the_model_says_on_both_sides_of_the_update(tmp_path):
    state, batches = start("causal on dialogues that branch", tmp_path, "turn")
    other, _ = start("causal on dialogues that branch", tmp_path, "turn")
    plain = [one.batch for one in batches]
    before = sum(log_likelihood(other.model, batch).log_prob.item() for batch in plain)
    report = step(other, plain, World())
    after = sum(log_likelihood(other.model, batch).log_prob.item() for batch in plain)
    again, found = made(state, batches)
    assert again.total.log_prob.item() == report.total.log_prob.item()
    assert sum(one.weight * one.before for one in found) == pytest.approx(before, rel=1e-12)
    assert sum(one.weight * one.after for one in found) == pytest.approx(after, rel=1e-12)
    for ours, theirs in zip(state.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert sum(len(one.targets) for one in found) == report.num_tokens


@pytest.mark.parametrize("name", ["spans", "causal on dialogues that branch"])
def test_a_sequence_alone_has_the_dropout_of_its_batch(name, tmp_path):
    """In both stacks of an encoder-decoder, and in every branch."""
    state, batches = start(name, tmp_path)
    config = replace(state.config, model=replace(state.config.model, dropout=0.3))
    state = state_of(config, state.model.embedding.weight.shape[0])
    each = gradients_one_by_one(state, batches)
    check(made(state, batches)[1], each)


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-5), ("bfloat16", 5e-2)])
def test_shares_sum_to_one_up_to_rounding(dtype, bound, tmp_path):
    state, batches = start("causal on texts", tmp_path, dtype=dtype)
    assert sum(one.share for one in made(state, batches)[1]) == pytest.approx(1, abs=bound)


def test_a_step_without_a_gradient_has_no_shares(tmp_path):
    state, batches = start("causal on texts", tmp_path)
    with torch.no_grad():
        for parameter in state.model.parameters():
            parameter.zero_()
    with pytest.raises(NonFiniteError, match="zero"):
        made(state, batches)
