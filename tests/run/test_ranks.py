"""What a run of two ranks has beside its parameters: samples, trackers, alarms and an average, each thing once."""

import json
import os
from pathlib import Path

import pytest
from msgspec.structs import replace
from safetensors.torch import load_file

from tests.examples import SENTENCE, TINY, run_config
from tests.run import track_stores
from thetahat.core.config import from_toml, override, to_toml
from thetahat.core.errors import StoppedError
from thetahat.data.config import DataConfig
from thetahat.distribution.launch import launch
from thetahat.run.config import RunConfig
from thetahat.run.folder.files import AVERAGE, MODEL, folder_of, read_progress
from thetahat.run.log.samples import read_samples
from thetahat.run.train import train

pytestmark = pytest.mark.multi


def _train_as_a_rank(name):
    folder, seen = Path(name), []
    try:
        for report in train(from_toml((folder / "config.toml").read_text(), RunConfig), folder / "run"):
            seen.append([report.step.step, [alarm.name for alarm in report.alarms], len(report.samples)])
        told = "ended"
    except StoppedError as error:
        told = error.what
    (folder / f"rank-{os.environ['RANK']}.json").write_text(json.dumps([seen, told]))


def test_two_ranks_have_samples_and_trackers_once_and_lose_patience_together(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard", reason="pip install 'thetahat[track]' brings tensorboard")
    monkeypatch.setenv("THETAHAT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "text.txt").write_text(f"{SENTENCE} " * 20)
    text = str(tmp_path / "text.txt")
    data = DataConfig(train=text, held_out="tail:0.5", context=32, over_long="split", vocab_size=300)
    config = run_config(replace(TINY, num_layers=1), data=data, max_steps=9, dtype="float32", threads=1, batch_size=4)
    rules = [f"optimization.{rule}.learning_rate=1e-30" for rule in ("matrices", "embeddings", "vectors")]
    rules += ["optimization.ema=0.5", "evaluation.every=1", "track=[tensorboard]", "diagnosis.preflight=off"]
    rules += ["samples.prompts=[the whale, a ship]", "samples.max_tokens=3", "samples.every=1", "checkpoint.every=1"]
    patient = ["diagnosis.patience=2", "diagnosis.policies.no-improvement=stop"]  # nothing improves at such a rate
    (tmp_path / "config.toml").write_text(to_toml(override(config, [*rules, *patient])))
    launch(_train_as_a_rank, 2, str(tmp_path))
    seen, told = zip(*(json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in (0, 1)), strict=True)
    assert told[0] == told[1]
    assert told[0].startswith("no-improvement at step 3: ")
    assert [[step, names] for step, names, _ in seen[0]] == [[step, names] for step, names, _ in seen[1]]
    run = tmp_path / "run"
    alarms = [json.loads(line) for line in (run / "alarms.jsonl").read_text().splitlines()]
    assert [alarm["step"] for alarm in alarms if alarm["name"] == "no-improvement"] == [3]
    prompts = [(one.step, one.prompt) for one in read_samples(run)]
    assert prompts == [(step, prompt) for step in (1, 2, 3) for prompt in ("the whale", "a ship")]
    found = track_stores.tensorboard(run, "")
    assert [step for step, _ in found[track_stores.CURVES[0]]] == [1, 2, 3]
    assert found["samples"] == [1, 1, 2, 2, 3, 3]
    newest = folder_of(run, 3)
    assert read_progress(newest)["averaged"] == 3
    average, parameters = load_file(newest / AVERAGE), load_file(newest / MODEL)
    assert all(one.equal(parameters[name]) for name, one in average.items())  # of what never moved
