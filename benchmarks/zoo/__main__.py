"""Runs the zoo and counts: python -m benchmarks.zoo --seeds 5 --healthy 100 --out zoo.json

Every failure is made with each seed, and every healthy run once, each in a process of its own. Then the table: how many
were found, after how many steps, how often the right cause stood first or among the first three, how often the sequence
or the part of the model was named; and which healthy runs were alarmed.
"""

import argparse
import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from benchmarks.zoo.count import alarmed, brief, noted, once, table
from benchmarks.zoo.failures import FAILURES


def main() -> None:
    """Runs it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, help="of each failure")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--healthy", type=int, default=100)
    parser.add_argument("--only", nargs="*", default=[one.number for one in FAILURES], help="F1 F7 ...")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="keeps the run folders here")
    parser.add_argument("--out", type=Path)
    typed = parser.parse_args()
    seeds = range(typed.first_seed, typed.first_seed + typed.seeds)
    jobs = [(number, seed) for number in typed.only for seed in seeds]
    jobs += [("healthy", typed.first_seed + number) for number in range(typed.healthy)]
    results: list[dict[str, Any]] = []
    warm = multiprocessing.get_context("forkserver")  # its children need not import torch
    warm.set_forkserver_preload(["benchmarks.zoo.count"])
    with ProcessPoolExecutor(typed.processes, warm, max_tasks_per_child=1) as pool:
        for future in as_completed([pool.submit(once, *job, typed.keep) for job in jobs]):
            results.append(one := future.result())
            names = " ".join(dict.fromkeys(f"{said['name']}@{said['step']}" for said in one.get("said", [])))
            told = one.get("crash") or f"{names} | {' '.join(one['causes'][:3])} {one['error']}"
            print(f"{one['number']:8} {one['seed']:4} {one.get('seconds', 0):5.1f} s  {told}", flush=True)
    results.sort(key=lambda one: (one["number"], one["seed"]))
    lines = [brief(one) for one in results]
    print(table(lines))
    sick = alarmed(results)
    print(f"{len(sick)} of {typed.healthy} healthy runs alarmed", *sick, sep="\n  ")
    quiet = noted(results)
    print(f"{len(quiet)} of {typed.healthy} have a note", *quiet, sep="\n  ")
    if typed.out:
        typed.out.write_text("[\n" + ",\n".join(json.dumps(one) for one in lines) + "\n]\n")


if __name__ == "__main__":
    main()
