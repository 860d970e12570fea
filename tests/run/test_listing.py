"""What `thetahat runs` reads of a run folder."""

import json
import os

import pytest

from thetahat.core import store
from thetahat.run.folder.files import STATE, folder_of
from thetahat.run.folder.listing import list_runs
from thetahat.run.log.metrics import METRICS


def written(folder, name="bits_per_byte", **state):
    """A run of four steps with two evaluations, the first of which is the best; all of it written long ago."""
    folder_of(folder, 4).parent.mkdir(parents=True)
    lines = [{"step": step, f"held_out_{name}": value} for step, value in ((2, 1.5), (4, 1.75))]
    (folder / METRICS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "config.toml").write_text("")
    state = {"step": 4, "num_steps": 8, "best": {"value": 1.5, "step": 2, "documents": 0}} | state
    with store.publishing(folder_of(folder, 4)) as checkpoint:
        store.write_json(checkpoint / STATE, state)
    for path in (folder, *folder.rglob("*")):
        os.utime(path, (1e9, 1e9))
    return folder


@pytest.mark.parametrize(("name", "unit"), [("bits_per_byte", "bits/byte"), ("nats_per_label", "nats/label")])
def test_a_run_is_listed_with_its_last_and_its_best_value_in_their_unit(tmp_path, name, unit):
    (found,) = list_runs(written(tmp_path / "run", name))
    assert found.state == "paused"
    assert (found.held_out, found.unit, found.best, found.best_step) == (1.75, unit, 1.5, 2)
    (found,) = list_runs(written(tmp_path / "older", name, best=None))
    assert (found.best, found.best_step) == (None, None)


def test_a_report_in_a_run_folder_is_no_training(tmp_path):
    run = written(tmp_path / "run")
    (before,) = list_runs(run)
    (run / "report.html").write_text("a page")
    (after,) = list_runs(run)
    assert before.changed == after.changed == 1e9
    assert after.num_bytes == before.num_bytes + len("a page")
