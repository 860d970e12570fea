"""The curves and the ledger of a branch go on from its parents': they are those of a run planned so from the start."""

import json
import shutil

import numpy as np
import pytest
from msgspec.structs import replace

from tests.examples import SENTENCE, TINY, run_config
from thetahat.core.config import override
from thetahat.data.config import DataConfig
from thetahat.ledger.contribution import account
from thetahat.ledger.run_ledger import read_run_ledger
from thetahat.run.branch import branch
from thetahat.run.folder.checkpoint import read_config
from thetahat.run.log.history import read_history
from thetahat.run.train import train
from thetahat.verbs.ancestry import ledger_with_parents, with_parents
from thetahat.verbs.influence import influence
from thetahat.verbs.plot import plot
from thetahat.verbs.report import to_html
from thetahat.verbs.story import read_story

COLUMNS = ("step", "tokens", "log_likelihood_per_token", "gradient_norm", "learning_rate_factor")


def ran(config, folder):
    list(train(config, folder))
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A run of 6 steps, a branch of it at 4 up to step 7, and one of that at 6 up to 8; and 8 steps at once."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THETAHAT_CACHE", str(home / "cache"))
        (home / "my.txt").write_text(f"{SENTENCE} " * 20)
        data = DataConfig(
            train=str(home / "my.txt"), held_out="tail:0.1", context=32, over_long="split", vocab_size=300
        )
        config = run_config(replace(TINY, num_layers=1), data=data, max_steps=6, dtype="float32")
        config = override(config, ["evaluation.every=2", "checkpoint.every=2", "checkpoint.keep=9"])
        ran(config, home / "first")
        ran(branch(f"{home}/first@4", ["max_steps=7"]), home / "second")
        ran(branch(f"{home}/second@6", ["max_steps=8"]), home / "third")
        ran(override(config, ["max_steps=8"]), home / "whole")
        yield home


def joined(run):
    return with_parents(run, read_config(run), read_history(run))


def test_the_curve_of_a_branch_is_that_of_a_run_planned_so(home):
    found, whole = joined(home / "third"), read_history(home / "whole")
    for name in COLUMNS:
        np.testing.assert_array_equal(found.steps[name], whole.steps[name], err_msg=name)
    np.testing.assert_array_equal(found.evaluations["bits_per_byte"], whole.evaluations["bits_per_byte"])
    assert [(join.step, join.parent.rpartition("/")[2]) for join in found.joins] == [(6, "second@6"), (4, "first@4")]
    assert (np.diff(found.steps["seconds"]) > 0).all()
    assert found.notes == ()


def test_so_is_its_ledger_and_what_a_run_rests_on(home):
    config = read_config(home / "third")
    ours, theirs = ledger_with_parents(home / "third", config), read_run_ledger(home / "whole")
    assert ours.sort_by([("step", "ascending"), ("id", "ascending")]).num_rows == theirs.num_rows
    assert account(ours, config.objective) == account(theirs, config.objective)
    assert influence(f"{home}/third@6").account == account(theirs, config.objective)


def test_the_parent_s_part_is_drawn_once_and_marked(home, tmp_path):
    alone = plot(home / "second")
    assert alone.panels[0].curves[0].x["step"].tolist() == [1, 2, 3, 4, 5, 6, 7]
    (mark,) = alone.panels[0].marks
    assert mark.x["step"] == 4
    assert "branched from" in alone.text(90)
    alone.save(tmp_path / "one.svg")
    assert b"branched from" in (tmp_path / "one.svg").read_bytes()
    both = plot(home / "second", home / "first").panels[0]
    steps = {curve.name: curve.x["step"].tolist() for curve in both.curves if "training" in curve.name}
    assert steps == {"second, training": [5, 6, 7], "first, training": [1, 2, 3, 4, 5, 6]}


def test_a_page_tells_the_whole_story(home):
    story = read_story(home / "third")
    spent = dict(story.time())
    assert 0 < spent["steps"] < 2 * float(story.history.steps["seconds"][-1])
    assert story.history.last_step == 8
    page = to_html([story])
    assert "branched from" in page
    assert story.account["steps"] == 8


def test_a_parent_is_found_where_it_was_moved_and_when_its_checkpoint_is_gone(home, tmp_path):
    shutil.copytree(home / "second", tmp_path / "second")
    shutil.copytree(home / "first", tmp_path / "renamed")
    assert len(joined(tmp_path / "second").steps["step"]) == 7  # the parent where it was
    config = read_config(tmp_path / "second")
    gone = replace(config, parent=replace(config.parent, run=str(tmp_path / "nowhere" / "first")))
    history = read_history(tmp_path / "second")
    assert len(with_parents(tmp_path / "second", gone, history).steps["step"]) == 7  # by its digest, beside the branch
    shutil.rmtree(tmp_path / "renamed" / "checkpoints" / "step-00000004")
    pruned = replace(config, parent=replace(config.parent, run=str(tmp_path / "renamed")))
    assert len(with_parents(tmp_path / "second", pruned, history).steps["step"]) == 7  # by what its config says
    told = with_parents(tmp_path / "second", gone, history)
    assert told.steps["step"].tolist() == [5, 6, 7]
    assert "is not found" in told.notes[-1]


def test_another_run_in_the_parent_s_place_is_not_taken_for_it(home, tmp_path):
    shutil.copytree(home / "second", tmp_path / "second")
    shutil.copytree(home / "first", tmp_path / "other")
    shutil.rmtree(tmp_path / "other" / "checkpoints" / "step-00000004")
    text = (tmp_path / "other" / "config.toml").read_text()
    (tmp_path / "other" / "config.toml").write_text(text.replace("seed = 0", "seed = 1"))
    config = read_config(tmp_path / "second")
    elsewhere = replace(config, parent=replace(config.parent, run=str(tmp_path / "other")))
    assert json.dumps(with_parents(tmp_path / "second", elsewhere, read_history(tmp_path / "second")).notes)
    assert with_parents(tmp_path / "second", elsewhere, read_history(tmp_path / "second")).steps["step"][0] == 5
