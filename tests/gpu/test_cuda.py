"""What a CPU cannot show. Run with `pytest -m gpu --device=cuda`; elsewhere these say that they need it."""

import json
import subprocess
import sys
import warnings

import pytest
import torch

from tests.examples import SMALL, run_config
from thetahat.core.config import override
from thetahat.data.config import DataConfig
from thetahat.model.float8 import product, scaled
from thetahat.recipes.catalogue import find_recipe
from thetahat.run.log.metrics import TIMES
from thetahat.run.train import train
from thetahat.verbs.load import load
from thetahat.verbs.score import score
from thetahat.verbs.verify import verify

pytestmark = pytest.mark.gpu
DEVICE = "cuda"


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("THETAHAT_CACHE", str(tmp_path / "cache"))
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_verify_holds_on_cuda(dtype):
    config = override(find_recipe("quickstart"), ["device=cuda", f"dtype={dtype}"])
    assert [one for one in verify(config, ranks=()) if not one.holds] == []


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_deterministic_run_on_cuda_repeats_and_resumes_bit_for_bit(dtype, tmp_path):
    data = DataConfig(held_out="tail:0.1", context=64, over_long="split", vocab_size=512)
    config = run_config(SMALL, data=data, device=DEVICE, dtype=dtype, deterministic=True, batch_size=8, max_steps=8)
    config = override(config, ["checkpoint.every=3", "micro_batch_size=3"])
    for report in train(config, tmp_path / "whole"):
        assert report.step.step <= 8
    for report in train(config, tmp_path / "halves", max_minutes=0.0):
        assert report.step.step == 1
    list(train(config, tmp_path / "halves"))
    whole, halves = ((tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("whole", "halves"))
    untimed = [[without_time(line) for line in lines] for lines in (whole, halves)]
    assert untimed[0] == untimed[1]


def without_time(line):
    return {key: value for key, value in json.loads(line).items() if key not in TIMES}


def test_the_likelihood_on_cuda_is_that_of_the_cpu(tmp_path):
    data = DataConfig(held_out="tail:0.1", context=64, over_long="split", vocab_size=512)
    config = run_config(SMALL, data=data, device=DEVICE, dtype="float32", batch_size=8, max_steps=5)
    list(train(config, tmp_path / "run"))
    on_gpu, on_cpu = (score(load(str(tmp_path / "run"), (f"device={d}",))).summary for d in ("cuda", "cpu"))
    assert on_gpu.bits_per_byte == pytest.approx(on_cpu.bits_per_byte, rel=1e-5)


def test_a_step_waits_for_the_device_once(tmp_path):
    """Once for what decides its update; tests/run/test_waiting.py has when."""
    data = DataConfig(held_out="none", context=64, over_long="split", vocab_size=512)
    config = run_config(SMALL, data=data, device=DEVICE, dtype="float32", batch_size=8, max_steps=6)
    waits = []
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            for _ in train(override(config, ["diagnosis.every=0"]), tmp_path / "run"):
                waits.append(sum("synchronizing CUDA operation" in str(one.message) for one in seen))
                seen.clear()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert waits[2:-1] == [1] * 3  # the first step prepares, the last one saves


def test_compiled_training_follows_eager_training(tmp_path):
    """In processes of their own, without the type checks of the tests, which the compiler cannot read."""
    shape = ["model.width=64", "model.num_layers=2", "data.context=64", "batch_size=8", "data.held_out=none"]
    ways = {"eager": [], "compiled": ["compile=true"], "both": ["compile=true", "objective.chunk_size=100"]}
    found = {}
    for name, pairs in ways.items():
        out = tmp_path / name
        command = [sys.executable, "-m", "thetahat", "train", f"device={DEVICE}", *shape, *pairs, "max_steps=5", "-q"]
        subprocess.run([*command, "--out", str(out)], check=True)
        lines = (out / "metrics.jsonl").read_text().splitlines()
        found[name] = [json.loads(line)["log_likelihood_per_token"] for line in lines if "tokens_per_second" in line]
    assert found["compiled"] == pytest.approx(found["eager"], rel=1e-4)
    assert found["both"] == pytest.approx(found["eager"], rel=1e-4)


def test_products_in_float8_are_those_of_a_cpu():
    draw = torch.Generator().manual_seed(0)
    x, weight = torch.randn(37, 64, generator=draw), torch.randn(48, 64, generator=draw)
    here, there = (product(scaled(x.to(d)), scaled(weight.to(d)), torch.bfloat16) for d in ("cpu", DEVICE))
    torch.testing.assert_close(there.cpu(), here, rtol=2**-7, atol=1e-3)


def test_a_compiled_run_in_float8_learns_as_one_in_bfloat16(tmp_path):
    told = []
    for keys in ([], ["float8=true"]):
        config = override(find_recipe("quickstart"), ["device=cuda", "dtype=bfloat16", "compile=true", *keys])
        config = override(config, ["max_steps=40", "data.held_out=none", "evaluation.every=0"])
        told.append([one.step.total.mean().item() for one in train(config, tmp_path / f"run{len(told)}")][-1])
    assert told[1] == pytest.approx(told[0], rel=0.02)
