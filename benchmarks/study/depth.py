"""Depth against width at equal cost.

    python -m benchmarks.study.depth DATA --seeds 0 1 --out benchmarks/results/study_depth.json

Decoders from 1 layer of width 128 to 16 layers of width 32, of about as many parameters in blocks. Each trains for so
many steps that all take the same operations, by `thetahat cost`; learning rates are carried over from one shape by
`transfer`. What was held out is compared document by document.
"""

import itertools
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import thetahat as th
from benchmarks.study.common import arguments, config_of, curve, tell, trained
from benchmarks.study.mixers import compared, long_documents
from thetahat.model.size import num_parameters
from thetahat.statistics.interval import bits_per_byte_interval

SHAPES = ((1, 128), (2, 96), (4, 64), (7, 48), (16, 32))
BASE = (4, 64)  # the shape whose rates are carried over
FIRST, TIMED = 5, 20  # steps before those whose time is taken, and those
TRAINING = {
    "data.context": 128,
    "batch_size": 8,
    "model.embedding.has_norm": "true",
    "transfer.width": BASE[1],
    "transfer.num_layers": BASE[0],
}


def shape(layers: int, width: int) -> dict[str, Any]:
    """The keys of one shape: heads of 16, an inner width of three widths."""
    heads = {"model.num_heads": width // 16, "model.num_kv_heads": width // 16}
    return {"model.num_layers": layers, "model.width": width, "model.inner_width": 3 * width, **heads}


def flops(config: th.RunConfig) -> float:
    """Operations of one step."""
    return th.cost(config, on=th.Machines(gpus=())).estimate.operations.total


def speed(config: th.RunConfig) -> float:
    """Tokens that one thread reads in a second of a processor, which other programs do not change."""
    clock = list[float]()
    with tempfile.TemporaryDirectory() as folder:
        for _ in itertools.islice(th.train(config, Path(folder) / "run"), FIRST + TIMED):
            clock.append(time.process_time())
    return TIMED * config.batch_size * config.data.context / (clock[-1] - clock[FIRST - 1])


def main() -> None:
    asked = arguments(__doc__ or "", more={"--steps": {"type": int, "default": 150}})
    work = asked.work / "depth"
    train, held = long_documents(asked.data, work, 1200)
    base = {**TRAINING, "data.train": train, "data.held_out": "none"}
    budget = asked.steps * flops(config_of({**base, **shape(*BASE), "max_steps": 1}))
    told: dict[str, Any] = {"training": TRAINING, "flops": budget}
    for seed in asked.seeds:
        middle = work / f"{BASE[0]}x{BASE[1]}" / str(seed) / "held.parquet"
        for layers, width in (BASE, *(one for one in SHAPES if one != BASE)):
            keys = {**base, **shape(layers, width), "seed": seed}
            steps = round(budget / flops(config_of({**keys, "max_steps": 1})))
            ours = config_of({**keys, "max_steps": steps})
            run = trained(work / f"{layers}x{width}" / str(seed), ours)
            ledger = run / "held.parquet"
            if not ledger.is_file():
                th.score(str(run), [str(held)], out=ledger)
            rows, _ = th.read_ledger(ledger)
            found = bits_per_byte_interval([one.log_prob for one in rows], [one.num_bytes for one in rows])
            one = {
                "layers": layers,
                "width": width,
                "parameters": num_parameters(ours.model, ours.data.vocab_size),
                "steps": steps,
                "bits_per_byte": list(found),
                "training_nats_per_token": -float(np.mean(curve(run)[-20:])),
                "tokens_per_second": speed(ours),
            }
            if (layers, width) != BASE:
                one["saves_over_base"] = compared(middle, ledger)
            told[f"{layers} x {width}, {seed}"] = one
            tell(told, asked.out)


if __name__ == "__main__":
    main()
