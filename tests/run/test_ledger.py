"""Every row of a step's ledger, weighed and added up, is the step's objective: whatever is asked, and however."""

import gc
import logging
import math

import numpy as np
import pytest
import torch
from msgspec.structs import replace

from tests.verbs.test_families import FAMILIES, config_of
from thetahat.core import store
from thetahat.core.errors import DataError
from thetahat.distribution.launch import launch
from thetahat.distribution.world import World
from thetahat.ledger.ledger import read_ledger
from thetahat.ledger.policy import read_policy
from thetahat.ledger.run_ledger import part_files, read_run_ledger
from thetahat.run.card import card_of
from thetahat.run.config import CheckpointConfig, LedgerConfig
from thetahat.run.log import ledger as module
from thetahat.run.machine import set_up
from thetahat.run.prepare import prepare
from thetahat.run.state import first_state
from thetahat.run.train import train
from thetahat.scoring.likelihood import ledger_rows, score_corpus


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("THETAHAT_CACHE", str(tmp_path / "cache"))


def trained(config, folder):
    """The steps' own totals."""
    return [report.step for report in train(config, folder)]


def columns(folder):
    return {
        name: np.array(values)
        for name, values in read_run_ledger(folder).to_pydict().items()
        if name not in {"blocks", "token_log_probs"}
    }


def check_sums(folder, steps):
    rows = columns(folder)
    assert sorted(set(rows["step"].tolist())) == [step.step for step in steps]
    for step in steps:
        at = rows["step"] == step.step
        value = math.fsum(rows["weight"][at] * rows["log_prob"][at])
        weight = math.fsum(rows["weight"][at] * rows["num_tokens"][at])
        assert value == pytest.approx(step.total.log_prob.item(), rel=1e-9)
        assert weight == pytest.approx(step.total.weight.item(), rel=1e-9)
        assert rows["num_tokens"][at].sum() == step.num_tokens


def check(name, tmp_path, normalization, **changes):
    config = config_of(name, tmp_path, normalization, max_steps=3, micro_batch_size=3, **changes)
    check_sums(tmp_path / "run", trained(config, tmp_path / "run"))
    keys = read_run_ledger(tmp_path / "run").select(["step", "id", "part"]).to_pylist()
    assert len({tuple(key.values()) for key in keys}) == len(keys)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_rows_of_a_step_add_up_to_its_objective_in_every_family(name, tmp_path):
    check(name, tmp_path, "dialogue")


@pytest.mark.parametrize("normalization", ["token", "sequence", "turn", "length", "sum"])
@pytest.mark.parametrize("name", ["spans", "causal on dialogues that branch"])
def test_the_rows_of_a_step_add_up_to_its_objective_under_every_normalization(name, normalization, tmp_path):
    check(name, tmp_path, normalization, dtype="float32")


@pytest.mark.parametrize("name", ["causal on texts", "conditional", "causal on dialogues that branch", "labels"])
def test_a_row_is_what_scoring_says_of_its_part(name, tmp_path):
    """At the first step, of the parameters before it, each record read alone; so rows are of the right sequences."""
    config = replace(config_of(name, tmp_path, max_steps=1, micro_batch_size=1), batch_size=3)
    copy = tmp_path / "copy" / "records.jsonl"
    copy.parent.mkdir()
    copy.write_text((tmp_path / "records.jsonl").read_text())
    config = replace(config, data=replace(config.data, held_out=str(copy)))  # where each turn is read alone
    trained(config, tmp_path / "run")
    prepared = prepare(config, None, World())
    state = first_state(config, prepared.tokenizer.vocab_size, 1, set_up(config), len(prepared.labels))
    policy = card_of(config, prepared.labels).policy(config.inference)
    corpus = prepared.held_out
    likelihoods = score_corpus(state.model, corpus, policy, World(), state.device)
    scored = {(row.id, row.part): row for row in ledger_rows(likelihoods, corpus, prepared.labels)}
    rows, metadata = read_ledger(part_files(tmp_path / "run")[0])
    assert rows
    said = read_policy(metadata, "the run's ledger")
    assert (said.during, said.normalization) == ("training", config.objective.normalization)
    assert (said.factorization, said.context, said.dtype) == (policy.factorization, policy.context, policy.dtype)
    for row in rows:
        other = scored[row.id, row.part]
        assert row.log_prob == pytest.approx(other.log_prob, rel=1e-9)
        for same in ("document", "source", "role", "num_tokens", "num_bytes", "digest", "weight"):
            assert getattr(row, same) == getattr(other, same), same


def test_a_text_in_several_pieces_has_one_row_a_step_and_every_token_once(tmp_path):
    config = config_of("causal on texts", tmp_path, max_steps=2, ledger=LedgerConfig(tokens=True), micro_batch_size=1)
    config = replace(config, data=replace(config.data, context=5, over_long="split"), batch_size=60)
    check_sums(tmp_path / "run", trained(config, tmp_path / "run"))
    table = read_run_ledger(tmp_path / "run")
    assert len(set(zip(table["id"].to_pylist(), table["step"].to_pylist(), strict=True))) == len(table)
    assert max(table["num_tokens"].to_pylist()) > 5
    for nats, count, sums in zip(
        *(table[c].to_pylist() for c in ("token_log_probs", "num_tokens", "log_prob")), strict=True
    ):
        assert len(nats) == count
        assert math.fsum(nats) == pytest.approx(sums, rel=1e-6)


TWO = dict(max_steps=4, micro_batch_size=1, checkpoint=CheckpointConfig(every=3), ledger=LedgerConfig(tokens=True))


def _rank(config, folder):
    check_sums(folder, trained(config, folder))


@pytest.mark.multi
@pytest.mark.parametrize("num_ranks", [2])
def test_several_ranks_leave_the_rows_of_one(num_ranks, tmp_path):
    config = config_of("causal on dialogues that branch", tmp_path, "turn", **TWO)
    steps = trained(config, tmp_path / "one")
    launch(_rank, num_ranks, config, tmp_path / "two")
    check_sums(tmp_path / "two", steps)
    one, two = read_run_ledger(tmp_path / "one"), read_run_ledger(tmp_path / "two")
    floats = ["log_prob", "token_log_probs"]
    assert one.drop(floats).equals(two.drop(floats))
    np.testing.assert_allclose(one["log_prob"], two["log_prob"], rtol=1e-9)
    for ours, theirs in zip(one["token_log_probs"].to_pylist(), two["token_log_probs"].to_pylist(), strict=True):
        np.testing.assert_allclose(sorted(ours), sorted(theirs), rtol=1e-5)


EVERY = {"max_steps": 6, "checkpoint": CheckpointConfig(every=2), "micro_batch_size": 3}


def test_when_it_is_brought_to_the_host_and_written_changes_no_bit(tmp_path, monkeypatch):
    config = config_of("causal on pairs", tmp_path, **EVERY, ledger=LedgerConfig(tokens=True))
    trained(config, tmp_path / "plain")
    monkeypatch.setattr(module, "MOST_HELD", {"cpu": 2**25})
    monkeypatch.setattr(module, "MOST_WAITING", 1)
    trained(config, tmp_path / "eager")
    assert read_run_ledger(tmp_path / "plain").equals(read_run_ledger(tmp_path / "eager"))
    assert (len(part_files(tmp_path / "plain")), len(part_files(tmp_path / "eager"))) == (3, 6)


def test_a_step_leaves_no_tensor_behind_that_waits_to_be_written(tmp_path):
    """Small ones, scattered among those of a step, would make the process grow."""
    config = config_of("causal on pairs", tmp_path, max_steps=12, checkpoint=CheckpointConfig(every=0))
    numbers = []
    for _ in train(config, tmp_path / "run"):
        gc.collect()
        numbers.append(sum(isinstance(one, torch.Tensor) for one in gc.get_objects()))
    assert numbers[10] <= numbers[3], numbers  # the last step is written


@pytest.mark.parametrize("settings", [LedgerConfig(every=0), LedgerConfig(every=4), LedgerConfig(tokens=True)])
def test_what_is_written_down_changes_no_number_of_the_training(settings, tmp_path):
    config = config_of("causal on pairs", tmp_path, **EVERY, dtype="float32")
    found = [trained(replace(config, ledger=one), tmp_path / str(i)) for i, one in enumerate([config.ledger, settings])]
    values = [[(s.total.log_prob.item(), s.gradient_norm.item()) for s in steps] for steps in found]
    assert values[0] == values[1]
    steps = set(read_run_ledger(tmp_path / "1")["step"].to_pylist()) if settings.every else set()
    assert steps == {step for step in range(1, 7) if settings.every and step % settings.every == 0}
    assert (tmp_path / "1" / "ledger").exists() == (settings.every > 0)


def test_a_run_without_a_ledger_says_so(tmp_path):
    with pytest.raises(DataError, match="has no ledger"):
        read_run_ledger(tmp_path)


@pytest.fixture
def paused(tmp_path):
    """A run of 6 steps that was left after the checkpoint of step 4, with rows of later steps that it does not know."""
    config = config_of("causal on pairs", tmp_path, **EVERY)
    trained(config, tmp_path / "whole")
    reports = train(config, tmp_path / "run")
    for report in reports:
        if report.step.step == 4:
            break
    reports.close()
    folder = tmp_path / "run" / "ledger"
    beyond = (tmp_path / "whole" / "ledger" / "step-00000005-00000006.parquet").read_bytes()
    (folder / "step-00000005-00000005.parquet").write_bytes(beyond)  # killed as a signal had it saved
    store.partial_name(folder / "step-00000006-00000006.parquet").write_bytes(beyond[:100])
    (folder / "mine.parquet").write_bytes(b"a user's own")
    return config, tmp_path


def test_rows_that_a_checkpoint_does_not_know_are_made_again(paused):
    config, folder = paused
    assert [step.step for step in trained(config, folder / "run")] == [5, 6]
    assert read_run_ledger(folder / "run").equals(read_run_ledger(folder / "whole"))
    whole = [path.name for path in part_files(folder / "whole")]
    assert sorted(path.name for path in (folder / "run" / "ledger").iterdir()) == ["mine.parquet", *whole]


@pytest.mark.parametrize("harm", ["missing", "damaged"])
def test_rows_that_are_lost_are_said_and_not_made_up(paused, harm, caplog):
    config, folder = paused
    path = part_files(folder / "run")[1]
    path.unlink() if harm == "missing" else path.write_bytes(path.read_bytes()[:-1] + b"?")
    caplog.set_level(logging.WARNING, "thetahat")
    trained(config, folder / "run")
    assert f"{path.name} is {harm}" in caplog.text
    assert "the rows of its steps are lost" in caplog.text
    assert path.with_name(f"{path.name}.damaged").exists() == (harm == "damaged")
    caplog.clear()
    left = read_run_ledger(folder / "run")
    assert "the rows of steps 3 to 4 are missing" in caplog.text
    assert sorted(set(left["step"].to_pylist())) == [1, 2, 5, 6]


def test_one_damaged_part_file_is_refused_by_whoever_reads_it(paused):
    _, folder = paused
    path = part_files(folder / "whole")[1]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=path.name):
        read_run_ledger(folder / "whole")
    (folder / "whole" / "ledger" / "step-00000001-00000003.parquet").write_bytes(b"")
    with pytest.raises(DataError, match="step 1 twice"):
        read_run_ledger(folder / "whole")
