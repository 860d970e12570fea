"""A branch goes on from the whole state of another run: bit for bit as a run that was planned so from the start."""

import json
import shutil

import pytest
import torch
from msgspec.structs import replace
from safetensors.torch import load_file

from tests.examples import SENTENCE, TINY, run_config
from thetahat.core import store
from thetahat.core.config import override
from thetahat.core.errors import ConfigError, FolderError, ModelError
from thetahat.data.config import DataConfig
from thetahat.ledger.run_ledger import read_run_ledger
from thetahat.run.branch import branch
from thetahat.run.folder.checkpoint import read_config
from thetahat.run.folder.files import MODEL, OPTIMIZER, folder_of, read_progress
from thetahat.run.folder.find import find_checkpoint
from thetahat.run.log.metrics import METRICS
from thetahat.run.train import train
from thetahat.verbs.influence import influence

WSD = ["optimization.schedule.kind=wsd", "optimization.schedule.warmup_steps=2"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THETAHAT_CACHE", str(home / "cache"))
        yield home


@pytest.fixture(scope="module")
def config(home):
    text = home / "text.txt"
    text.write_text(f"{SENTENCE} " * 20)
    data = DataConfig(
        train=str(text), held_out="tail:0.1", context=32, over_long="split", vocab_size=300, shifts_splits=True
    )
    config = run_config(replace(TINY, num_layers=1, dropout=0.1), data=data, max_steps=10, dtype="float32")
    return override(config, ["evaluation.every=3", "checkpoint.every=2", "checkpoint.keep=9", "batch_size=6"])


@pytest.fixture(scope="module")
def parent(config, home):
    """Trained for 10 steps in epochs of 4 batches; under WSD, it declines from step 6."""
    return ran(override(config, [*WSD, "optimization.schedule.decay=0.4"]), home / "parent")


def ran(config, folder):
    list(train(config, folder))
    return folder


def lines_of(run, after=0):
    lines = [json.loads(line) for line in (run / METRICS).read_text().splitlines()]
    return [
        {name: value for name, value in line.items() if "second" not in name} for line in lines if line["step"] > after
    ]


def rows_of(run, after=0):
    return [row for row in read_run_ledger(run).to_pylist() if row["step"] > after]


def are_same(ours, theirs, step):
    """Whether two runs have the same bits at the checkpoint of a step."""
    files = [[load_file(folder_of(run, step) / name) for run in (ours, theirs)] for name in (MODEL, OPTIMIZER)]
    return all(a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a) for a, b in files)


@pytest.mark.parametrize(
    ("before", "changes"),
    [
        (["max_steps=5"], ["max_steps=10"]),  # constant, extended in the middle of an epoch
        ([*WSD, "max_steps=8", "optimization.schedule.decay=0.5"], ["max_steps=10", "optimization.schedule.decay=0.4"]),
        (
            ["max_steps=50", "max_tokens=700"],
            ["max_tokens=none", "max_steps=10", *WSD, "optimization.schedule.decay=0.6"],
        ),
    ],
    ids=["longer", "before its decline", "cooled down"],
)
def test_a_branch_has_the_bits_of_a_run_that_was_planned_so(config, home, tmp_path, before, changes):
    planned = ran(override(config, ["optimization.schedule.warmup_steps=2", *before, *changes]), tmp_path / "planned")
    first = ran(override(config, ["optimization.schedule.warmup_steps=2", *before]), tmp_path / "first")
    begun = branch(f"{first}@4", changes)
    ours = ran(begun, tmp_path / "ours")
    assert lines_of(ours) == lines_of(planned, after=4)
    assert [line["step"] for line in lines_of(ours)] == [5, 6, 6, 7, 8, 9, 9, 10, 10]
    assert are_same(ours, planned, 10)
    assert rows_of(ours) == rows_of(planned, after=4)
    assert sorted(path.name for path in (ours / "ledger").iterdir())[0] == "step-00000005-00000006.parquet"
    states = [read_progress(folder_of(run, 10)) for run in (ours, planned)]
    for name in ("tokens", "num_steps", "best", "standing"):
        assert states[0][name] == states[1][name]


def test_the_parent_is_written_down(parent, tmp_path):
    config = branch(f"{parent}@4", ["max_steps=5", "threads=2", "prompt=Once"])
    ours = ran(config, tmp_path / "ours")
    for folder in (ours, folder_of(ours, 4), folder_of(ours, 5)):
        noted = read_config(folder).parent
        assert (noted.run, noted.step) == (parent.as_posix(), 4)
        assert noted.changes == ("threads: 1 -> 2", "max_steps: 10 -> 5")
    assert read_config(ours).prompt == "Once"
    assert are_same(ours, parent, 4)


def test_a_branch_goes_on_and_is_branched_like_any_other(parent, tmp_path):
    whole = ran(branch(f"{parent}@2", ["max_steps=9", "seed=1"]), tmp_path / "whole")
    for step in range(3, 10):  # a start for each step
        (report,) = train(branch(f"{parent}@2", ["max_steps=9", "seed=1"]), tmp_path / "broken", max_minutes=0.0)
        assert report.step.step == step
    assert lines_of(tmp_path / "broken") == lines_of(whole)
    assert are_same(tmp_path / "broken", whole, 9)
    again = ran(branch(f"{whole}@6", ["max_steps=9"]), tmp_path / "again")
    assert lines_of(again) == lines_of(whole, after=6)
    assert are_same(again, whole, 9)
    assert rows_of(again) == rows_of(whole, after=6)
    assert list(train(branch(f"{whole}@6", ["max_steps=9"]), tmp_path / "again")) == []


@pytest.mark.parametrize(
    "changes", [["threads=2"], ["micro_batch_size=1"], ["micro_batch_size=4", "evaluation.stride=4"]]
)
def test_how_a_batch_is_computed_may_change_and_its_sequences_stay(parent, tmp_path, changes):
    ours = ran(branch(f"{parent}@4", changes), tmp_path / "ours")
    pairs = list(zip(steps_of(ours), steps_of(parent, after=4), strict=True))
    assert [a["batch"] for a, _ in pairs] == [b["batch"] for _, b in pairs]
    for a, b in pairs:
        assert a["log_likelihood_per_token"] == pytest.approx(
            b["log_likelihood_per_token"], rel=0.02
        )  # dropout differs


def steps_of(run, after=0):
    return [line for line in lines_of(run, after) if "batch" in line]


@pytest.mark.parametrize(
    ("step", "size", "first", "again"),
    [(2, 4, 3, 0), (2, 5, 2, 2), (4, 4, 6, 0), (6, 8, 4, 4)],
)
def test_batches_of_another_size_begin_with_the_row_that_comes_next(parent, tmp_path, caplog, step, size, first, again):
    """Epochs of the parent have 22 rows, in batches of 6."""
    caplog.set_level("INFO", "thetahat")
    ours = ran(branch(f"{parent}@{step}", [f"batch_size={size}", f"max_steps={step + 1}"]), tmp_path / "ours")
    assert read_progress(folder_of(ours, step))["standing"]["position"] == first
    assert (f"{again} rows of it once more" in caplog.text) == (again > 0)
    planned = run_order(read_config(ours))
    assert steps_of(ours)[0]["batch"] == planned.fingerprint(first)


def run_order(config):
    from thetahat.distribution.world import World
    from thetahat.run.prepare import prepare

    return prepare(config, None, World()).order


@pytest.mark.parametrize(
    ("step", "changes", "epoch"),
    [(2, ["seed=7"], 1), (4, ["data.context=16"], 1), (6, ["data.packing=none", "data.shifts_splits=false"], 2)],
)
def test_another_order_begins_with_an_epoch_that_the_parent_had_not_begun(parent, tmp_path, step, changes, epoch):
    ours = ran(branch(f"{parent}@{step}", [*changes, f"max_steps={step + 1}"]), tmp_path / "ours")
    order, standing = run_order(read_config(ours)), read_progress(folder_of(ours, step))["standing"]
    assert (standing["epoch"], standing["row"]) == (epoch, 0)
    assert order.locate(standing["position"]) == (epoch, 0)
    assert steps_of(ours)[0]["batch"] == order.fingerprint(standing["position"])


def test_another_text_is_read_from_the_beginning_of_an_epoch(parent, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text(f"{SENTENCE[::-1]} " * 9)
    ours = ran(branch(f"{parent}@6", [f"data.train={other}", "max_steps=7"]), tmp_path / "ours")
    progress = read_progress(folder_of(ours, 6))
    assert (progress["standing"]["epoch"], progress["standing"]["row"]) == (2, 0)
    assert progress["best"] is None  # of another text, no number can be compared
    assert read_progress(folder_of(parent, 8))["best"]["step"] == 6


def test_the_same_text_under_another_name_goes_on_where_it_stopped(parent, home, tmp_path):
    shutil.copy(home / "text.txt", tmp_path / "text.txt")
    ours = ran(branch(f"{parent}@6", [f"data.train={tmp_path / 'text.txt'}"]), tmp_path / "ours")
    assert lines_of(ours) == lines_of(parent, after=6)


def test_a_new_rule_begins_with_a_new_state_and_says_so(parent, tmp_path, caplog):
    caplog.set_level("INFO", "thetahat")
    changes = ["optimization.matrices.kind=adamw", "optimization.matrices.learning_rate=0.001", "max_steps=5"]
    ours = ran(branch(f"{parent}@4", [*changes, "optimization.vectors.beta1=0.5"]), tmp_path / "ours")
    before, after = (load_file(folder_of(run, 4) / OPTIMIZER) for run in (parent, ours))
    matrices = {name for name in after if name.rpartition("/")[0] + "/momentum" in before}
    assert matrices
    assert not any(after[name].any() for name in matrices)
    assert all(torch.equal(after[name], before[name]) for name in after.keys() - matrices)
    assert "optimizer: a new state for blocks.0.attention" in caplog.text


def test_other_parameters_may_be_frozen(parent, tmp_path):
    ours = ran(branch(f"{parent}@4", ["frozen=['embedding.*']", "max_steps=6"]), tmp_path / "ours")
    first, last = (load_file(folder_of(ours, step) / MODEL) for step in (4, 6))
    assert torch.equal(first["embedding.weight"], last["embedding.weight"])
    assert not torch.equal(first["head.weight"], last["head.weight"])
    again = ran(branch(f"{ours}@6", ["frozen=[]", "max_steps=7"]), tmp_path / "again")
    assert not torch.equal(load_file(folder_of(again, 7) / MODEL)["embedding.weight"], first["embedding.weight"])


def test_another_dtype_converts_the_whole_state(parent, tmp_path):
    ours = ran(branch(f"{parent}@4", ["dtype=float64", "max_steps=5"]), tmp_path / "ours")
    for name in (MODEL, OPTIMIZER):
        before, after = (load_file(folder_of(run, 4) / name) for run in (parent, ours))
        assert all(torch.equal(before[key].to(value.dtype), value) for key, value in after.items())
    assert load_file(folder_of(ours, 4) / MODEL)["head.weight"].dtype is torch.float64


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["model.width=8"], r"model\.width cannot change by branching"),
        (["data.vocab_size=400"], r"data\.vocab_size cannot change"),
        (["data.special_tokens=['<x>']"], r"data\.special_tokens cannot change"),
        (["base=elsewhere", "adapter.rank=2"], "cannot change by branching"),
        (["max_steps=4"], "has made 4 updates, and max_steps=4: nothing is left"),
        (["max_tokens=10"], "max_tokens=10 were reached by step 4"),
        (["objective.factorization.kind=fill-in-the-middle"], "needs the special token <|fim_"),
    ],
)
def test_what_the_state_does_not_fit_is_refused_and_leaves_nothing(parent, tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        ran(branch(f"{parent}@4", changes), tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_a_model_without_the_state_of_a_run_has_no_branch(parent, tmp_path):
    with store.publishing(tmp_path / "chosen") as folder:
        for name in set(store.names(folder_of(parent, 4))) - {OPTIMIZER}:
            shutil.copy(folder_of(parent, 4) / name, folder / name)
    with pytest.raises(ModelError, match=r"no state of a run, only parameters\n  try: thetahat train \S+ --out"):
        branch(str(tmp_path / "chosen"), ["max_steps=20"])


def test_a_folder_of_another_branch_is_refused(parent, tmp_path):
    ran(branch(f"{parent}@4", ["max_steps=5"]), tmp_path / "ours")
    with pytest.raises(FolderError, match=r"parent.step: 4 -> 2"):
        ran(branch(f"{parent}@2", ["max_steps=5"]), tmp_path / "ours")


def test_a_branch_needs_its_parent_only_to_begin(parent, tmp_path):
    first = tmp_path / "first"
    shutil.copytree(parent, first)
    config = branch(f"{first}@4", ["max_steps=6"])
    next(train(config, tmp_path / "ours", max_minutes=0.0))
    shutil.rmtree(first)
    ran(read_config(tmp_path / "ours"), tmp_path / "ours")
    assert find_checkpoint(str(tmp_path / "ours")) == folder_of(tmp_path / "ours", 6)
    with pytest.raises(ModelError, match=r"first@4, which this run is a branch of, is not there"):
        ran(config, tmp_path / "anew")


def test_the_best_of_the_parent_stays_the_best_and_is_named(parent, tmp_path):
    ours = ran(branch(f"{parent}@6", ["optimization.embeddings.learning_rate=9.0", "max_steps=8"]), tmp_path / "ours")
    assert read_progress(folder_of(ours, 8))["best"]["step"] == read_progress(folder_of(parent, 8))["best"]["step"] == 6
    assert find_checkpoint(f"{ours}@best") == folder_of(ours, 6)
    again = ran(branch(f"{ours}@8", ["max_steps=9"]), tmp_path / "again")
    with pytest.raises(ModelError, match=r"again@best: .*\n.*\n  try: \S+ours@6, of its parent"):
        find_checkpoint(f"{again}@best")


def test_the_account_of_a_branch_misses_no_rows(parent, tmp_path, caplog):
    ours = ran(branch(f"{parent}@4", []), tmp_path / "ours")
    assert influence(f"{ours}@6").account
    assert "are missing" not in caplog.text


def test_a_mixture_goes_on_behind_as_many_rows_and_begins_after_other_data(config, home, tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text("\n".join(f"{SENTENCE} {name} {i}" for i in range(9)))
    sources = [f"data.sources.{name}.path={tmp_path / f'{name}.txt'}" for name in "ab"]
    plain = [
        f"data.train={tmp_path / 'a.txt'}",
        "data.split_on=\\n",
        "data.held_out=none",
        "max_steps=4",
        "evaluation.every=0",
    ]
    first = ran(override(config, plain), tmp_path / "first")
    mixed = ran(branch(f"{first}@4", [*sources, "max_steps=6"]), tmp_path / "mixed")
    assert read_progress(folder_of(mixed, 4))["standing"]["position"] == 0
    weighed = branch(f"{mixed}@6", ["data.sources.a.weight=3", "data.sources.b.weight=1", "max_steps=7"])
    assert read_progress(folder_of(ran(weighed, tmp_path / "weighed"), 6))["standing"]["position"] == 2
