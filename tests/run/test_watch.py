"""What merely watches a run may change when it goes on; what the result depends on may not."""

import contextlib
import json
import sys

import pytest
from msgspec.structs import replace
from safetensors.torch import load_file

from tests.examples import SENTENCE, TINY, run_config
from thetahat.cli.main import main
from thetahat.core.config import from_toml, override, to_toml
from thetahat.core.errors import FolderError
from thetahat.core.schema import known_keys
from thetahat.core.store import digest_file
from thetahat.data.config import DataConfig
from thetahat.run.config import RunConfig, WatchConfig, differences, digest
from thetahat.run.folder.checkpoint import read_config, settle
from thetahat.run.folder.files import MODEL, OPTIMIZER
from thetahat.run.log.metrics import METRICS, MetricsLog, evaluation_after
from thetahat.run.train import train

WATCHING = ["evaluation.every=1", "checkpoint.every=2", "checkpoint.keep=5", "ledger.every=0", "prompt=Once"]


@pytest.fixture
def config(tmp_path, monkeypatch):
    return settings_of(tmp_path, monkeypatch)


def settings_of(tmp_path, monkeypatch):
    monkeypatch.setenv("THETAHAT_CACHE", str(tmp_path / "cache"))
    text = tmp_path / "text.txt"
    text.write_text(f"{SENTENCE} " * 20)
    data = DataConfig(train=str(text), held_out="tail:0.1", context=32, over_long="split", vocab_size=300)
    config = run_config(replace(TINY, num_layers=1), data=data, max_steps=6, dtype="float32", threads=1)
    return override(config, ["evaluation.every=3"])


def stopped_after(step, config, run):
    """Trains until a step, as a pause by the clock does."""
    while step:
        list(train(config, run, max_minutes=0.0))
        step -= 1


def lines_of(run):
    lines = [json.loads(line) for line in (run / METRICS).read_text().splitlines()]
    return [{name: value for name, value in line.items() if "second" not in name} for line in lines]


def evaluations(lines):
    return [line["step"] for line in lines if "held_out_bits_per_byte" in line]


def test_a_run_goes_on_under_another_watch_to_the_same_parameters(config, tmp_path):
    list(train(config, tmp_path / "whole"))
    stopped_after(2, config, tmp_path / "run")
    list(train(override(config, WATCHING), tmp_path / "run"))
    ours, theirs = (load_file(tmp_path / run / "checkpoints" / "step-00000006" / MODEL) for run in ("run", "whole"))
    assert {name: value.tolist() for name, value in ours.items()} == {k: v.tolist() for k, v in theirs.items()}
    lines, whole = lines_of(tmp_path / "run"), lines_of(tmp_path / "whole")
    assert evaluations(whole) == [3, 6]
    assert evaluations(lines) == [2, 3, 4, 5, 6]  # that of step 2 is due now, and is made up for
    assert [line for line in lines if line in whole] == whole
    noted = [json.loads(line) for line in (tmp_path / "run" / "watch.jsonl").read_text().splitlines()]
    assert [(line["step"], line["evaluation"]["every"], line["prompt"]) for line in noted] == [
        (0, 3, ""),
        (2, 1, "Once"),
    ]
    assert read_config(tmp_path / "run").watch == override(config, WATCHING).watch


OTHERS = {  # of every key that watches, another value than the config's
    "evaluation.every": "1",
    "evaluation.max_documents": "1",
    "evaluation.final": "false",
    "checkpoint.every": "2",
    "checkpoint.keep": "5",
    "ledger.every": "2",
    "ledger.tokens": "true",
    "diagnosis.preflight": "warn",
    "diagnosis.alarms": "false",
    "diagnosis.every": "2",
    "diagnosis.patience": "1",
    "diagnosis.memorize": "2",
    "diagnosis.webhook": "http://127.0.0.1:9/nobody",
    "diagnosis.policies": '{loss-spike="stop"}',
    "samples.prompts": "Once",
    "samples.every": "2 samples.prompts=Once",
    "samples.max_tokens": "3 samples.prompts=Once",
    "samples.temperature": "0 samples.prompts=Once",
    "track": "tensorboard",
    "prompt": "Once",
    "heartbeat.silence": "20",
    "heartbeat.stall": "90",
    "heartbeat.patience": "3600",
}
OF_REWINDS = {"diagnosis.rewind_batches", "diagnosis.max_rewinds"}  # refused without a policy that is a difference
LEAVES = [
    key
    for key in known_keys(WatchConfig)
    if key not in OF_REWINDS and not any(other.startswith(f"{key}.") for other in known_keys(WatchConfig))
]


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory):
    """The parameters and the optimizer's state of a run whose watch never changed."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("unchanged")
        config = settings_of(home, patch)
        list(train(config, home / "run"))
        yield bits_of(home / "run")


def bits_of(run):
    folder = run / "checkpoints" / "step-00000006"
    return [digest_file(folder / name) for name in (MODEL, OPTIMIZER)]


@pytest.mark.parametrize("key", LEAVES)
def test_every_key_that_watches_may_change_in_the_middle_and_no_bit_does(config, tmp_path, unchanged, key):
    if key == "track":
        pytest.importorskip("tensorboard", reason="pip install 'thetahat[track]' brings tensorboard")
    stopped_after(2, config, tmp_path / "run")
    changed = override(config, f"{key}={OTHERS[key]}".split(" "))
    assert changed != config
    stopped_after(2, changed, tmp_path / "run")
    list(train(config, tmp_path / "run"))
    assert bits_of(tmp_path / "run") == unchanged


@pytest.mark.parametrize("pair", WATCHING)
def test_no_setting_of_the_watch_is_a_difference(config, pair):
    other = override(config, [pair])
    assert differences(config, other) == []
    assert digest(config) == digest(other)
    assert from_toml(to_toml(other), RunConfig) == other


@pytest.mark.parametrize("pair", ["evaluation.stride=8", "evaluation.batch_size=2", "seed=9", "micro_batch_size=1"])
def test_what_numbers_depend_on_is_a_difference_and_train_says_how_to_train_on(config, tmp_path, pair):
    list(train(config, tmp_path / "run"))
    with pytest.raises(
        FolderError,
        match=r"(?s)" + pair.split("=")[0] + r": .*--branch \S+run " + pair + r" .*base=\S+run .*--fresh .*--out ",
    ):
        list(train(override(config, [pair]), tmp_path / "run"))


def test_train_says_that_a_run_was_finished_before(config, tmp_path, capfd):
    (tmp_path / "config.toml").write_text(to_toml(config))
    outcomes = []
    for more in ([], ["prompt=Once"]):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                sys, "argv", ["thetahat", "train", str(tmp_path / "config.toml"), "--out", str(tmp_path / "run")]
            )
            sys.argv += ["--json", *more]
            with contextlib.suppress(SystemExit):
                main()
        said = capfd.readouterr()
        outcomes.append((json.loads(said.out.splitlines()[-1]), "finished before; nothing was done" in said.err))
    (first, is_said), (again, is_said_again) = outcomes
    assert (is_said, is_said_again) == (False, True)
    assert again == first | {"finished_before": True}


def test_a_finished_run_under_another_watch_is_still_finished(config, tmp_path):
    list(train(config, tmp_path / "run"))
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert list(train(override(config, WATCHING), tmp_path / "run")) == []
    assert {path: path.read_bytes() for path in before} == before


def test_an_evaluation_that_is_missing_is_made_and_names_the_best(config, tmp_path):
    """As one that was broken off: its step is saved, and its line is not there."""
    run = tmp_path / "run"
    list(train(config, run))
    whole, best = (run / METRICS).read_bytes(), (run / "checkpoints" / "best").read_text()
    newest = run / "checkpoints" / "step-00000006"
    (run / METRICS).write_bytes(b"".join(whole.splitlines(keepends=True)[:-1]))
    weights = digest_file(newest / MODEL)
    (report,) = train(config, run)
    assert (report.step, report.checkpoint) == (None, None)
    assert report.held_out.bits_per_byte == evaluation_after(run / METRICS, 6).value
    assert lines_of(run)[-1] == {k: v for k, v in json.loads(whole.splitlines()[-1]).items() if "second" not in k}
    settle(run, newest, 2)
    assert (run / "checkpoints" / "best").read_text() == best
    assert digest_file(newest / MODEL) == weights
    assert list(train(config, run)) == []


def test_the_log_keeps_the_evaluation_of_the_checkpoint_that_it_is_cut_to_and_nothing_else(tmp_path):
    step, evaluation = b'{"step": 4}\n', b'{"step": 4, "held_out_bits_per_byte": 2.5}\n'
    for more, kept in {
        b"": b"",
        evaluation: evaluation,
        evaluation + b'{"step": 5}\n': evaluation,
        evaluation[:-1]: b"",
        b'{"step": 5}\n': b"",
        evaluation.replace(b"4,", b"5,"): b"",
        b"\xff held_out_bits_per_byte\n": b"",
    }.items():
        (tmp_path / METRICS).write_bytes(step + more)
        MetricsLog(tmp_path / METRICS, len(step), 4)
        assert (tmp_path / METRICS).read_bytes() == step + kept
