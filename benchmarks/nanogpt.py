"""thetahat beside nanoGPT on a CPU: the same GPT-2 in turns, and how long each takes to 2.72 bits per byte.

    git clone https://github.com/karpathy/nanoGPT
    python -m benchmarks.nanogpt nanoGPT DATA [--rounds 3] [--steps 20] [--out benchmarks/results/nanogpt.json]

- `rows`: a GPT-2 of 14M parameters (6 layers of width 384, biases, a table of 8,192 tokens) in float32 with AdamW, on
  8 rows of 512 targets of a book in DATA. Its model and optimizer are nanoGPT's files, its loop is what `train.py` does
  in a step, without compilation, as nanoGPT's README has it for a CPU. Counted are targets a second, each measurement
  in a process of its own, the first five steps left out; before that both compute the same likelihood.
- `recipe`: the command that nanoGPT's README gives for a CPU (800 thousand parameters on the letters of Shakespeare),
  whole, to its end; then `thetahat train quickstart` on the same text, the seconds until what is held out has as few
  bits per byte. Seconds of thetahat are of its steps, since nanoGPT's are of 2,000 steps and nine evaluations of 20
  batches.
"""

import argparse
import json
import math
import os
import re
import runpy
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import thetahat as th
from benchmarks.trainer import FIRST, RESULTS, SHAPE, exported, ours, texts

ROWS = {
    **{name: value for name, value in SHAPE.items() if not name.startswith("model.")},
    "model.width": 384,
    "model.num_layers": 6,
    "model.num_heads": 6,
    "model.num_kv_heads": 6,
    "model.head_width": 64,
    "model.inner_width": 1536,
    "model.ties_embeddings": "true",
    "model.layers": "[{kind='attention',positions={kind='none'}}]",
    "model.norm": "{kind='layer',has_bias=true}",
    "model.norm_epsilon": 1e-5,
    "model.embedding.positions": "{kind='learned',number=512}",
    "model.attention.query_key_norm": "none",
    "model.attention.has_bias": "true",
    "model.attention.has_output_bias": "true",
    "model.mlp.is_gated": "false",
    "model.mlp.has_bias": "true",
    "model.mlp.activation": "gelu",
    "data.context": 512,
    "data.over_long": "split",
    "batch_size": 8,
    "device": "cpu",
}
CPU = (  # of nanoGPT's README, "I only have a macbook"
    "--device=cpu --compile=False --eval_iters=20 --log_interval=1 --block_size=64 --batch_size=12 --n_layer=4 "
    "--n_head=4 --n_embd=128 --max_iters=2000 --lr_decay_iters=2000 --dropout=0.0"
)
TURNED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")


def theirs(made: th.RunConfig, folder: Path) -> tuple[Any, torch.nn.Module]:
    """Our first model, and nanoGPT's with the same parameters."""
    model, middle = exported(made, folder)
    written = runpy.run_path(os.environ["NANOGPT"] + "/model.py")
    found = middle.state_dict()
    vocab_size = found["transformer.wte.weight"].shape[0]
    config = written["GPTConfig"](512, vocab_size, 6, 6, 384, 0.0, True)  # block, tokens, layers, heads, width
    nano = written["GPT"](config)
    with torch.no_grad():
        for name, one in nano.state_dict().items():
            one.copy_(found[name].t() if name.endswith(TURNED) else found[name])
    return model, nano


def check(made: th.RunConfig) -> float:
    """How far apart the likelihoods of a row are, relative; more than rounding is an error."""
    with tempfile.TemporaryDirectory() as folder:
        model, nano = theirs(made, Path(folder))
        tokens = torch.from_numpy(th.prepare(made).train.tokens[:513].astype("int64"))
        read, targets = tokens[None, :-1], tokens[None, 1:]
        from thetahat.core.batch import Inputs
        from thetahat.core.visibility import visibility_of

        inputs = Inputs(read, torch.arange(512)[None], visibility_of(torch.zeros_like(read)))
        with torch.no_grad():
            here = model.head(model.hidden(inputs)[0]).double().log_softmax(-1).gather(1, targets[0, :, None]).mean()
            there = -nano(read, targets)[1]
    apart = abs(float(here) - float(there)) / abs(float(there))
    assert apart < 1e-6, apart
    return apart


def trained(made: th.RunConfig, steps: int) -> float:
    """Targets a second of nanoGPT: in each step what its `train.py` does."""
    data = th.prepare(made).train.tokens.astype(np.uint16)
    with tempfile.TemporaryDirectory() as folder:
        _, model = theirs(made, Path(folder))
    optimizer = model.configure_optimizers(0.1, 3e-4, (0.9, 0.95), "cpu")
    clock = list[float]()

    def batch() -> tuple[torch.Tensor, torch.Tensor]:
        starts = torch.randint(len(data) - 512, (8,))
        rows = np.stack([data[start : start + 513].astype(np.int64) for start in starts])
        return torch.from_numpy(rows[:, :-1]).contiguous(), torch.from_numpy(rows[:, 1:]).contiguous()

    read, targets = batch()
    for _ in range(steps):
        _, loss = model(read, targets)
        read, targets = batch()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        clock.append(time.perf_counter())
    return 8 * 512 * (steps - FIRST) / (clock[-1] - clock[FIRST - 1])


def recipe(nano: Path) -> dict[str, float]:
    """Seconds and bits per byte at the end of nanoGPT's recipe for a CPU."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "nanoGPT"
        shutil.copytree(nano, folder, ignore=shutil.ignore_patterns(".git", "out*"))
        text = Path(th.__file__).parent / "data" / "bundled" / "tinyshakespeare.txt"
        shutil.copy(text, folder / "data" / "shakespeare_char" / "input.txt")  # so that nothing is fetched
        subprocess.run(
            [sys.executable, "data/shakespeare_char/prepare.py"], cwd=folder, check=True, capture_output=True
        )
        words = [sys.executable, "train.py", "config/train_shakespeare_char.py", *CPU.split()]
        begun = time.perf_counter()
        done = subprocess.run(words, cwd=folder, check=True, capture_output=True, text=True)
        seconds = time.perf_counter() - begun
    losses = re.findall(r"step 2000: train loss [\d.]+, val loss ([\d.]+)", done.stdout)
    return {"seconds": seconds, "bits_per_byte": float(losses[-1]) / math.log(2)}


def reached(bits: float, seed: int) -> dict[str, float]:
    """Steps of the quickstart, and their seconds, until what is held out has at most so many bits per byte."""
    pairs = [f"seed={seed}", "evaluation.every=5", "checkpoint.every=0", "prompt="]
    made = th.override(th.find_recipe("quickstart"), pairs)
    steps, evaluating = 0, 0.0
    with tempfile.TemporaryDirectory() as folder:
        for report in th.train(made, Path(folder) / "run"):
            steps, evaluating = steps + 1, evaluating + report.evaluation_seconds
            if report.held_out is not None and report.held_out.bits_per_byte <= bits:
                return {"seed": seed, "steps": steps, "seconds": report.seconds - evaluating}
    raise SystemExit(f"the quickstart has not reached {bits} bits per byte")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nanogpt", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--out", type=Path, default=RESULTS / "nanogpt.json")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    os.environ["NANOGPT"] = str(asked.nanogpt.resolve())
    with tempfile.TemporaryDirectory() as folder:
        train = Path(os.environ.setdefault("NANOGPT_TEXT", f"{folder}/full.jsonl"))
        if not asked.one:
            train.write_text(json.dumps({"text": texts(asked.data, "full")[0]}) + "\n")
        keys = {**ROWS, "data.train": train, "max_steps": asked.steps}
        made = th.override(th.find_recipe("quickstart"), [f"{name}={value}" for name, value in keys.items()])
        if asked.one:
            told = {
                "check": lambda: check(made),
                "ours": lambda: ours(made),
                "theirs": lambda: trained(made, asked.steps),
            }
            print(json.dumps(told[asked.one]()))
            return

        def one(way: str) -> float:
            words = [sys.executable, "-m", "benchmarks.nanogpt", str(asked.nanogpt), str(asked.data)]
            words += ["--steps", str(asked.steps), "--one", way]
            environment = os.environ | {"THETAHAT_CACHE": folder}
            done = subprocess.run(words, env=environment, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(done.stderr[-3000:])
            return json.loads(done.stdout.splitlines()[-1])

        rows: dict[str, Any] = {"likelihoods_apart": one("check")}
        rates = [(one("ours"), one("theirs")) for _ in range(asked.rounds)]
        rows["targets_per_second"] = {
            name: statistics.median(each)
            for name, each in zip(("ours", "nanoGPT"), zip(*rates, strict=True), strict=True)
        }
        rows["ours_over"] = statistics.median([mine / other for mine, other in rates])
        found: dict[str, Any] = {"threads": len(os.sched_getaffinity(0)), "rows": rows}
        print(json.dumps(rows), flush=True)
        found["recipe"] = recipe(asked.nanogpt)
        found["quickstart"] = [reached(found["recipe"]["bits_per_byte"], seed) for seed in range(3)]
        found["share"] = max(one["seconds"] for one in found["quickstart"]) / found["recipe"]["seconds"]
        print(json.dumps(found), flush=True)
        asked.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
