"""Layers on several ranks: gradients and whole runs are those of one process."""

import json

import pytest
import torch

from tests.scale.conftest import KINDS, batches, distance, held_out, lines, names, tensors, trained, written
from tests.scale.stages import LAYOUTS, NAMES, distances
from thetahat.distribution.launch import launch

pytestmark = pytest.mark.multi

SLOW = pytest.mark.slow
FOUR = ("model.num_layers=4", 'samples.prompts=["the quick", "a"]')
RUNS = {  # ranks, and how they are laid out
    "2": (2, ["mesh.pipeline=2"]),
    "4": (4, ["mesh.pipeline=4"]),
    "turns": (2, ["mesh.pipeline=2", "mesh.turns=2"]),
    "shards": (4, ["mesh.pipeline=2", "mesh.shards=2"]),
    "replicas": (4, ["mesh.pipeline=2"]),
    "turns-shards": (4, ["mesh.pipeline=2", "mesh.turns=2", "mesh.shards=2"]),
    "replicas-shards": (8, ["mesh.pipeline=2", "mesh.shards=2"]),
}


def words(kind):
    """What is typed for a kind, with four layers; so has its base."""
    return [*(word.replace("base=base", "base=four") for word in KINDS[kind]), *FOUR]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The errors of all cases on so many ranks over what is allowed, with a fault or without, measured once."""
    made = {}

    def measured(size, mutation=""):
        if (size, mutation) not in made:
            folder = tmp_path_factory.mktemp("stages")
            launch(distances, size, str(folder), mutation)
            made[size, mutation] = json.loads((folder / "found.json").read_text())
        return made[size, mutation]

    return measured


@pytest.fixture(scope="module")
def alone(bench):
    """The run of each kind in one process, made once."""
    made = {}

    def run(kind="decoder"):
        if kind not in made:
            if "base=four" in words(kind) and not (bench / "four").exists():
                trained(bench, "four", 1, "max_steps=3", *FOUR)
            made[kind] = trained(bench, f"whole-{kind}", 1, *words(kind))
        return made[kind]

    return run


@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_gradients_of_every_pipeline_are_those_of_one_process(found, size):
    errors = found(size)
    assert {name: error for name, error in errors.items() if not error <= 1} == {}
    assert len(errors) == len(NAMES) * len(LAYOUTS[size]) * 4


@pytest.mark.parametrize("mutation", ["lost", "untied", pytest.param("mean", marks=pytest.mark.slow)])
def test_a_fault_is_seen_in_every_model(found, mutation):
    errors = {name: error for name, error in found(2, mutation).items() if name.endswith("in turns")}
    assert all(error > 1e9 for error in errors.values()), errors


@pytest.mark.parametrize(
    ("kind", "layout"),
    [
        ("decoder", "turns"),
        ("decoder", "shards"),
        ("shared-keys", "2"),
        *[pytest.param("decoder", one, marks=pytest.mark.slow) for one in RUNS if one not in ("turns", "shards")],
        *[
            pytest.param(kind, layout, marks=pytest.mark.slow)
            for kind in ("recomputed", "adapter", "new-rows", "biases", "states", "latent")
            for layout in ("2", "shards")
        ],
    ],
)
def test_a_run_through_stages_equals_that_of_one_process(bench, alone, kind, layout):
    (size, mesh), whole = RUNS[layout], alone(kind)
    run = trained(bench, f"{kind}-{layout}-stages", size, *mesh, *words(kind))
    assert names(run) == names(whole)
    assert distance(tensors(run), tensors(whole))[0] < 1e-12
    assert batches(run) == batches(whole)
    assert held_out(run) == pytest.approx(held_out(whole), rel=1e-13)
    assert written(run) == written(whole)
    assert not (run / "alarms.jsonl").exists()
    reads_alike = size == int(mesh[0][-1])  # the first micro-batch, of which one row is looked at inside the model
    for ours, theirs in zip(*(signals(one, reads_alike) for one in (run, whole)), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-9, abs=1e-12)
    assert rows(run) == rows(whole)


def signals(run, of_row):
    """What was measured of each layer, number by number; `of_row`: also of the row that was looked at."""
    found = [dict(flat(line["signals"])) for line in lines(run) if "signals" in line]
    assert any(name.startswith(".residual") for one in found for name in one)
    kept = [
        {name: one[name] for name in one if of_row or not name.startswith((".residual", ".attention"))} for one in found
    ]
    assert all(kept)
    return kept


def flat(value, name=""):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from flat(inner, f"{name}.{key}")
    elif isinstance(value, int | float):
        yield name, value


def rows(run):
    """The ledger: who was read in which step, and at how many nats."""
    import pyarrow.parquet as pq

    found = []
    for path in sorted((run / "ledger").glob("*.parquet")):
        table = pq.read_table(path, columns=["step", "id", "num_tokens", "log_prob"]).to_pylist()
        found += [(one["step"], one["id"], one["num_tokens"], round(one["log_prob"], 9)) for one in table]
    assert found
    return found


def test_a_pipeline_goes_on_from_one_process_and_one_process_from_a_pipeline(bench, alone):
    """Each start makes one step, and the last one the rest."""
    for size, keys in ((1, []), RUNS["turns"], (1, []), RUNS["shards"], (2, ["mesh.shards=2"]), RUNS["2"]):
        run = trained(bench, "relay-stages", size, *keys, *FOUR, "--max-minutes=0")
    run = trained(bench, "relay-stages", 1, *FOUR)
    assert batches(run) == batches(alone())
    assert distance(tensors(run), tensors(alone()))[0] < 1e-12


@pytest.mark.slow
def test_a_trained_state_has_the_same_files_in_every_pipeline(bench, alone):
    """Each begins with the state of one checkpoint, and saves it before its first step; in files of 12 kB."""
    alone()
    small = [["thetahat.run.folder.tensors", "LARGEST", 12000]]
    files = {}
    for name, (size, mesh) in {"1": (1, []), **{name: RUNS[name] for name in ("2", "4", "turns-shards")}}.items():
        keys = ("max_steps=13", "checkpoint.keep=9", *mesh)
        run = trained(bench, f"same-{name}-stages", size, *keys, recipe=("--branch", "whole-decoder"), sets=small)
        folder = run / "checkpoints" / "step-00000012"
        files[name] = {path.name: path.read_bytes() for path in sorted(folder.glob("*.safetensors"))}
        assert sum(one.startswith("model-0") for one in files[name]) > 1
    assert files["1"] == files["2"] == files["4"] == files["turns-shards"]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_step_of_a_pipeline_differs_by_its_rounding(bench, dtype):
    keys = (f"dtype={dtype}", "max_steps=1", *FOUR)
    whole = trained(bench, f"step-{dtype}", 1, *keys)
    for layout in ("2", "shards"):
        run = trained(bench, f"step-{dtype}-{layout}", RUNS[layout][0], *RUNS[layout][1], *keys)
        ours, theirs = (next(line["gradient_norm"] for line in lines(one) if "step" in line) for one in (run, whole))
        assert ours == pytest.approx(theirs, rel=1e-5 if dtype == "float32" else 2e-2)


def test_a_stage_names_the_sequences_and_the_module_that_are_not_finite(bench):
    """The module is one of the last stage."""
    keys = ("optimization.matrices.learning_rate=1e200", 'frozen=["blocks.0.*"]')
    whole = trained(bench, "odd-whole", 1, *keys, code=5)
    run = trained(bench, "odd-stages", 2, "mesh.pipeline=2", *keys, code=5)
    assert not (run / "checkpoints" / "step-00000002").exists()
    assert lines(run)[-1]["step"] == 1
    told = (run / "alarms.jsonl").read_text()
    assert told == (whole / "alarms.jsonl").read_text()
    assert '"where": "blocks.1' in told


@pytest.mark.slow
def test_a_pipeline_that_goes_on_draws_what_it_would_have_drawn(bench):
    keys = ("model.dropout=0.2", "max_steps=4", *RUNS["turns"][1], *FOUR)
    run = trained(bench, "drawn", 2, *keys)
    for _ in range(2):
        again = trained(bench, "drawn-again", 2, *keys, "--max-minutes=0")
    again = trained(bench, "drawn-again", 2, *keys)
    ours, theirs = tensors(again), tensors(run)
    assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == []
    whole = trained(bench, "drawn-whole", 1, *keys[:2], *FOUR)
    assert distance(ours, tensors(whole))[0] > 1e-6  # each group of layers draws its own
