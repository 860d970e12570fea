"""What a run says of itself, from its folder alone: whole, damaged, and beside another."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from shlex import split

import pytest

import thetahat as th
from tests.examples import WORDS
from thetahat.cli.main import main
from thetahat.core.errors import ModelError
from thetahat.diagnosis.alarms.alarm import Alarm
from thetahat.diagnosis.causes.cause import Cause
from thetahat.run.log.alarms import ALARMS
from thetahat.verbs.diagnose import case_of, command
from thetahat.verbs.story import read_story

TINY = ["model.width=8", "model.num_layers=1", "model.num_heads=1", "model.num_kv_heads=1", "model.head_width=8",
        "model.inner_width=8", "data.context=32", "data.vocab_size=300", "batch_size=4", "max_steps=64", "threads=1",
        "evaluation.every=32", "data.train=texts.jsonl", "data.held_out=hash:0.2", "data.over_long=split", "prompt=",
        "checkpoint.every=32", "checkpoint.keep=9", "diagnosis.every=16", "diagnosis.preflight=off"]  # fmt: skip


def trained(folder, *more):
    config = th.override(th.find_recipe("quickstart"), [*TINY, *more])
    for _ in th.train(config, folder):
        pass
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("diagnose")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("THETAHAT_CACHE", str(folder / "cache"))
        lines = [
            {"text": " ".join(WORDS[(number * place) % len(WORDS)] for place in range(1, 18)), "id": f"r{number}"}
            for number in range(150)
        ]
        Path("texts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        trained(Path("run"))
        trained(Path("other"), "seed=1")
        yield folder


@pytest.fixture
def run(home, monkeypatch, tmp_path):
    """A copy of the run, which a test may spoil."""
    monkeypatch.chdir(home)
    monkeypatch.setenv("THETAHAT_CACHE", str(home / "cache"))
    shutil.copytree(home / "run", tmp_path / "run")
    return tmp_path / "run"


def said(capsys, monkeypatch, *words, code=None):
    monkeypatch.setattr(sys, "argv", ["thetahat", *map(str, words)])
    if code is None:
        main()
    else:
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == code
    return capsys.readouterr()


def add_alarm(run, alarm):
    with (run / ALARMS).open("a") as file:
        file.write(json.dumps(alarm.to_dict()) + "\n")


def test_of_a_healthy_run_it_is_said_plainly_that_nothing_is_wrong(run):
    found = th.diagnose(run)
    assert found.verdict.startswith("Nothing wrong found")
    assert [one.kind for one in found.causes if one.kind != "note"] == []
    assert found.notes == ()
    texts = [one.text for one in found.timeline]
    assert any(text.startswith("trained from step 1 to 64: ") for text in texts)
    assert any(text.startswith("best of 2 evaluations: ") for text in texts)
    assert {"alarms", "learning rate and schedule", "batches that came again", "order of the data"} <= {*found.looked}


def test_it_is_shown_as_text_and_as_json(run, capsys, monkeypatch):
    add_alarm(run, Alarm("bad-batch", "warning", 40, "a sequence \x1b[31m costs much", {"excess": 3.0}))
    told = said(capsys, monkeypatch, "diagnose", run)
    assert "bad-batch at step 40" in told.out
    assert "\x1b" not in told.out
    assert f"thetahat train --branch {run}@32 diagnosis.policies.bad-batch=skip" in told.out
    assert "Looked at: " in told.out
    found = json.loads(said(capsys, monkeypatch, "diagnose", run, "--json").out)
    assert found["causes"][0]["name"] == "bad-batch"
    assert found["causes"][0]["command"].endswith("diagnosis.policies.bad-batch=skip")
    assert "commands" not in found


def test_what_is_to_be_typed_is_a_command_that_begins_a_run(run, monkeypatch):
    advice = ("optimization.matrices.learning_rate=0.001", "no.such.key=1", "batch_size=4")
    cause = Cause("any", "trouble", "strong", 40, "", (), advice=advice)
    typed = split(command(cause, read_story(run)))
    assert typed == ["thetahat", "train", "--branch", f"{run}@32", "optimization.matrices.learning_rate=0.001"]
    assert th.branch(typed[3], typed[4:]).parent.step == 32
    first = Cause("any", "trouble", "strong", 10, "", (), advice=advice[:1])
    assert f"{run}@0 " in command(first, read_story(run))
    shutil.rmtree(run / "checkpoints" / "step-00000000")
    assert command(first, read_story(run)).startswith(f"thetahat train {run}/config.toml optim")
    shape = Cause("any", "trouble", "strong", 40, "", (), advice=("model.placement=post",))
    assert command(shape, read_story(run)) == f"thetahat train {run}/config.toml model.placement=post"
    assert command(Cause("any", "note", "weak", 40, "", ()), read_story(run)) == ""
    again = Cause("not-reproduced", "fault", "certain", 40, "", ())
    assert command(again, read_story(run)) == f"thetahat replay {run} --step 40"


def test_the_verdict_counts_what_is_wrong(run):
    add_alarm(run, Alarm("loss-spike", "critical", 5, "what", {}))
    add_alarm(run, Alarm("bad-batch", "warning", 60, "what", {}))
    verdict = th.diagnose(run).verdict
    assert verdict.startswith("loss-spike at step 5: ")
    assert verdict.endswith(", and 1 cause more.")


def test_a_run_is_judged_by_what_its_config_says(run):
    case = case_of(read_story(run))
    assert case.is_on_cpu
    assert case.is_watched
    assert case.is_drawn
    assert (case.num_steps, case.first_step, case.every) == (64, 0, 16)
    text = (run / "config.toml").read_text()
    (run / "config.toml").write_text(text.replace('device = "cpu"', 'device = "cuda"'))
    assert not case_of(read_story(run)).is_on_cpu


def test_of_a_damaged_folder_the_rest_is_used_and_what_is_lost_is_said(run):
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 65, "tok')  # by a crash
    (run / ALARMS).write_text('{"who": "a foreign line"}\n')
    add_alarm(run, Alarm("loss-spike", "warning", 40, "what", {}))
    shutil.rmtree(run / "checkpoints" / "step-00000064")
    for part in (run / "ledger").glob("*.parquet"):
        part.write_bytes(part.read_bytes()[:-9])
    (run / "config.toml").unlink()
    (run / "starts.jsonl").write_text('{"torn')
    found = th.diagnose(run)
    assert [one.name for one in found.causes if one.kind != "note"] == ["loss-spike"]
    notes = "\n".join(found.notes)
    for lost in ("metrics.jsonl: line 67 ", "alarms.jsonl: line 1 ", "checkpoints/latest names step-00000064",
                 part.name, "config.toml: "):  # fmt: skip
        assert lost in notes
    assert "weight of records: no ledger" in found.lacking
    assert "learning rate and schedule" in found.looked  # the config of a checkpoint is used


def test_of_a_ledger_whose_one_file_is_damaged_the_others_are_read(run):
    whole = len(read_story(run).ledger)
    part = next((run / "ledger").glob("*.parquet"))
    part.write_bytes(part.read_bytes()[:-9])
    story = read_story(run)
    assert 0 < len(story.ledger) < whole
    assert any("is damaged" in note for note in story.notes)


@pytest.mark.parametrize("gone", ["metrics.jsonl", "environment.json", "checkpoints", "ledger", "starts.jsonl"])
def test_anything_may_be_gone(run, gone, home):
    (shutil.rmtree if (run / gone).is_dir() else Path.unlink)(run / gone)
    assert th.diagnose(run).verdict
    assert th.diagnose(run, home / "other").verdict


def test_what_is_no_run_is_refused(run, tmp_path, capsys, monkeypatch):
    with pytest.raises(ModelError, match="is no run folder"):
        th.diagnose(tmp_path)
    assert "thetahat runs" in said(capsys, monkeypatch, "diagnose", tmp_path, code=4).err


def test_two_runs_of_other_seeds_differ_in_what_they_read_from_the_first_step_on(run, home, capsys, monkeypatch):
    found = th.diagnose(run, home / "other")
    assert found.config == {"seed": (0, 1)}
    assert found.divergence.departures[0].signal == "batch"
    assert found.divergence.departures[0].step == 1
    assert "what was read" in found.verdict
    assert found.data == {}
    told = said(capsys, monkeypatch, "diagnose", run, home / "other").out
    assert "Where they part" in told
    assert "seed  0     1" in told
    same = th.diagnose(run, home / "run")
    assert "bit for bit, in all 64 steps" in same.verdict
    assert (same.config, same.data, same.environment) == ({}, {}, {})


def test_no_torch_is_needed(run):

    asked = f"import sys, thetahat as th; th.diagnose({str(run)!r}); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", asked], check=False).returncode == 0
