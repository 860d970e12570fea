"""Whether laws that `thetahat scaling` fits say the truth: of synthetic runs, and of a larger run that was held out.

    python benchmarks/scaling.py recover --out benchmarks/results/scaling_recovered.json
    python benchmarks/scaling.py predict --out benchmarks/results/scaling_predicted.json

`recover` makes 100 times runs of a known law, log-losses with noise of 0.3 %, and counts how often each number lies
within its 95 % interval: exponents, floor, the mean loss at 64 times the operations, the loss of one run there, and the
best size for as many. Once with Gaussian noise, once with Student's t of 3 degrees of freedom.

`predict` trains nine small runs and one of which each of N and D is larger, by the command line, asks
`thetahat scaling` of the nine what the tenth comes to, and says whether it does.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from thetahat.statistics.scaling import Law, fit_law
from thetahat.verbs.scaling import best_size

TRUTH = Law(1.7, (80.0, 100.0), (0.34, 0.28))
SIZES, TOKENS = (1e5, 3e5, 1e6, 3e6), (1e6, 4e6, 1.6e7, 6.4e7)
NOISE, CASES = 0.003, 100
LARGE = (SIZES[-1] * 8, TOKENS[-1] * 8)

WIDTHS, STEPS = (16, 32, 64), (100, 250, 600)
LARGER = (128, 1200)  # width and steps of the run that is held out


def covered(seed: int, freedom: int | None) -> dict[str, bool]:
    """Of which quantities the truth is within the interval, in one case."""
    draw = np.random.default_rng(seed)
    sizes = np.array([(n, d) for n in SIZES for d in TOKENS])
    if freedom is None:
        noise = draw.standard_normal(len(sizes))
    else:
        noise = draw.standard_t(freedom, len(sizes)) * np.sqrt((freedom - 2) / freedom)
    fit = fit_law(sizes, TRUTH.loss(*sizes.T) * np.exp(NOISE * noise), num_draws=300, seed=seed)
    budget = 6 * LARGE[0] * LARGE[1]
    quantities: dict[str, Callable[[Law], float]] = {
        "alpha": lambda law: law.exponents[0],
        "beta": lambda law: law.exponents[1],
        "E": lambda law: law.floor,
        "mean loss at 64 C": lambda law: float(law.loss(*LARGE)),
        "best N at 64 C": lambda law: best_size(law, budget)[0],
    }
    found = {name: _is_within(of(TRUTH), fit.interval(of)) for name, of in quantities.items()}
    one_more = float(TRUTH.loss(*LARGE) * np.exp(NOISE * draw.standard_normal()))
    return found | {"loss of a run at 64 C": _is_within(one_more, fit.interval_of_run(LARGE))}


def _is_within(value: float, interval: tuple[float, float]) -> bool:
    return bool(interval[0] <= value <= interval[1])


def recover() -> dict[str, Any]:
    """How many of the cases were covered."""
    told: dict[str, Any] = {"cases": CASES, "noise": NOISE, "runs": len(SIZES) * len(TOKENS)}
    for name, freedom in (("gaussian", None), ("student-t-3", 3)):
        cases = [covered(seed, freedom) for seed in range(CASES)]
        told[name] = {quantity: sum(case[quantity] for case in cases) for quantity in cases[0]}
        print(name, told[name], flush=True)
    return told


def train(folder: Path, width: int, steps: int) -> Path:
    """A run by the command line."""
    out = folder / f"w{width}-s{steps}"
    keys = {
        "transfer.width": 32,
        "transfer.num_layers": 2,
        "model.num_layers": 2,
        "model.width": width,
        "model.num_heads": width // 16,
        "model.num_kv_heads": width // 16,
        "model.head_width": 16,
        "model.inner_width": 3 * width,
        "model.ties_embeddings": "false",
        "model.embedding.has_norm": "true",
        "data.vocab_size": 512,
        "data.context": 64,
        "batch_size": 8,
        "max_steps": steps,
        "optimization.schedule.warmup_steps": 20,
        "evaluation.every": 0,
        "checkpoint.every": 0,
        "threads": 1,
    }
    pairs = [f"{key}={value}" for key, value in keys.items()]
    command("train", "quickstart", *pairs, "--out", str(out), "--quiet")
    return out


def command(*words: str) -> str:
    """What `thetahat` prints."""
    done = subprocess.run([sys.executable, "-m", "thetahat", *words], check=True, capture_output=True, text=True)
    return done.stdout


def predict() -> dict[str, Any]:
    """What was said of the larger run, and what it came to."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small = [train(folder, width, steps) for width in WIDTHS for steps in STEPS]
        large = train(folder, *LARGER)
        ours = command("scaling", *map(str, small), str(large), "--json")
        held_out = next(one for one in json.loads(ours)["runs"] if one["run"] == str(large))
        at = f"{held_out['num_parameters']},{held_out['tokens']}"
        told = json.loads(command("scaling", *map(str, small), "--at", at, "--json"))
    for one in told["runs"]:
        one["run"] = Path(one["run"]).name
    (point,) = told["at"]
    is_within = _is_within(held_out["loss"], tuple(point["run_ci95"]))
    names = ("run", "num_parameters", "tokens", "flops", "loss")
    return {
        "held_out": {name: held_out[name] for name in names} | {"run": large.name},
        "predicted": point,
        "is_within": is_within,
        **{name: told[name] for name in ("law", "parameters", "noise", "growth", "runs")},
    }


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("recover", "predict"))
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args(words)
    started = time.perf_counter()
    told = recover() if asked.what == "recover" else predict()
    told["seconds"] = round(time.perf_counter() - started, 1)
    text = json.dumps(told, indent=1)
    print(text)
    if asked.out:
        asked.out.write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
