"""The law of runs: what is read of them, what is said, and what is refused."""

import json
import shutil

import numpy as np
import pytest
from msgspec.structs import replace

import thetahat as th
from tests.commands import thetahat
from thetahat.core.config import to_toml
from thetahat.core.errors import ConfigError, ModelError
from thetahat.data.tokens.tokenizer import load_tokenizer
from thetahat.model.size import num_parameters
from thetahat.run.folder.config import read_config
from thetahat.statistics.scaling import Law
from thetahat.verbs.scaling import best_size, scaling

TINY = ["model.num_layers=1", "model.num_heads=1", "model.num_kv_heads=1", "model.head_width=16", "model.width=16"]
TINY += ["model.inner_width=32", "data.vocab_size=300", "data.context=32", "batch_size=2", "threads=1", "max_steps=2"]
VOCABULARY = 293  # as many tokens as the text gives
LAW = Law(1.5, (90.0, 60.0), (0.35, 0.3))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of two steps."""
    folder = tmp_path_factory.mktemp("scaling")
    text = folder / "text.txt"
    text.write_text("the whale, the sea and the captain; a ship that sails at night\n" * 300, encoding="utf-8")
    run = folder / "trained"
    for _ in th.train(th.override(th.find_recipe("quickstart"), [*TINY, f"data.train={text}"]), run):
        pass
    assert load_tokenizer(run / "tokenizer.json").vocab_size == VOCABULARY
    return run


@pytest.fixture
def make(trained, tmp_path):
    """Copies of the run in which width, tokens and loss are others."""

    def copy(name, width=16, tokens=1000, loss=None, **changes):
        run = tmp_path / name
        shutil.copytree(trained, run)
        config = read_config(run)
        config = replace(config, model=replace(config.model, width=width), **changes)
        (run / "config.toml").write_text(to_toml(config), encoding="utf-8")
        state = run / "checkpoints" / "step-00000002" / "state.json"
        state.write_text(json.dumps(json.loads(state.read_text()) | {"tokens": tokens}))
        size = num_parameters(config.model, VOCABULARY)
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for line in lines:
            if "held_out_nats_per_token" in line:
                line["held_out_nats_per_token"] = loss or float(LAW.loss(size, tokens))
        (run / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        return run

    return copy


def grid(make, widths=(16, 64, 256), tokens=(10_000, 100_000, 1_000_000)):
    return [make(f"w{width}t{number}", width, number) for width in widths for number in tokens]


def test_a_law_of_both_is_found_with_what_it_says(make):
    found = scaling(*grid(make), at=[(1e8, 1e9)], flops=[1e15], num_draws=20)
    assert found.law == "parameters and tokens"
    assert found.formula == "L = E + A / N^alpha + B / D^beta"
    assert found.parameters["alpha"].value == pytest.approx(0.35, rel=1e-3)
    assert found.parameters["beta"].value == pytest.approx(0.3, rel=1e-3)
    assert found.growth.value == pytest.approx(0.3 / 0.65, rel=1e-3)
    assert found.at[0].loss.value == pytest.approx(LAW.loss(1e8, 1e9), rel=1e-3)
    (budget,) = found.budgets
    assert 6 * budget.num_parameters.value * budget.tokens.value == pytest.approx(1e15)
    assert all(abs(one.difference) < 1e-4 for one in found.runs)
    assert found.plot().text(70)
    assert "fit" not in found.to_dict()


@pytest.mark.parametrize("flops", [1e12, 1e18])
def test_no_other_size_of_a_budget_has_a_lower_loss(flops):
    best = best_size(LAW, flops)
    others = np.geomspace(best[0] / 4, best[0] * 4, 101)
    losses = LAW.loss(others, flops / 6 / others)
    assert LAW.loss(*best) <= losses.min() * (1 + 1e-12)
    assert np.argmin(losses) == 50


def test_what_differs_alone_has_a_law_of_its_own(make):
    widths, tokens = (16, 32, 64, 128, 256), (10**4, 3 * 10**4, 10**5, 10**6)
    of_size = scaling(*(make(f"a{w}", w) for w in widths), num_draws=10, at=[(1e7, 1000.0)], flops=[6e12])
    assert (of_size.law, of_size.why) == ("parameters", "all runs learned from 1,000 tokens")
    assert of_size.parameters["alpha"].value == pytest.approx(0.35, rel=1e-2)
    assert of_size.budgets[0].num_parameters.value == pytest.approx(1e9, rel=1e-6)
    with pytest.raises(ConfigError, match="is not where the law of parameters is known"):
        scaling(*(one.run for one in of_size.runs), num_draws=2, at=[(1e7, 1e6)])
    of_data = scaling(*(make(f"b{t}", 16, t) for t in tokens), num_draws=10)
    assert of_data.law == "tokens"
    assert of_data.parameters["beta"].value == pytest.approx(0.3, rel=1e-2)
    along = scaling(*(make(f"c{w}", w, 20 * num_parameters_of(w)) for w in widths), num_draws=10, flops=[1e15])
    assert (along.law, along.why) == ("compute", "parameters and tokens grow along one line")
    assert along.budgets[0].tokens.value == pytest.approx(20 * along.budgets[0].num_parameters.value, rel=1e-2)


def num_parameters_of(width):
    config = th.override(th.find_recipe("quickstart"), [*TINY, f"model.width={width}"])
    return num_parameters(config.model, VOCABULARY)


def test_runs_that_are_not_comparable_are_refused_with_what_differs(make):
    runs = grid(make)
    config = read_config(runs[0])
    other = make("other", data=replace(config.data, context=64))
    with pytest.raises(ConfigError, match=r"other is not comparable with .*: data\.context: 32 -> 64"):
        scaling(*runs, other)
    anew = make("anew")
    tokenizer = anew / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text() + "\n")
    with pytest.raises(ConfigError, match=r"tokenizer: \w+, vocabulary 293 -> \w+, vocabulary 293"):
        scaling(*runs, anew)
    text = make("text")
    state = text / "checkpoints" / "step-00000002" / "state.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | {"data": ["0" * 32, "1" * 32]}))
    with pytest.raises(
        ConfigError, match=r"training data: .*text\.txt \(\w+\) -> .*text\.txt \(0{12}\); held-out data"
    ):
        scaling(*runs, text)


def test_what_is_no_finished_run_is_refused(make, tmp_path):
    runs = grid(make)
    with pytest.raises(ConfigError, match="3 runs for a law with"):
        scaling(*runs[:1], runs[4], runs[8])
    with pytest.raises(ConfigError, match="2 sizes for a law of parameters"):
        scaling(runs[0], runs[3])
    with pytest.raises(ModelError, match="is no run folder"):
        scaling(*runs, tmp_path)
    state = runs[2] / "checkpoints" / "step-00000002" / "state.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | {"step": 1}))
    with pytest.raises(ConfigError, match="has made 1 of its 2 steps") as error:
        scaling(*runs)
    assert f"thetahat train {runs[2]}" in str(error.value)
    (runs[0] / "metrics.jsonl").write_text("")
    with pytest.raises(ConfigError, match="no held-out loss per token after its last step"):
        scaling(runs[0])
    tuned = make("tuned", base="runs/other")
    with pytest.raises(ConfigError, match="went on from runs/other"):
        scaling(tuned)
    with pytest.raises(ConfigError, match="a size of -1"):
        scaling(*runs[3:6], at=[(-1.0, 10.0)])


def test_the_command_prints_a_table_or_json_and_draws(make, tmp_path):
    runs = list(map(str, grid(make)))
    done = thetahat(
        tmp_path, "scaling", *runs, "--at", "1e8,1e9", "--flops", "1e15", "--out", str(tmp_path / "law.svg")
    )
    assert done.returncode == 0, done.stderr
    assert "L = E + A / N^alpha + B / D^beta; a run's own noise is" in done.stdout
    assert "beta / (alpha + beta)" in done.stdout
    assert (tmp_path / "law.svg").stat().st_size > 1000
    told = json.loads(thetahat(tmp_path, "scaling", *runs, "--flops", "1e15", "--json").stdout.splitlines()[-1])
    assert told["parameters"]["alpha"]["value"] == pytest.approx(0.35, rel=1e-3)
    assert len(told["budgets"][0]["run_ci95"]) == 2
    wrong = thetahat(tmp_path, "scaling", *runs, "--at", "1e8")
    assert (wrong.returncode, "--at 1e8,2e9" in wrong.stderr) == (2, True)
