"""An alarm that takes a run back: the same bits as of a run that was told from the beginning what to leave out."""

import shutil
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace
from safetensors.torch import load_file

from tests.diagnosis.test_watch_runs import (
    STEPS,
    garbage_config,
    ledger_rows,
    lines_of,
    parameters_at,
    same,
    step_of_garbage,
)
from thetahat.core.config import from_toml, override, to_toml
from thetahat.core.errors import ConfigError, ModelError, StoppedError
from thetahat.distribution.launch import launch
from thetahat.optimization.clip import clip_and_measure
from thetahat.run.config import CheckpointConfig, RunConfig, differences
from thetahat.run.folder.files import AVERAGE, all_checkpoints, read_progress, step_of
from thetahat.run.log.alarms import ALARMS, read_alarms
from thetahat.run.log.metrics import METRICS
from thetahat.run.log.rewinds import REWINDS, last_made, read_rewinds
from thetahat.run.step import step as make_step
from thetahat.run.train import train
from thetahat.verbs.diagnose import diagnose
from thetahat.verbs.replay import replay
from thetahat.verbs.watch import watch

BACK = ["diagnosis.policies.gradient-spike=rewind", "diagnosis.rewind_batches=6"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rewind")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THETAHAT_CACHE", str(folder / "cache"))
        yield folder


@pytest.fixture(scope="module")
def config(home):
    """With dropout, accumulation and an average; fewer checkpoints are kept than going back needs."""
    made = garbage_config(home, checkpoint=CheckpointConfig(every=3, keep=1), micro_batch_size=2)
    averaged = replace(made.optimization, ema=0.9)
    return replace(made, model=replace(made.model, dropout=0.1), optimization=averaged)


@pytest.fixture(scope="module")
def back(config, home):
    """A run that went back."""
    reports = list(train(override(config, BACK), home / "back"))
    return home / "back", reports


def told(config):
    """What the run is told from the beginning, so that it need not go back."""
    step = step_of_garbage(config)
    return override(config, [f"skip_steps={list(range(step - 5, step + 1))}"])


def all_of(run, step=STEPS):
    return parameters_at(run, step) | load_file(run / "checkpoints" / f"step-{step:08d}" / AVERAGE)


def names(run):
    return [folder.name for folder in all_checkpoints(run)]


def check_same(ours, theirs):
    assert same(all_of(ours), all_of(theirs))
    for name in (METRICS, ALARMS):
        assert lines_of(ours / name) == lines_of(theirs / name)
    assert ledger_rows(ours) == ledger_rows(theirs)


def test_the_bits_are_those_of_a_run_that_was_told_from_the_beginning(config, back, home):
    run, reports = back
    list(train(told(config), home / "told"))
    check_same(run, home / "told")
    step = step_of_garbage(config)
    (rewind,) = read_rewinds(run)
    assert (rewind.step, rewind.skip_steps) == (step, tuple(range(step - 5, step + 1)))
    assert step - 6 - 3 - 6 <= rewind.to < step - 5  # of each 6 steps the first checkpoint is kept
    assert [alarm.name for alarm in rewind.alarms] == ["gradient-spike"]
    skipped = [line["step"] for line in lines_of(run / METRICS) if line.get("skipped") == ["skip_steps"]]
    assert skipped == list(rewind.skip_steps)
    made = [report.step.step for report in reports]
    assert made == [*range(1, step), *range(rewind.to + 1, STEPS + 1)]
    assert not same(all_of(run), all_of_plain(config, home))


def all_of_plain(config, home):
    list(train(config, home / "plain"))
    return all_of(home / "plain")


def test_what_was_undone_is_set_aside_and_said(config, back):
    run, _ = back
    step, (rewind,) = step_of_garbage(config), read_rewinds(run)
    undone = sorted(int(path.name[5:13]) for path in (run / "checkpoints").glob("step-*.undone"))
    assert undone == [at for at in range(rewind.to + 3, step, 3)][-len(undone) :]
    assert undone
    assert [folder.name for folder in all_checkpoints(run)][-1] == f"step-{STEPS:08d}"
    alarms, _ = read_alarms(run)
    assert [(one.step, one.action) for one in alarms if one.name == "gradient-spike"] == [(step, "rewind")]
    said = f"{rewind.alarms[0].what}; the run went back"
    assert [one.step for one in diagnose(run).timeline if said in one.text] == [step]
    assert any("gradient-spike" in alarm for alarm in watch(run).alarms)
    assert read_progress(all_checkpoints(run)[-1])["skip_steps"] == list(rewind.skip_steps)


def test_its_steps_are_made_again_to_the_bit(config, back):
    run, _ = back
    (rewind,) = read_rewinds(run)
    for step in (rewind.skip_steps[0], rewind.step + 1, STEPS):
        found = replay(str(run), step)
        assert found.is_reproduced, found.verdict()
        assert found.to_dict()["skipped"] == (step in rewind.skip_steps)
    lines = (run / METRICS).read_text()
    try:  # the record says it, too
        (run / METRICS).write_text("".join(f"{line}\n" for line in lines.splitlines() if '"skipped"' not in line))
        assert replay(str(run), STEPS, to_checkpoint=True).is_reproduced
    finally:
        (run / METRICS).write_text(lines)


def test_with_one_batch_it_is_the_policy_that_skips(config, home, tmp_path):
    for name, action in (("a", "skip"), ("b", "rewind")):
        more = [] if action == "skip" else ["diagnosis.rewind_batches=1"]
        list(train(override(config, [f"diagnosis.policies.gradient-spike={action}", *more]), tmp_path / name))
    assert same(all_of(tmp_path / "a"), all_of(tmp_path / "b"))


def grow_from(first, patch):
    """Norms of the gradient are 100 times as large from a step on, whatever is left out."""
    making = 0

    def noting(state, *words):
        nonlocal making
        making = state.step + 1
        return make_step(state, *words)

    def grown(parameters, max_norm):
        found = clip_and_measure(parameters, max_norm)
        return found._replace(norm=found.norm * (100.0 if making >= first else 1.0))

    patch.setattr("thetahat.run.train.step", noting)
    patch.setattr("thetahat.run.step.clip_and_measure", grown)


def trained(config, run, tells):
    for report in train(config, run):
        tells(report)


def test_a_run_that_goes_back_too_often_stops_and_with_another_limit_goes_on(config, home, tmp_path, monkeypatch):
    changed, run = override(config, [*BACK, "diagnosis.max_rewinds=2", "max_steps=40"]), tmp_path / "run"
    said = r"gradient-spike.*; the run stops.*; it went back 2 times already\n  try: diagnosis\.max_rewinds=4"
    with monkeypatch.context() as patch:
        grow_from(34, patch)
        with pytest.raises(StoppedError, match=said):
            list(train(changed, run))
    first, second = read_rewinds(run)
    assert first.skip_steps == tuple(range(29, 35))
    assert second.skip_steps == (*range(24, 29), 35)  # it comes back at once: more of what was before is undone
    assert second.to < 24
    assert step_of(all_checkpoints(run)[-1]) == 35
    more = override(changed, ["diagnosis.max_rewinds=4"])
    assert differences(more, changed) == []
    assert [report.step.step for report in train(more, run)] == [36, 37, 38, 39, 40]


class Died(BaseException):
    """As if the process were killed there."""


@pytest.mark.parametrize("name", ["find_newest", "restore", "note_beginning", "begin_watch"])
def test_who_dies_behind_the_decision_goes_on_to_the_same_bits(config, back, home, tmp_path, monkeypatch, name):
    """Killed before every operation of it: tests/faults/test_rewind.py."""

    def dies(*words, **more):
        raise Died

    run, last = tmp_path / "run", step_of_garbage(config) - 1
    with monkeypatch.context() as patch:

        def tells(report):
            if report.step.step == last:
                patch.setattr(f"thetahat.run.start.{name}", dies)

        with pytest.raises(Died):
            trained(override(config, BACK), run, tells)
    assert len(read_rewinds(run)) == 1
    list(train(override(config, BACK), run))
    check_same(run, back[0])
    assert read_rewinds(run) == read_rewinds(back[0])


def test_steps_are_left_out_without_a_watch_and_where_they_are_not_finite(config, home, tmp_path, monkeypatch):
    step = step_of_garbage(config)

    def overflowing(parameters, max_norm):
        if made == [*range(1, step)]:
            parameters[0].grad[0, 0] = torch.inf
        return clip_and_measure(parameters, max_norm)

    monkeypatch.setattr("thetahat.run.step.clip_and_measure", overflowing)
    for number, more in enumerate(([], ["diagnosis.alarms=false"])):
        made = []
        for report in train(override(config, [f"skip_steps=[{step}]", *more]), tmp_path / f"{number}"):
            made.append(report.step.step)
        lines = lines_of(tmp_path / f"{number}" / METRICS)
        assert [line["step"] for line in lines if line.get("skipped") == ["skip_steps"]] == [step]
    assert same(all_of(tmp_path / "0"), all_of(tmp_path / "1"))


def _train_as_a_rank(name):
    folder = Path(name)
    list(train(from_toml((folder / "config.toml").read_text(), RunConfig), folder / "run"))


@pytest.mark.multi
def test_two_ranks_go_back_alike_and_to_the_bits_of_two_that_were_told(config, home, tmp_path):
    made = override(config, ["micro_batch_size=1"])
    for name, one in (("back", override(made, BACK)), ("told", told(made))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.toml").write_text(to_toml(one))
        launch(_train_as_a_rank, 2, str(tmp_path / name))
    assert len(read_rewinds(tmp_path / "back" / "run")) == 1
    check_same(tmp_path / "back" / "run", tmp_path / "told" / "run")
    found = replay(str(tmp_path / "back" / "run"), STEPS)
    assert found.is_reproduced, found.verdict()
    assert found.again.num_ranks == 2


def test_a_record_that_is_damaged_is_said_and_no_run_goes_on_without_it(config, back, tmp_path):
    run = Path(shutil.copytree(back[0], tmp_path / "run"))
    (run / REWINDS).write_text((run / REWINDS).read_text()[:-40])
    with pytest.raises(ModelError, match=r"rewinds\.jsonl:1 is damaged\n  try: put rewinds\.jsonl back"):
        list(train(override(config, BACK), run))
    assert any("rewinds.jsonl:1 is damaged" in note for note in diagnose(run).notes)


def test_the_updates_that_are_undone_are_the_last_that_were_made():
    assert last_made(9, 3, 0, set()) == (7, 8, 9)
    assert last_made(9, 3, 0, {5, 7, 8}) == (4, 6, 9)
    assert last_made(9, 5, 6, {8}) == (7, 9)


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        (
            ["diagnosis.policies.overfitting=rewind"],
            r"single batches\n  allowed: record, skip, stop; rewind for",
        ),
        (["diagnosis.rewind_batches=3"], r"rewind_batches=3 has no effect: no policy is rewind"),
        (["diagnosis.max_rewinds=9", "diagnosis.policies.bad-batch=skip"], r"max_rewinds=9 has no effect"),
        (["skip_steps=[0]"], r"skip_steps"),
    ],
)
def test_what_cannot_go_back_is_refused(config, pairs, said):
    with pytest.raises(ConfigError, match=said):
        override(config, pairs)


def test_what_is_left_out_is_a_difference_and_the_limit_is_none(config):
    back = override(config, BACK)
    assert differences(override(back, ["diagnosis.max_rewinds=9"]), back) == []
    assert len(differences(override(back, ["diagnosis.rewind_batches=9"]), back)) == 1
    assert len(differences(override(config, ["skip_steps=[7,3,7]"]), config)) == 1
    assert override(config, ["skip_steps=[7,3,7]"]).skip_steps == (3, 7)
