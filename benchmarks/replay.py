"""Whether any step of a run can be made again, bit for bit: random steps of two runs, on one rank and on two.

    python benchmarks/replay.py [--steps 200] [--replays 100] [--seed 0] [--out results/replay.json]

The runs are masked encoders with dropout; each step reads packed rows in several micro-batches, masked anew in each
epoch. Every step that is made on the way is compared with its line in metrics.jsonl, and the state with every tensor of
the next checkpoint. Steps of two ranks are made again by one process.
"""

import argparse
import json
import logging
import os
import random
import tempfile
import time
from pathlib import Path

from thetahat.core.config import from_toml, override, to_toml
from thetahat.distribution.launch import launch
from thetahat.distribution.world import World
from thetahat.recipes.catalogue import find_recipe
from thetahat.run.config import RunConfig
from thetahat.run.replay.again import make_again
from thetahat.run.replay.record import read_record
from thetahat.run.train import train

SENTENCE = "the whale, the sea and the captain; a ship that sails at night under cold stars, and no one knows why"


def records(folder, seed):
    """Texts of 4 to 60 words, several in a row of 64 tokens."""
    draw = random.Random(seed)
    texts = [" ".join(draw.choices(SENTENCE.split(), k=draw.randint(4, 60))) for _ in range(300)]
    path = folder / "records.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def config_of(path, steps, seed):
    shape = ["num_layers=2", "width=32", "num_heads=2", "num_kv_heads=2", "head_width=16", "inner_width=64"]
    changes = [f"data.train={path}", "data.held_out=none", "data.context=64", "data.vocab_size=300"]
    changes += [*(f"model.{one}" for one in shape), "model.dropout=0.1", f"seed={seed}", "threads=1", "device=cpu"]
    changes += ["data.over_long=split", "batch_size=8", "micro_batch_size=2", f"max_steps={steps}"]
    changes += ["checkpoint.every=10", "checkpoint.keep=1000", "diagnosis.preflight=off", "prompt="]
    return override(find_recipe("masked"), changes)


def make(folder):
    """One rank of a run, whose config is in the folder."""
    for _ in train(from_toml((Path(folder) / "config.toml").read_text(), RunConfig), Path(folder) / "run"):
        pass


def measure(num_ranks, options, home):
    folder = home / f"ranks-{num_ranks}"
    folder.mkdir()
    (folder / "config.toml").write_text(to_toml(config_of(records(home, options.seed), options.steps, options.seed)))
    launch(make, num_ranks, str(folder)) if num_ranks > 1 else make(folder)
    record = read_record(folder / "run")
    chosen = sorted(random.Random(options.seed).sample(range(1, options.steps + 1), options.replays))
    began, made, wrong = time.perf_counter(), 0, []
    for step in chosen:
        again = make_again(record, step, World(), to_checkpoint=True)
        assert again.num_ranks == num_ranks
        assert len(again.compared) == 2, again.compared
        made += again.num_made
        wrong += [] if again.is_reproduced else [str(again.differences[0])]
    spent = time.perf_counter() - began
    told = {"ranks": num_ranks, "steps": options.steps, "replayed": len(chosen), "reproduced": len(chosen) - len(wrong)}
    return told | {"steps_made_again": made, "seconds": round(spent, 1), "wrong": wrong}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--replays", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory() as name:
        os.environ["THETAHAT_CACHE"] = str(Path(name) / "cache")
        found = [measure(ranks, options, Path(name)) for ranks in (1, 2)]
    for one in found:
        print(json.dumps(one))
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
