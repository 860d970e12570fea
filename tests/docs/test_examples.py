"""The examples run as they stand, with the public API alone, each on one screen."""

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("[0-9]*"))
SCRIPTS = [path for path in EXAMPLES if path.suffix == ".py"]
RANKS, NOTEBOOK = ROOT / "examples" / "06_two_ranks.py", ROOT / "examples" / "05_compare.ipynb"


def cells(notebook):
    """The source of each cell of code."""
    found = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in found if cell["cell_type"] == "code"]


def source(path):
    return "\n".join(cells(path)) if path.suffix == ".ipynb" else path.read_text(encoding="utf-8")


@pytest.fixture
def desk(tmp_path_factory, tmp_path, monkeypatch):
    """An empty folder to run in, and a cache that the examples share."""
    monkeypatch.setenv("THETAHAT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.chdir(tmp_path)
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # several threads of several tests would wait for each other
    yield tmp_path
    torch.set_num_threads(before)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_short_and_needs_no_inner_module(path):
    lines = source(path).splitlines()
    assert len(lines) < 40
    assert max(map(len, lines)) <= 120
    assert [line for line in lines if re.match(r"\s*(from|import) thetahat(?! as th$)", line)] == []


@pytest.mark.parametrize("path", [path for path in SCRIPTS if path != RANKS], ids=lambda path: path.name)
def test_an_example_runs_and_learns(path, desk, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(path)])
    runpy.run_path(str(path), run_name="__main__")
    printed = capsys.readouterr().out
    print(printed)
    held_out = re.findall(r"held out: (\d\.\d+) bits per byte", printed)
    assert held_out == [] or float(held_out[-1]) < 3.9
    if path.name.startswith("04"):
        before, after = map(float, re.findall(r"(\d\.\d+) nats per token before, (\d\.\d+) after", printed)[0])
        assert after < before - 1


def test_the_notebook_runs_and_is_stored_without_output(desk, capsys):
    found, namespace = json.loads(NOTEBOOK.read_text(encoding="utf-8")), {}
    assert [cell for cell in found["cells"] if cell.get("outputs") or cell.get("execution_count")] == []
    for cell in cells(NOTEBOOK):
        exec(compile(cell, NOTEBOOK.name, "exec"), namespace)
    assert float(re.findall(r"wide one: (-?\d\.\d+)", capsys.readouterr().out)[0]) > 0


@pytest.mark.multi
def test_two_ranks_compute_what_one_computes(desk):
    quiet = os.environ | {"OMP_NUM_THREADS": "1"}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    one, two = (
        subprocess.run([*command, RANKS], env=quiet, capture_output=True, text=True, check=True, timeout=300).stdout
        for command in ([sys.executable], torchrun)
    )
    shown = [[float(value) for value in re.findall(r"([\d.-]+) nats", text)] for text in (one, two)]
    assert len(shown[0]) == 5
    assert shown[1] == pytest.approx(shown[0], rel=1e-4)
    assert "2 ranks" in two
