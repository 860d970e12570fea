"""A step alone and beside another program: by threads that share products, by threads that read apart, by one.

    python benchmarks/neighbour.py [--rounds 8] [--steps 3] [--out results/neighbour.json] [KEY=VALUE ...]

One model takes the same steps in three ways, in turns: `shared`, all threads compute each product of one batch
together; `apart`, each thread reads micro-batches of its own, as `thetahat train` does (`RunConfig.num_at_once`);
`one`, by one thread. Then the same beside a neighbour, a process that never waits. First the gradients of the three are
compared. Reported are medians of milliseconds a step. On a machine that does other work, start it with `nice -n -20`.
"""

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command line does

import torch
from msgspec.structs import replace

import thetahat as th
from thetahat.core.work.threads import Workers
from thetahat.distribution.world import ALONE
from thetahat.run.prepare import prepare
from thetahat.run.state import first_state
from thetahat.run.step import step

RESULTS = Path(__file__).with_name("results")
BUSY = [sys.executable, "-c", "while True: pass"]


def batches_of(prepared, config, number, *, is_cut):
    """Those of a step, in one micro-batch or in those that are read at once."""
    device = "cpu" if is_cut else "cuda"  # where nothing is read at once
    return dataclasses.replace(prepared, config=replace(config, device=device)).batches(number)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS / "neighbour.json")
    parser.add_argument("keys", nargs="*")
    asked = parser.parse_args()
    threads = len(os.sched_getaffinity(0))
    config = th.override(th.find_recipe("quickstart"), [f"threads={threads}", "device=cpu", *asked.keys])
    prepared = prepare(config)
    several, one = Workers(config.num_at_once, threads // config.num_at_once), Workers()
    ways = {"shared": (threads, one, False), "apart": (threads, several, True), "one": (1, one, False)}
    state = first_state(config, prepared.tokenizer.vocab_size, config.max_steps, torch.device("cpu"))
    first = {name: p.detach().clone() for name, p in state.model.named_parameters()}

    def steps(way, number):
        num_threads, state.workers, is_cut = ways[way]
        torch.set_num_threads(num_threads)
        made = [batches_of(prepared, config, one, is_cut=is_cut) for one in range(number)]
        begun = time.perf_counter()
        for batches in made:
            step(state, batches, ALONE)
        return 1e3 * (time.perf_counter() - begun) / number

    gradients = {}
    for way in ways:
        with torch.no_grad():
            for name, parameter in state.model.named_parameters():
                parameter.copy_(first[name])
        steps(way, 1)
        gradients[way] = torch.cat([p.grad.flatten() for p in state.model.parameters()])
    apart = {way: float((g - gradients["one"]).norm() / gradients["one"].norm()) for way, g in gradients.items()}
    assert max(apart.values()) < 1e-5, apart
    found = {"keys": asked.keys, "threads": threads, "num_at_once": config.num_at_once, "gradients_apart": apart}
    for name in ("alone", "neighbour"):
        neighbour = subprocess.Popen(BUSY) if name == "neighbour" else None
        try:
            taken = {way: [] for way in ways}
            for _ in range(asked.rounds):
                for way in ways:
                    taken[way].append(steps(way, asked.steps))
        finally:
            if neighbour:
                neighbour.kill()
        found[name] = {way: statistics.median(each) for way, each in taken.items()}
        ratios = [s / a for s, a in zip(taken["shared"], taken["apart"], strict=True)]
        found[f"{name}_shared_over_apart"] = [min(ratios), statistics.median(ratios), max(ratios)]
    found["apart_beside_a_neighbour_over_one_alone"] = found["neighbour"]["apart"] / found["alone"]["one"]
    asked.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
