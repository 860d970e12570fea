"""What all default signals and alarms cost, as a share of a step: paired, interleaved runs with and without them.

    python benchmarks/signals_cost.py [--pairs 8] [--out results/signals_cost.json] [--only NAME] [KEY=VALUE ...]

Each model is trained twice in one process, as it is by default and with diagnosis.alarms=false, step by step in turns
(and in both orders). A pair is `diagnosis.every` steps of each, so that what is measured from time to time is in it;
its cost is the time with over the time without, less 1, and reported is the median of the pairs. What noise hides there
is in `share_of_step`: the time within the calls of the watch over that of all steps with it. At the end the parameters
and the optimizer's state are compared, bit for bit. On a machine that does other work, start it with `nice -n -20`.
"""

import argparse
import json
import logging
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

from thetahat.core.config import override
from thetahat.recipes.quickstart import quickstart
from thetahat.run.diagnosis.watch import Watch
from thetahat.run.folder.files import MODEL, OPTIMIZER, all_checkpoints
from thetahat.run.train import train

LARGER = {"num_layers": 8, "width": 256, "num_heads": 8, "num_kv_heads": 4, "head_width": 32, "inner_width": 704}
CASES = {
    "quickstart": [],
    "larger": [*(f"model.{name}={value}" for name, value in LARGER.items()), "batch_size=8"],
}
METHODS = ("begin", "note", "judge", "end", "logged", "signals", "write", "stop", "evaluated")


class Clock:
    """Time within each method of the watch."""

    def __init__(self):
        self.seconds = dict.fromkeys(METHODS, 0.0)
        for name in METHODS:
            setattr(Watch, name, self.timed(name, getattr(Watch, name)))

    def timed(self, name, method):
        def call(*arguments):
            begun = time.perf_counter()
            result = method(*arguments)
            self.seconds[name] += time.perf_counter() - begun
            return result

        return call


def measure(changes, num_pairs, clock, folder):
    """The cost of a pair of runs."""
    config = quickstart()
    every, off = config.diagnosis.every, ["diagnosis.alarms=false"]
    steps = every * (num_pairs + 1)
    common = ["data.held_out=none", "evaluation.every=0", "checkpoint.every=0", f"max_steps={steps}", *changes]
    runs = {name: train(override(config, [*common, *more]), folder / name) for name, more in (("on", []), ("off", off))}
    seconds = {"on": [[] for _ in range(num_pairs + 1)], "off": [[] for _ in range(num_pairs + 1)]}
    for number in range(steps):
        if number == every:  # the first pair warms up
            clock.seconds = dict.fromkeys(METHODS, 0.0)
        for name in ("on", "off") if number % 2 else ("off", "on"):
            begun = time.perf_counter()
            next(runs[name])
            seconds[name][number // every].append(time.perf_counter() - begun)
    assert all(next(run, None) is None for run in runs.values())
    whole = {name: [sum(block) for block in blocks[1:]] for name, blocks in seconds.items()}
    ratios = [on / off - 1 for on, off in zip(whole["on"], whole["off"], strict=True)]
    medians = {
        name: statistics.median(one for block in blocks[1:] for one in block) for name, blocks in seconds.items()
    }
    within = {name: spent / sum(whole["on"]) for name, spent in clock.seconds.items() if spent}
    return {
        "parameters": parameters(folder / "on"),
        "median_seconds_without": round(medians["off"], 5),
        "steps_a_pair": every,
        "cost_of_pairs": [round(one, 5) for one in ratios],
        "median_cost": round(statistics.median(ratios), 5),
        "cost_of_the_median_step": round(medians["on"] / medians["off"] - 1, 5),
        "share_of_step": round(sum(within.values()), 5),
        "share_by_call": {name: round(share, 6) for name, share in within.items()},
        "is_bitwise_equal": is_equal(folder),
    }


def tensors(run):
    newest = all_checkpoints(run)[-1]
    return {**load_file(newest / MODEL), **{f"optimizer/{k}": v for k, v in load_file(newest / OPTIMIZER).items()}}


def parameters(run):
    return sum(one.numel() for one in load_file(all_checkpoints(run)[-1] / MODEL).values())


def is_equal(folder):
    """Whether both runs end with the same bits."""
    ours, theirs = tensors(folder / "on"), tensors(folder / "off")
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("changes", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--only", choices=CASES)
    parser.add_argument("--out", type=Path)
    told = parser.parse_args()
    logging.disable(logging.WARNING)
    clock, results = Clock(), {}
    for name in [told.only] if told.only else CASES:
        with tempfile.TemporaryDirectory() as folder:
            results[name] = measure([*CASES[name], *told.changes], told.pairs, clock, Path(folder))
        print(name, json.dumps(results[name], indent=2), flush=True)
    machine = {"cores": len(os.sched_getaffinity(0)), "processor": platform.machine(), "torch": torch.__version__}
    machine |= {"threads": torch.get_num_threads(), "load": round(os.getloadavg()[0], 2)}
    if told.out:
        whole = {"machine": machine, "pairs": told.pairs, "cases": results}
        told.out.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
