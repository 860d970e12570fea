"""What the training ledger costs, as a share of the time of a step.

    python benchmarks/ledger_cost.py [--steps 24] [--out benchmarks/results/ledger_cost.json] [KEY=VALUE ...]

The quickstart, with its text as one document and as thousands of short ones, is trained twice in one process, with and
without a ledger, step by step in turns. The difference of the two medians says no more than their noise allows; what is
held to 0.5 % is the time within the calls of the ledger, the writes at checkpoints among them, over that of all steps.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import torch

from thetahat.core.config import override
from thetahat.ledger.run_ledger import part_files, read_run_ledger
from thetahat.recipes.quickstart import quickstart
from thetahat.run.log.ledger import TrainingLedger
from thetahat.run.train import train

CASES = {
    "one document": [],
    "speeches": ['data.split_on="\\n\\n"'],
    "speeches, with tokens": ['data.split_on="\\n\\n"', "ledger.tokens=true"],
}


class Clock:
    """Time within some methods of the ledger."""

    def __init__(self):
        self.seconds = {"_note": 0.0, "write": 0.0}
        for name in self.seconds:
            setattr(TrainingLedger, name, self.timed(name, getattr(TrainingLedger, name)))

    def timed(self, name, method):
        def call(*arguments):
            begun = time.perf_counter()
            result = method(*arguments)
            self.seconds[name] += time.perf_counter() - begun
            return result

        return call


def measure(pairs, num_steps, clock, folder):
    """Seconds of each step with and without, and of the ledger's own calls."""
    common = ["data.held_out=none", "evaluation.every=0", f"max_steps={num_steps}", "checkpoint.every=12", *pairs]
    runs = {}
    for name, more in (("on", []), ("off", ["ledger.every=0"])):
        config = override(quickstart(), [*common, *more])
        runs[name] = train(config, folder / name)
    clock.seconds = dict.fromkeys(clock.seconds, 0.0)
    seconds = {"on": [], "off": []}
    for number in range(num_steps):
        for name in ("on", "off") if number % 2 else ("off", "on"):
            begun = time.perf_counter()
            next(runs[name])
            if number:  # the first includes the start
                seconds[name].append(time.perf_counter() - begun)
            else:
                clock.seconds = dict.fromkeys(clock.seconds, 0.0)
    for run in runs.values():
        assert next(run, None) is None
    files = part_files(folder / "on")
    rows, size = len(read_run_ledger(folder / "on")), sum(path.stat().st_size for path in files)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    steps = num_steps - 1
    return {
        "rows_per_step": rows / num_steps,
        "bytes_per_row": size / rows,
        "median_seconds_with": medians["on"],
        "median_seconds_without": medians["off"],
        "difference_of_medians": medians["on"] / medians["off"] - 1,
        "seconds_noting_per_step": clock.seconds["_note"] / steps,
        "seconds_writing_per_step": clock.seconds["write"] / steps,
        "share_of_step": sum(clock.seconds.values()) / steps / statistics.mean(seconds["off"]),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--out", type=Path)
    told = parser.parse_args()
    clock, results = Clock(), {}
    for name, pairs in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            results[name] = measure([*pairs, *told.pairs], told.steps, clock, Path(folder))
        print(name, json.dumps(results[name], indent=2))
    machine = {"cores": len(os.sched_getaffinity(0)), "processor": platform.machine(), "torch": torch.__version__}
    machine |= {"threads": torch.get_num_threads(), "load": os.getloadavg()[0]}
    whole = {"steps": told.steps, "machine": machine, "cases": results}
    if told.out:
        told.out.write_text(json.dumps(whole, indent=2) + "\n")


if __name__ == "__main__":
    main()
