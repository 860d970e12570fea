"""Any step of a run made again: the same bits, on one rank and on two, and what it says of the step."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace
from safetensors.torch import load_file

from tests.verbs.test_families import config_of
from thetahat.cli.main import main
from thetahat.core.config import from_toml, override, to_toml
from thetahat.core.errors import ConfigError, NonFiniteError
from thetahat.distribution.launch import launch
from thetahat.distribution.mesh import MeshConfig
from thetahat.distribution.world import World
from thetahat.optimization.config import AdamW, OptimizationConfig
from thetahat.run.branch import branch
from thetahat.run.config import CheckpointConfig, RunConfig
from thetahat.run.folder.files import AVERAGE
from thetahat.run.prepare import prepare
from thetahat.run.train import train
from thetahat.verbs.replay import replay

STEPS = 8


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("replay")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THETAHAT_CACHE", str(folder / "cache"))
        yield folder


def config_in(folder, name="causal on pairs", **changes):
    """Rows of several documents in unequal micro-batches, with dropout, and more than one epoch."""
    config = config_of(name, folder, "sequence", micro_batch_size=3, max_steps=STEPS, dtype="float32", **changes)
    return replace(config, model=replace(config.model, dropout=0.1), checkpoint=CheckpointConfig(every=3, keep=9))


@pytest.fixture(scope="module")
def run(home):
    list(train(config_in(home), home / "run"))
    return home / "run"


def copied(run, folder):
    """A copy that a test may damage."""
    return Path(shutil.copytree(run, folder / "copy"))


def contents(run):
    return {path: path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}


def lines_of(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def written(run, lines):
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize(("step", "made", "checkpoint"), [(3, 3, "3"), (5, 2, "")])
def test_a_step_has_the_bits_of_the_run_and_nothing_of_it_is_changed(run, step, made, checkpoint):
    before = contents(run)
    found = replay(str(run), step)
    assert found.is_reproduced
    assert found.again.num_made == made
    assert found.again.compared == [
        f"{made} of {made} steps in metrics.jsonl",
        *([f"every tensor of step-0000000{checkpoint}"] if checkpoint else []),
    ]
    assert contents(run) == before
    told = found.to_dict()
    line = lines_of(run)[step - 1]
    for name in ("step", "log_likelihood_per_token", "gradient_norm", "learning_rate_factor"):
        assert told[name] == line[name]
    assert told["sum_of_shares"] == pytest.approx(1, abs=1e-5)
    assert sum(one["num_tokens"] for one in told["sequences"]) == told["num_targets"]
    worst = min(min(one.log_probs) for one in found.effects)
    assert told["worst_tokens"][0]["log_prob"] == worst
    squares = sum(one.gradient**2 for one in found.parts)
    assert squares**0.5 == pytest.approx(line["gradient_norm"], rel=1e-5)
    assert [one.name for one in found.outcomes] == ["as it was made", "dtype=bfloat16"]
    assert found.outcomes[1].gradient_norm == pytest.approx(line["gradient_norm"], rel=0.05)
    assert found.outcomes[1].gradient_norm != line["gradient_norm"]


@pytest.mark.parametrize("name", ["masked tokens", "spans"])
def test_masks_and_spans_have_the_same_bits(home, tmp_path, name):
    list(train(config_in(tmp_path, name), tmp_path / "run"))
    assert replay(str(tmp_path / "run"), 5, to_checkpoint=True).again.compared == [
        "3 of 3 steps in metrics.jsonl",
        "every tensor of step-00000006",
    ]


def _train_as_a_rank(name):
    folder = Path(name)
    list(train(from_toml((folder / "config.toml").read_text(), RunConfig), folder / "run"))


def _replay_as_a_rank(name, out):
    found = replay(name, 5)
    if found.effects:
        Path(out).write_text(json.dumps([found.is_reproduced, found.to_dict()["gradient_norm"], found.again.num_ranks]))


@pytest.mark.multi
def test_the_bits_of_two_ranks_are_made_by_one_process_and_by_two(home, tmp_path):
    config = override(config_in(tmp_path), ["micro_batch_size=1", "max_steps=6", "optimization.ema=0.5"])
    (tmp_path / "config.toml").write_text(to_toml(config))
    launch(_train_as_a_rank, 2, str(tmp_path))
    run = tmp_path / "run"
    for step in (2, 5):
        found = replay(str(run), step, to_checkpoint=True)
        assert found.is_reproduced, found.verdict()
        assert found.again.num_ranks == 2
        assert len({micro.rank for micro in found.again.batches}) == 2
        assert sum(one.share for one in found.effects) == pytest.approx(1, abs=1e-5)
    average = load_file(run / "checkpoints" / "step-00000006" / AVERAGE)
    assert all(torch.equal(one, average[name]) for name, one in found.again.state.average.tensors.items())
    launch(_replay_as_a_rank, 2, str(run), str(tmp_path / "out.json"))
    assert json.loads((tmp_path / "out.json").read_text()) == [True, lines_of(run)[4]["gradient_norm"], 2]


def _pipeline(folder, *keys):
    """A run of two stages with dropout."""
    usual = ["micro_batch_size=2", "max_steps=2", "mesh.pipeline=2", "mesh.turns=2", "model.num_layers=4"]
    config = override(config_in(folder), [*usual, "diagnosis.preflight=off", *keys])
    (folder / "config.toml").write_text(to_toml(config))
    launch(_train_as_a_rank, 2, str(folder))
    return str(folder / "run")


@pytest.mark.multi
def test_the_bits_of_a_pipeline_are_made_by_one_process(home, tmp_path):
    """Each group of layers has drawn its own dropout."""
    found = replay(_pipeline(tmp_path, "model.ties_embeddings=false"), 2, to_checkpoint=True)
    assert found.is_reproduced, found.verdict()
    assert found.again.num_ranks == 1
    assert found.again.record.mesh(2) == MeshConfig(pipeline=2, turns=2)


@pytest.mark.slow
@pytest.mark.multi
def test_a_pipeline_adds_up_a_tied_table_in_another_order_and_replay_says_so(home, tmp_path):
    told = replay(_pipeline(tmp_path, "model.ties_embeddings=true"), 2).verdict()
    assert "mesh.pipeline=2: its ends each add up a part of the tied table, and then both" in told
    assert re.search(r"-m thetahat train --branch \S+run@0 mesh.pipeline=2 mesh.turns=2 --out DIR", told)


def test_bits_that_differ_are_a_failure_with_the_first_that_does(run, tmp_path, monkeypatch, capsys):
    copy = copied(run, tmp_path)
    lines = lines_of(copy)
    lines[4]["gradient_norm"] *= 1 + 2**-50
    written(copy, lines)
    assert replay(str(copy), 3).is_reproduced  # before it all is well
    monkeypatch.setattr(sys, "argv", ["thetahat", "replay", str(copy), "--step", "6", "-q"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 6
    told = capsys.readouterr().err
    assert re.search(r"not reproduced: suspect hardware\. step 5: gradient_norm was \d\.\d+, and is \d\.\d+\n", told)
    environment = json.loads((copy / "environment.json").read_text())
    environment["packages"]["torch"] = "1.13"
    (copy / "environment.json").write_text(json.dumps(environment))
    found = replay(str(copy), 5)
    assert "not reproduced: made elsewhere (torch: 1.13 then, " in found.verdict()
    assert not found.is_reproduced


def test_a_tensor_of_a_checkpoint_that_differs_is_named(run, monkeypatch):
    def other(path):
        tensors = load_file(path)
        tensors["head.weight"][1, 2] += 1e-6
        return tensors

    monkeypatch.setattr(
        "thetahat.run.replay.again.load_tensors", lambda path: other(path) if "model" in path.name else {}
    )
    found = replay(str(run), 6)
    assert found.again.differences[0].what == "head.weight of step-00000006"
    assert found.is_reproduced is False


def test_an_average_that_differs_is_named(home, tmp_path, monkeypatch):
    list(train(override(config_in(tmp_path), ["max_steps=3", "optimization.ema=0.5"]), tmp_path / "run"))
    assert replay(str(tmp_path / "run"), 2, to_checkpoint=True).is_reproduced

    def load(path):
        tensors = load_file(path)
        if path.name == AVERAGE:
            tensors["head.weight"][1, 2] += 1e-6
        return tensors

    monkeypatch.setattr("thetahat.run.replay.again.load_tensors", load)
    found = replay(str(tmp_path / "run"), 3)
    assert [one.what for one in found.again.differences] == ["the average of head.weight of step-00000003"]


def test_a_checkpoint_that_is_damaged_or_gone_is_said_and_an_earlier_one_taken(run, tmp_path):
    copy = copied(run, tmp_path)
    (copy / "checkpoints" / "step-00000003" / "model.safetensors").write_bytes(b"x")
    found = replay(str(copy), 5)
    assert found.is_reproduced
    assert found.again.num_made == 5
    assert "step-00000003 is damaged, and left out" in found.to_dict()["notes"][0]
    shutil.rmtree(copy / "checkpoints" / "step-00000000")
    (copy / "metrics.jsonl").write_bytes((copy / "metrics.jsonl").read_bytes()[:-30])
    found = replay(str(copy), 2)  # step 0 is a function of the config
    assert found.is_reproduced
    assert found.to_dict()["from"] == "step 0"


def test_a_branch_is_made_again_from_its_parent_and_says_whose_earlier_steps_are(run, tmp_path):
    list(train(branch(f"{run}@3", ["max_steps=5", "optimization.clip=0.5"]), tmp_path / "branch"))
    shutil.rmtree(tmp_path / "branch" / "checkpoints" / "step-00000003")
    found = replay(str(tmp_path / "branch"), 4)
    assert found.is_reproduced
    assert found.to_dict()["from"] == str(run / "checkpoints" / "step-00000003")
    with pytest.raises(ConfigError, match=r"allowed: 4 to 5\n  try: thetahat replay \S+run --step 2, its parent"):
        replay(str(tmp_path / "branch"), 2)


def test_the_same_step_otherwise(run):
    plain = replay(str(run), 5)
    suspect = plain.effects[0].part.id
    found = replay(str(run), 5, without=[suspect], learning_rate_factor=0.5, changes=["optimization.clip=0.01"])
    assert found.outcomes[:2] == plain.outcomes
    assert found.outcomes[2].name == f"without {suspect}; learning rates x 0.5; optimization.clip=0.01"
    halved = replay(str(run), 5, learning_rate_factor=0.5).outcomes[2]
    assert halved.update == pytest.approx(plain.outcomes[0].update / 2, rel=1e-4)
    assert halved.gradient_norm == plain.outcomes[0].gradient_norm
    without = replay(str(run), 5, without=[suspect]).outcomes[2]
    counts = [(one.part.id, one.weight * len(one.targets), one.weight * one.before) for one in plain.effects]
    assert without.gradient_norm != plain.outcomes[0].gradient_norm
    kept = [(weight, nats) for name, weight, nats in counts if name != suspect]
    assert len(kept) < len(counts)
    mean = sum(nats for _, nats in kept) / sum(weight for weight, _ in kept)
    assert without.log_likelihood_per_token == pytest.approx(mean, rel=0.05)  # dropout is not in `before`


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({"step": 9}, r"has not made a step 9\n  allowed: 1 to 8"),
        ({"step": 2, "without": ["nobody"]}, r"step 2 has no sequence 'nobody'\n  allowed: "),
        ({"step": 2, "changes": ["batch_size=2"]}, r"batch_size cannot be another in one step"),
        ({"step": 2, "changes": ["model.width=8"]}, r"model.width cannot be another in one step"),
        ({"step": 2, "changes": ["checkpoint.keep=3"]}, r"changes nothing that a step depends on"),
    ],
)
def test_what_cannot_be_asked_is_said(run, words, told):
    with pytest.raises(ConfigError, match=told):
        replay(str(run), **words)


def test_a_checkpoint_is_no_run(run):
    with pytest.raises(ConfigError, match=r"a step is wanted\n  try: \S+run --step N"):
        replay(f"{run}@3")


HUGE = "d5"


def exploding(folder, policy):
    """A run in which the gradient of one record overflows float32."""
    config = config_of("causal on texts", folder, "sum", micro_batch_size=2, max_steps=STEPS, dtype="float32")
    lines = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    for number, line in enumerate(lines):
        line |= {"id": f"d{number}"} | ({"weight": 1e39} if f"d{number}" == HUGE else {})
    (folder / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rule = AdamW(learning_rate=0.01)
    optimization = OptimizationConfig(
        matrices=rule, embeddings=rule, vectors=rule, schedule=config.optimization.schedule, clip=1.0
    )
    changes = [
        f"diagnosis.policies.non-finite={policy}",
        "diagnosis.preflight=off",
        "checkpoint.every=1",
        "checkpoint.keep=9",
    ]
    return override(replace(config, optimization=optimization, batch_size=4), changes)


def step_of_huge(config):
    order = prepare(config, None, World()).order
    return next(step + 1 for step in range(STEPS) if HUGE in dict(order.sequences(step)))


def test_a_step_that_failed_is_made_again_and_its_sequence_named(home, tmp_path):
    config = exploding(tmp_path, "stop")
    step = step_of_huge(config)
    with pytest.raises(
        NonFiniteError, match=rf"step {step}: .*Sequences: {HUGE}; first in log-likelihood in the backw"
    ):
        list(train(config, tmp_path / "run"))
    found = replay(str(tmp_path / "run"), without=[HUGE])
    assert found.again.report.step == step  # which ended the run
    assert found.is_reproduced
    assert not found.again.is_finite
    assert [one.id for one in found.blame.culprits] == [HUGE]
    assert [one.gradient_norm < float("inf") for one in found.outcomes] == [False, False, True]
    assert found.outcomes[2].update > 0


def test_an_update_that_a_policy_left_out_is_left_out_again(home, tmp_path):
    config = exploding(tmp_path, "skip")
    step = step_of_huge(config)
    list(train(config, tmp_path / "run"))
    shutil.rmtree(tmp_path / "run" / "checkpoints" / f"step-{step:08d}")
    found = replay(str(tmp_path / "run"), step + 1)
    assert found.is_reproduced, found.verdict()
    assert found.again.num_made == 2
    there = replay(str(tmp_path / "run"), step)
    assert there.is_reproduced
    assert there.to_dict()["skipped"]
    assert there.to_dict()["finite"] is False


def test_the_command_says_it_on_one_screen(run, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["thetahat", "replay", str(run), "--step", "5", "dtype=float64"])
    main()
    said = capsys.readouterr()
    assert f"step 5 of {run}, from {run}/checkpoints/step-00000003" in said.out
    assert "reproduced, bit for bit: 2 of 2 steps in metrics.jsonl" in said.out
    assert "the least likely tokens" in said.out
    assert "dtype=float64" in said.out
    assert said.out.count("\n") <= 50
    assert "Next: thetahat " in said.err


def test_json_is_one_object(run, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["thetahat", "replay", str(run), "--step", "5", "--json", "-q"])
    main()
    told = json.loads(capsys.readouterr().out)
    assert (told["step"], told["reproduced"], told["ranks"]) == (5, True, 1)
    assert {one["name"] for one in told["parts"]} >= {"embedding", "vectors", "blocks.0.mlp"}
    assert [one["name"] for one in told["layers"]] == ["blocks.0", "blocks.1"]
    assert torch.tensor([one["share"] for one in told["sequences"]]).sum().item() == pytest.approx(1, abs=1e-5)
