"""What a run says while it trains: alarms with their sequences, what a policy does, and nothing else."""

import contextlib
import json
import random
import shutil

import pytest
import torch
from msgspec.structs import replace
from safetensors.torch import load_file

from tests.examples import TINY, WORDS, run_config
from thetahat.core.config import from_toml, override, to_toml
from thetahat.core.errors import ConfigError, NonFiniteError, StoppedError
from thetahat.data.config import DataConfig
from thetahat.diagnosis.config import DiagnosisConfig
from thetahat.ledger.run_ledger import read_run_ledger
from thetahat.optimization.clip import clip_and_measure
from thetahat.optimization.config import AdamW, Constant, OptimizationConfig
from thetahat.run.config import RunConfig, differences
from thetahat.run.diagnosis.watch import ALARMS
from thetahat.run.folder.checkpoint import OPTIMIZER
from thetahat.run.folder.files import MODEL, read_progress
from thetahat.run.log.metrics import METRICS
from thetahat.run.prepare import prepare
from thetahat.run.train import train

STEPS = 60
GARBAGE = "garbage"


def garbage_config(home, **changes):
    """A run on one sentence over and over, and one record that is not like the others."""
    draw = random.Random(3)
    lines = [{"id": f"r{number}", "text": " ".join(WORDS)} for number in range(240)]
    odd = "".join(draw.choice("qzxjkvwfy0123456789#@!%&") for _ in range(40))
    lines.insert(120, {"id": GARBAGE, "text": odd})
    (home / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    data = DataConfig(train=str(home / "records.jsonl"), held_out="none", context=64, over_long="split", vocab_size=280)
    rule = AdamW(learning_rate=0.03)
    optimization = OptimizationConfig(
        matrices=rule, embeddings=rule, vectors=rule, schedule=Constant(warmup_steps=5), clip=1.0
    )
    settings = {"data": data, "optimization": optimization, "dtype": "float32", "batch_size": 4, "max_steps": STEPS}
    model = replace(TINY, num_layers=1, width=16, inner_width=24)
    return run_config(model, diagnosis=DiagnosisConfig(every=20), **(settings | changes))


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    home = tmp_path_factory.mktemp("watched")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THETAHAT_CACHE", str(home / "cache"))
        yield garbage_config(home)


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    run = tmp_path_factory.mktemp("whole") / "run"
    reports = list(train(config, run))
    return run, reports


def step_of_garbage(config):
    order = prepare(config).order
    return next(step + 1 for step in range(STEPS) if GARBAGE in dict(order.sequences(step)))


def lines_of(path):
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: value for name, value in line.items() if "second" not in name} for line in lines]


def parameters_at(run, step):
    folder = run / "checkpoints" / f"step-{step:08d}"
    return {**load_file(folder / MODEL), **load_file(folder / OPTIMIZER)}


def same(ours, theirs):
    return ours.keys() == theirs.keys() and all(ours[name].equal(theirs[name]) for name in ours)


def test_the_record_that_is_not_like_the_others_is_named(config, whole):
    run, reports = whole
    alarm, *others = lines_of(run / ALARMS)
    assert (alarm["name"], alarm["step"], alarm["action"]) == ("bad-batch", step_of_garbage(config), "record")
    assert [(other["name"], other["step"]) for other in others] == [
        ("loss-spike", alarm["step"]),
        ("gradient-spike", alarm["step"]),
    ]
    assert alarm["suspects"][0]["id"] == GARBAGE
    assert "#" in alarm["suspects"][0]["text"]
    told = [(report.step.step, alarm.name) for report in reports for alarm in report.alarms]
    assert told == [(alarm["step"], name) for name in ("bad-batch", "loss-spike", "gradient-spike")]
    metrics = lines_of(run / METRICS)
    assert [line["step"] for line in metrics if "alarms" in line] == [alarm["step"]]
    assert [line["step"] for line in metrics if "signals" in line] == sorted({alarm["step"], 20, 40, 60})
    signals, parts = metrics[39]["signals"], {"embedding", "vectors", "blocks.0.attention", "blocks.0.mlp", "head"}
    assert set(signals["gradient_norm"]) == set(signals["update_ratio"]) == set(signals["second_moment_lag"]) == parts
    assert set(signals["max_attention_logit"]) == set(signals["residual_rms"]) == {"blocks.0"}
    assert set(signals["moved"].values()) == {1.0}


def test_a_run_is_the_same_with_and_without(config, whole, tmp_path):
    list(train(override(config, ["diagnosis.alarms=false", "diagnosis.preflight=off"]), tmp_path / "run"))
    assert same(parameters_at(tmp_path / "run", STEPS), parameters_at(whole[0], STEPS))
    assert not (tmp_path / "run" / ALARMS).exists()
    keys = {"log_normalizer", "worst_excess", "alarms", "signals"}
    plain = [{key: value for key, value in line.items() if key not in keys} for line in lines_of(whole[0] / METRICS)]
    assert lines_of(tmp_path / "run" / METRICS) == plain


def test_a_policy_leaves_the_update_out_and_writes_it_down(config, tmp_path):
    step = step_of_garbage(config)
    changed = override(
        config,
        [f"max_steps={step}", f"checkpoint.every={step - 1}", "diagnosis.policies.bad-batch=skip"],
    )
    reports = list(train(changed, tmp_path / "run"))
    assert [report.step.step for report in reports if report.step.is_skipped] == [step]
    before, after = (parameters_at(tmp_path / "run", number) for number in (step - 1, step))
    assert same(before, after)
    assert [line["step"] for line in lines_of(tmp_path / "run" / METRICS) if "skipped" in line] == [step]
    assert lines_of(tmp_path / "run" / ALARMS)[0]["action"] == "skip"


def test_a_policy_stops_the_run_saves_it_and_another_goes_on_to_the_bit(config, whole, tmp_path):
    step = step_of_garbage(config)
    with pytest.raises(StoppedError, match=rf"bad-batch at step {step}: .*\n  try: diagnosis\.policies\.bad-batch=rec"):
        list(train(override(config, ["diagnosis.policies.bad-batch=stop"]), tmp_path / "run"))
    assert lines_of(tmp_path / "run" / ALARMS)[0]["action"] == "stop"
    newest = tmp_path / "run" / "checkpoints" / (tmp_path / "run" / "checkpoints" / "latest").read_text()
    assert read_progress(newest)["step"] == step - 1
    list(train(config, tmp_path / "run"))
    assert same(parameters_at(tmp_path / "run", STEPS), parameters_at(whole[0], STEPS))
    for name in (METRICS, ALARMS):
        assert lines_of(tmp_path / "run" / name) == lines_of(whole[0] / name)
    assert ledger_rows(tmp_path / "run") == ledger_rows(whole[0])


def ledger_rows(run):
    table = read_run_ledger(run)
    return sorted(zip(*(table[name].to_pylist() for name in ("step", "id", "log_prob")), strict=True))


def overflowing(parameters, max_norm):
    """As where a product in the backward pass overflows."""
    parameters[0].grad[0, 0] = torch.inf
    return clip_and_measure(parameters, max_norm)


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_what_is_not_finite_never_reaches_the_parameters_and_is_written_down(config, tmp_path, monkeypatch, policy):
    changed = override(config, ["max_steps=28", f"diagnosis.policies.non-finite={policy}"])
    running, told = train(changed, tmp_path / "run"), []
    fails = pytest.raises(NonFiniteError, match="step 26: ") if policy == "stop" else contextlib.nullcontext()
    with fails:
        for report in running:
            told.append(report)
            clipping = overflowing if len(told) == 25 else clip_and_measure
            monkeypatch.setattr("thetahat.run.step.clip_and_measure", clipping)
    (alarm,) = lines_of(tmp_path / "run" / ALARMS)
    assert (alarm["name"], alarm["step"], alarm["action"], alarm["where"]) == ("non-finite", 26, policy, "embedding")
    assert [report.step.step for report in told if report.step.is_skipped] == ([26] if policy == "skip" else [])
    assert len(told) == (28 if policy == "skip" else 25)


def test_what_is_found_after_an_update_stops_behind_it_and_nothing_is_lost(config, tmp_path):
    small = AdamW(learning_rate=1e-30)
    rules = {name: small for name in ("matrices", "embeddings", "vectors")}
    still = replace(config, optimization=replace(config.optimization, **rules), max_steps=8)
    still = override(still, ["diagnosis.preflight=off", "diagnosis.every=4"])
    with pytest.raises(StoppedError, match=r"not-updated in \S+ at step 4: .*; the run stops"):
        list(train(override(still, ["diagnosis.policies.not-updated=stop"]), tmp_path / "run"))
    assert [report.step.step for report in train(still, tmp_path / "run")] == [5, 6, 7, 8]
    assert [line["step"] for line in lines_of(tmp_path / "run" / METRICS)] == list(range(1, 9))
    assert [(line["name"], line["step"]) for line in lines_of(tmp_path / "run" / ALARMS)] == [("not-updated", 4)]
    with pytest.raises(ConfigError, match=r"not-updated=skip comes too late"):
        override(config, ["diagnosis.policies.not-updated=skip"])


def test_a_run_that_overfits_is_stopped_early(config, tmp_path):
    draw = random.Random(1)
    for name, count in (("few", 8), ("others", 30)):
        lines = [{"text": " ".join(draw.choices(WORDS, k=20))} for _ in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    data = replace(config.data, train=str(tmp_path / "few.jsonl"), held_out=str(tmp_path / "others.jsonl"))
    fitting = override(replace(config, data=data), ["max_steps=200", "evaluation.every=20"])
    with pytest.raises(StoppedError, match=r"overfitting at step \d+: .* bits per byte held out, and "):
        list(train(override(fitting, ["diagnosis.policies.overfitting=stop"]), tmp_path / "run"))
    (alarm,) = [line for line in lines_of(tmp_path / "run" / ALARMS) if line["name"] == "overfitting"]
    values = {
        line["step"]: line["held_out_bits_per_byte"]
        for line in lines_of(tmp_path / "run" / METRICS)
        if "held_out_bits_per_byte" in line
    }
    assert alarm["step"] == max(values)
    assert alarm["evidence"]["best"] == min(values.values()) < values[alarm["step"]]
    assert alarm["advice"] == [f"max_steps={min(values, key=lambda step: values[step])}"]


def test_only_policies_that_skip_are_a_difference(config):
    for name, action, count in (("loss-spike", "stop", 0), ("loss-spike", "skip", 1), ("non-finite", "skip", 1)):
        other = override(config, [f"diagnosis.policies.{name}={action}"])
        assert len(differences(other, config)) == count
        assert from_toml(to_toml(other), RunConfig) == other
    with pytest.raises(ConfigError, match=r"no alarm"):
        override(config, ["diagnosis.policies.odd=skip"])


def test_steps_that_are_made_again_are_compared_with_what_they_were(config, tmp_path):
    """The last checkpoint is gone, and a line of before says something else; untouched lines raise nothing."""
    run, changed = tmp_path / "run", override(config, ["max_steps=12", "checkpoint.every=4", "checkpoint.keep=9"])
    list(train(changed, run))
    whole = lines_of(run / METRICS)
    near = {"gradient_norm": whole[9]["gradient_norm"] * (1 + 1e-4)}
    elsewhere = (run / "environment.json").read_text().replace('"torch": "', '"torch": "0')
    for wrong, said, environment in (
        (None, None, None),
        ({"gradient_norm": 7.5}, "critical", None),
        ({"batch": "other"}, "critical", None),
        (near, "critical", None),
        (near, "note", elsewhere),
    ):
        if environment:
            (run / "environment.json").write_text(environment)
        shutil.rmtree(run / "checkpoints" / "step-00000012")
        lines = (run / METRICS).read_text().splitlines()
        if wrong:
            lines[9] = json.dumps(json.loads(lines[9]) | wrong)
        (run / METRICS).write_text("\n".join([*lines, '{"torn']))
        list(train(changed, run))
        again = lines_of(run / METRICS)
        assert [line.pop("alarms", None) for line in again][9] == (["not-reproduced"] if said else None)
        assert ("signals" in again[9]) == bool(said)
        again[9].pop("signals", None)
        assert again == whole
        alarms = lines_of(run / ALARMS) if (run / ALARMS).exists() else []
        assert [(alarm["severity"], alarm["step"]) for alarm in alarms] == ([(said, 10)] if said else [])
