"""`thetahat influence`: the step that the run made, told by sequence, and nothing changed."""

import json
import re
import sys

import pytest
from msgspec.structs import replace

from tests.verbs.test_families import config_of
from thetahat.cli.main import main
from thetahat.core.errors import ConfigError, FolderError
from thetahat.ledger.ledger import read_columns, read_ledger
from thetahat.ledger.policy import read_policy
from thetahat.ledger.run_ledger import read_run_ledger
from thetahat.run.config import CheckpointConfig
from thetahat.run.train import train
from thetahat.verbs.influence import influence


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("influence")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THETAHAT_CACHE", str(folder / "cache"))
        config = config_of("causal on pairs", folder, "sequence", micro_batch_size=3, max_steps=4, dtype="float32")
        config = replace(config, model=replace(config.model, dropout=0.1), checkpoint=CheckpointConfig(every=1, keep=9))
        list(train(config, folder / "run"))
        yield folder / "run"


def contents(run):
    return {path: path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("number", [0, 2, 3])
def test_the_step_is_the_one_that_the_run_made(run, number):
    before = contents(run)
    told = influence(f"{run}@{number}").to_dict()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for name in ("step", "log_likelihood_per_token", "gradient_norm"):
        assert told[name] == lines[number][name]
    assert told["sum_of_shares"] == pytest.approx(1, abs=5e-3)
    assert told["ledger"]["steps"] == 4
    assert contents(run) == before
    shares = [one["share"] for one in told["sequences"]]
    assert shares == sorted(shares, reverse=True)
    assert sum(group["share"] for group in told["lengths"]) == pytest.approx(told["sum_of_shares"])


def test_its_rows_are_those_of_the_run_s_ledger(run, tmp_path):
    influence(str(run), out=tmp_path / "step.parquet")
    table, metadata = read_columns(tmp_path / "step.parquet")
    policy = read_policy(metadata, "step.parquet")
    assert (policy.during, policy.normalization, policy.dtype) == ("one step", "sequence", "float32")
    assert table.column_names[-3:] == ["sequence", "log_prob_after", "share"]
    assert set(table["step"].to_pylist()) == {4}
    kept = [row for row in read_run_ledger(run).to_pylist() if row["step"] == 4]
    keys = ("id", "part", "source", "num_tokens", "num_bytes", "weight", "digest", "context_length")
    assert sorted(str([r[k] for k in keys]) for r in table.to_pylist()) == sorted(
        str([r[k] for k in keys]) for r in kept
    )
    assert len(read_ledger(tmp_path / "step.parquet")[0]) == len(table)
    with pytest.raises(FolderError, match="exists"):
        influence(str(run), out=tmp_path / "step.parquet")


def test_the_end_of_a_run_has_no_step_after_it(run):
    with pytest.raises(ConfigError, match=r"no step comes after it\n  allowed: RUN@0, RUN@1, RUN@2, RUN@3"):
        influence(f"{run}@4")


@pytest.mark.parametrize("words", [["--json"], ["--rows", "2"]])
def test_the_command_says_it(run, words, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["thetahat", "influence", f"{run}@1", *words])
    main()
    out = capsys.readouterr().out
    if words == ["--json"]:
        assert json.loads(out)["step"] == 2
    else:
        assert "shares sum to" in out
        assert "N_eff" in out
        assert re.search(r"^[\d,]+ to [\d,]+ tokens .* [\d,]+$", out, re.MULTILINE)
        assert re.search(r"\n[^\n]+ +[\d,]+ +100\.00% +100\.00% +100\.00%\n", out)  # of the run's only source
