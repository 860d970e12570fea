"""No room, no memory, no number: each ends with its own exit code, and the last checkpoint is as it was."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.faults.conftest import kept, outcome, verified
from thetahat.core import store


def weigh(bed, **weights):
    """Gives records of the training data a weight."""
    path = bed.folder / "data.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    weighed = [record | ({"weight": weights[record["id"]]} if record["id"] in weights else {}) for record in records]
    path.write_text("".join(json.dumps(record) + "\n" for record in weighed))


def killed_at(bed, num_lines):
    attempt = bed.start()
    assert bed.until(attempt, lambda: bed.lines() >= num_lines), attempt.err
    attempt.kill()


@pytest.mark.parametrize(
    ("name", "num_lines"),
    [
        ("model.safetensors", 0),
        ("optimizer.safetensors", 7),
        pytest.param("model.safetensors", 7, marks=pytest.mark.slow),
        pytest.param("optimizer.safetensors", 0, marks=pytest.mark.slow),
    ],
)
def test_a_full_disk_leaves_the_last_checkpoint_and_the_next_start_goes_on(warm, oracle, name, num_lines):
    """No file may grow to what one of them needs: in the first save, or in a later one."""
    if num_lines:
        killed_at(warm, num_lines)
    before = verified(warm.run)
    size = (oracle.run / "checkpoints" / "step-00000024" / name).stat().st_size
    attempt = warm.finish(code=8, limits={"RLIMIT_FSIZE": size - 1})
    assert "no space left while writing run/checkpoints/step-" in attempt.err
    assert verified(warm.run) == before == kept(warm.run)
    assert not list((warm.run / "checkpoints").glob(".*"))
    warm.finish()
    assert outcome(warm.run) == oracle.outcome


FULL = """
mount -t tmpfs -o size=4m tmpfs run && cp -a started/. run/ || exit 99
head -c {filler} /dev/zero > run/filler
{command}
code=$?
rm run/filler
cp -a run/. full/
{command}
echo "codes $code $?"
cp -a run/. done/
"""


def can_mount():
    words = ["unshare", "-Urm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return shutil.which("unshare") and subprocess.run(words, capture_output=True, check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not can_mount(), reason="needs unshare -Urm")
@pytest.mark.parametrize("room", [0, 1000, 100_000, 180_000])
def test_a_full_file_system_leaves_the_last_checkpoint_and_the_next_start_goes_on(warm, oracle, room):
    """The disk is full when a line is written, when a folder is made, or within the first or the second file."""
    killed_at(warm, 7)
    warm.run.rename(warm.folder / "started")
    for name in ("run", "full", "done"):
        (warm.folder / name).mkdir()
    used = sum(
        -(-path.stat().st_size // 4096) * 4096 for path in (warm.folder / "started").rglob("*") if path.is_file()
    )
    command = f"{sys.executable} -m thetahat {' '.join(warm.command())} --quiet"
    script = FULL.format(filler=max(4 * 2**20 - used - 4096 * 12 - room, 0), command=command)
    environment = os.environ | {"THETAHAT_CACHE": str(warm.folder / "cache"), "OMP_NUM_THREADS": "1"}
    words = ["unshare", "-Urm", "sh", "-c", script]
    done = subprocess.run(words, cwd=warm.folder, env=environment, capture_output=True, text=True, check=False)
    assert "codes 8 0" in done.stdout, done.stdout + done.stderr
    assert verified(warm.folder / "full") == kept(warm.folder / "full")
    assert max(verified(warm.folder / "full")) >= max(verified(warm.folder / "started"))
    assert outcome(warm.folder / "done") == oracle.outcome


def check_non_finite(bed, step, *words, command=()):
    attempt = bed.finish(*(command or bed.command()), code=5)
    for word in (f"step {step}: ", *words):
        assert word in attempt.err, attempt.err
    assert "nothing was updated" in attempt.err
    assert bed.lines() == step - 1
    assert kept(bed.run) == verified(bed.run)
    return attempt


def test_a_weight_under_which_a_likelihood_would_overflow_is_refused_before_step_1(warm):
    """Its gradient alone would be finite, since both sides of the quotient are large."""
    weigh(warm, d3=1e308)
    attempt = warm.finish(code=3)
    assert "data.jsonl:4: the weight is 1e+308" in attempt.err
    assert warm.lines() == 0


def test_a_gradient_that_overflows_is_named_and_not_applied(warm):
    """1e39 is no float32; under `sum` nothing divides it away."""
    weigh(warm, d5=1e39)
    warm.finish(*warm.command("objective.normalization=sum"), code=5)
    said = "Sequences: d5; first in log-likelihood in the backward pass of d5\n"
    check_non_finite(warm, warm.lines() + 1, said, command=warm.command("objective.normalization=sum"))


def test_a_large_weight_whose_quotient_is_a_number_is_no_error(warm):
    weigh(warm, d5=1e39)
    warm.finish(*warm.command("max_steps=8"))


def test_a_learning_rate_that_overflows_is_named_at_the_next_step(warm):
    huge = ["optimization.embeddings.learning_rate=1e38", "optimization.schedule.warmup_steps=0"]
    attempt = check_non_finite(warm, 2, command=warm.command(*huge))
    assert "Already non-finite before it: embedding.weight, head.weight" in attempt.err
    assert kept(warm.run) == ["step-00000000"]


def test_an_update_that_overflows_is_never_saved(warm):
    huge = ["optimization.embeddings.learning_rate=1e38", "optimization.schedule.warmup_steps=0", "checkpoint.every=1"]
    attempt = warm.finish(*warm.command(*huge), code=5)
    assert "the update of step 1 made parameters non-finite: embedding.weight, head.weight" in attempt.err
    assert kept(warm.run) == ["step-00000000"]


def test_parameters_that_are_not_finite_are_named(warm, oracle):
    shutil.copytree(oracle.run, warm.run)
    shutil.rmtree(warm.run / "checkpoints" / "step-00000024")
    folder = warm.run / "checkpoints" / "step-00000021"
    tensors = load_file(folder / "model.safetensors")
    tensors["blocks.0.mlp.down.weight"][3, 2] = torch.inf
    damaged = warm.run / "checkpoints" / "step-00000022"
    with store.publishing(damaged) as partial:
        for path in folder.iterdir():
            if path.name != store.MANIFEST:
                shutil.copy(path, partial / path.name)
        save_file(tensors, partial / "model.safetensors")
        progress = json.loads((partial / "state.json").read_text()) | {"step": 22}
        (partial / "state.json").write_text(json.dumps(progress))
    attempt = warm.finish(code=5)
    assert "step 23: " in attempt.err
    assert "Already non-finite before it: blocks.0.mlp.down.weight" in attempt.err
    assert kept(warm.run) == ["step-00000021", "step-00000022"]


def test_a_document_of_weight_0_is_in_no_batch_and_counted(warm):
    weigh(warm, d3=0)
    attempt = warm.finish(*warm.command("batch_size=1", "data.packing=none"))
    assert "1 of weight 0 not read" in attempt.err


def test_memory_that_is_not_there_is_named(warm):
    wide = warm.command(f"model.inner_width={2**28}")
    attempt = warm.finish(*wide, code=9, limits={"RLIMIT_AS": 12 * 2**30})
    assert "memory" in attempt.err
    assert "try: " in attempt.err
