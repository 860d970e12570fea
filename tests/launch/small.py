"""One small run for every launcher, and what is compared of its outcomes."""

import hashlib
import json
import random

from tests.commands import ended, started, worlds

WORDS = [
    "whale",
    "captain",
    "ship",
    "sails",
    "night",
    "under",
    "cold",
    "stars",
    "no",
    "one",
    "knows",
    "why",
    "the",
    "of",
]
SHAPE = ["num_layers=1", "width=32", "num_heads=2", "num_kv_heads=1", "head_width=16", "inner_width=48"]
KEYS = [*(f"model.{one}" for one in SHAPE), "data.vocab_size=300", "data.context=64", "batch_size=8", "prompt="]
KEYS += ["device=cpu", "threads=1", "evaluation.every=0", "checkpoint.every=5", "data.held_out=none"]


def words(folder, steps, *more):
    """What stands behind `thetahat train`; the text is written if it is not there."""
    text = folder / "my.txt"
    if not text.exists():
        draw = random.Random(0)
        text.write_text("".join(" ".join(draw.choices(WORDS, k=12)) + ".\n" for _ in range(600)), encoding="utf-8")
    return [str(text), *KEYS, f"max_steps={steps}", *more]


def settings(folder):
    """The environment of a launcher: a cache of its own."""
    return {"THETAHAT_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}


def expected(folder, steps):
    """The outcome of the same run by two ranks of this machine."""
    command = ["train", *words(folder, steps), "--out", str(folder / "expected")]
    attempts = [started(folder, *command, environment=world) for world in worlds(2)]
    for done in [ended(attempt) for attempt in attempts]:
        assert done.returncode == 0, done.stderr
    return outcome(folder / "expected")


def outcome(run):
    """Digests of the last parameters and of the optimizer's state, and the likelihood of each step."""
    last = run / "checkpoints" / (run / "checkpoints" / "latest").read_text().strip()
    files = [last / name for name in ("model.safetensors", "optimizer.safetensors")]
    steps = {line["step"]: line["log_likelihood_per_token"] for line in lines(run)}
    return last.name, *(hashlib.sha256(file.read_bytes()).hexdigest() for file in files), steps


def lines(run):
    """The whole lines of the steps that a run has logged."""
    path = run / "metrics.jsonl"
    written = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    found = [json.loads(line) for line in written if line.endswith("\n")]
    return [line for line in found if "log_likelihood_per_token" in line]
