"""What a refactoring must not change: losses, norms and scores of every recipe, in float64, as they were recorded."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.golden.record import CASES, case, data
from thetahat.cli.main import main

CURVES = json.loads(Path(__file__).with_name("curves.json").read_text(encoding="utf-8"))
QUICK = ("causal", "causal-pairs", "prefix", "translation", "spans", "masked", "classification", "dialogue", "adapter")
ASKED = [
    pytest.param(name, seed, marks=[] if name in QUICK and seed == 0 else pytest.mark.slow)
    for name in CASES
    for seed in (0, 1)
]
BASES = [name for name, keys in CASES.items() if "base=causal" in keys]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("golden")
    for name, text in data().items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def in_this_process(folder, *arguments):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("THETAHAT_CACHE", str(folder / "cache"))
        patch.setattr(sys, "argv", ["thetahat", *arguments])
        main()


@pytest.mark.parametrize(("name", "seed"), ASKED)
def test_losses_norms_and_scores_are_those_that_were_recorded(folder, name, seed):
    if name in BASES and not (folder / "causal").exists():
        case(folder, "causal", 0, "float64", in_this_process)
    found = case(folder, name, seed, "float64", in_this_process)
    for what, values in CURVES[f"{name}-{seed}"].items():
        np.testing.assert_allclose(found[what], values, rtol=1e-9, err_msg=what)
