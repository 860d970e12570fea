"""The quickstart as a user meets it: seconds, wall seconds and held-out bits per byte, for several seeds.

    python benchmarks/quickstart.py [--seeds 0 1 2] [--out results.json] [KEY=VALUE ...]

Each seed is a fresh `thetahat train` in a folder and with a cache of its own, one after the other, alone on the
machine. `seconds` is of the training loop with its evaluations and saves, `wall_seconds` of the whole command with
imports, the tokenizer, the corpus and the sample.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def measure(seed: int, pairs: list[str]) -> dict[str, object]:
    """One run from nothing."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "thetahat",
            "train",
            f"seed={seed}",
            *pairs,
            "--json",
            "--out",
            f"{folder}/run",
        ]
        started = time.perf_counter()
        environment = os.environ | {"THETAHAT_CACHE": f"{folder}/cache"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd=folder)
        outcome = json.loads(done.stdout.splitlines()[-1])
        outcome["wall_seconds"] = time.perf_counter() - started
    del outcome["checkpoint"]
    return {"seed": seed} | outcome


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("pairs", nargs="*")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--out")
    arguments = parser.parse_intermixed_args()
    runs = []
    for seed in arguments.seeds:
        runs.append(measure(seed, arguments.pairs))
        print(json.dumps(runs[-1]), flush=True)
    found = {
        "cores": len(os.sched_getaffinity(0)),
        "processor": platform.machine(),
        "python": platform.python_version(),
        "changes": arguments.pairs,
        "worst_bits_per_byte": max(run["held_out_bits_per_byte"] for run in runs),
        "worst_seconds": max(run["seconds"] for run in runs),
        "worst_wall_seconds": max(run["wall_seconds"] for run in runs),
        "runs": runs,
    }
    if arguments.out:
        Path(arguments.out).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({key: value for key, value in found.items() if key != "runs"}))
