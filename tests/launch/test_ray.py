"""The example for Ray Train, with two workers on this machine."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.launch import small

EXAMPLE = Path(__file__).parents[2] / "examples" / "launch" / "ray_train.py"
STEPS = 25


def test_the_example_is_short_and_needs_no_inner_module():
    lines = EXAMPLE.read_text(encoding="utf-8").splitlines()
    assert len(lines) < 60
    assert [line for line in lines if re.match(r"\s*(from|import) thetahat(?! as th$)", line)] == []


@pytest.mark.slow
@pytest.mark.multi
def test_two_workers_of_ray_compute_the_bits_of_two_ranks(tmp_path):
    pytest.importorskip("ray.train")
    text, *keys = small.words(tmp_path, STEPS)
    command = [sys.executable, EXAMPLE, "2", f"data.train={text}", *keys]
    quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DISABLE_IMPORT_WARNING": "1"}
    environment = os.environ | small.settings(tmp_path) | quiet
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout
    assert small.outcome(tmp_path / "runs" / "ray") == small.expected(tmp_path, STEPS)
