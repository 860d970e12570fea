"""Associative recall at a distance: which value stood behind this key?

    python -m benchmarks.study.recall DATA --out benchmarks/results/study_recall.json

A prompt has pairs of a key (a letter) and a value (a digit or a sign), no key twice: `a4z!...`. The completion asks for
all of them in another order, `z!a4...`, and is learned as any completion is. Decoders of 2 layers of equal parameters
differ in what mixes positions. Told is the probability that they give to the right value, by how many positions lie
between the pair and the question, and by how many pairs there were; a value counts as recalled where it has more
than 1/2. DATA is not read.
"""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

import thetahat as th
from benchmarks.study.common import arguments, config_of, sized, tell, trained, write_records
from thetahat.model.size import num_parameters
from thetahat.statistics.interval import ratio_interval

MIXERS = {
    "attention": "1x attention",
    "window": "[{distance=32}]",
    "linear": "1x linear",
    "linear, decay": '[{kind="linear",decay="learned"}]',
    "delta": "1x delta",
    "state-space": "1x state-space",
    "hybrid": "1x delta, 1x attention",
}
KEYS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
VALUES = "0123456789+-*/=<>!?#"
PAIRS = (4, 8, 16)
EDGES = (0, 4, 8, 16, 32, 64)  # positions between a pair and its question
VOCAB_SIZE = 257  # bytes, and the end
TRAINING = {
    "model.num_layers": 2,
    "data.context": 72,
    "data.over_long": "error",
    "data.vocab_size": VOCAB_SIZE,
    "batch_size": 16,
    "max_steps": 400,
    "optimization.schedule.decay": 0.3,
}


def records(number: int, seed: int) -> Iterator[dict[str, Any]]:
    """As many of each number of pairs as gives them the same number of tokens."""
    draw = random.Random(seed)
    for place in range(number):
        pairs = PAIRS[place % len(PAIRS)]
        for copy in range(PAIRS[-1] // pairs):
            keys = draw.sample(KEYS, pairs)
            values = {key: draw.choice(VALUES) for key in keys}
            asked = draw.sample(keys, pairs)
            prompt, completion = ("".join(key + values[key] for key in order) for order in (keys, asked))
            yield {"id": f"{place}-{copy}", "pairs": pairs, "prompt": prompt, "completion": completion}


def recalled(run: Path, test: Path) -> dict[str, Any]:
    """Of each value that is asked for: its log-probability, its distance, and how many pairs there were."""
    tokens = run / "tokens.parquet"
    if not tokens.is_file():
        th.score(str(run), [str(test)], tokens=tokens)
    table = pq.read_table(tokens)
    by_id = {one["id"]: one for one in map(json.loads, test.read_text(encoding="utf-8").splitlines())}
    rows = zip(*(table[name].to_pylist() for name in ("id", "position", "log_prob")), strict=True)
    found = []
    for name, place, log_prob in rows:
        one = by_id[name]
        if place % 2 and place < len(one["completion"]):
            key = one["completion"][place - 1]
            found.append((len(one["prompt"]) + place - 1 - one["prompt"].index(key), one["pairs"], log_prob, name))
    distance, pairs, log_prob, names = map(np.array, zip(*found, strict=True))
    return {
        "recalled": list(share(log_prob > np.log(0.5), names)),
        "by_distance": [
            list(share(log_prob[at] > np.log(0.5), names[at]))
            for at in (np.searchsorted(EDGES, distance, side="right") == one for one in range(1, len(EDGES)))
        ],
        "by_pairs": [list(share(log_prob[pairs == one] > np.log(0.5), names[pairs == one])) for one in PAIRS],
        "nats_by_pairs": [float(-log_prob[pairs == one].mean()) for one in PAIRS],
    }


def share(is_so: Any, names: Any) -> Any:
    """How many of the values, with an interval over records."""
    _, record = np.unique(names, return_inverse=True)
    return ratio_interval(np.bincount(record, is_so.astype(float)), np.bincount(record))


def main() -> None:
    more = {"--mixers": {"nargs": "+", "default": list(MIXERS)}, "--steps": {"type": int, "default": 400}}
    asked = arguments(__doc__ or "", more=more)
    work = asked.work / "recall"
    train, test = (
        write_records(work / "train.jsonl", records(9000, 1)),
        write_records(work / "test.jsonl", records(90, 2)),
    )
    base: dict[str, Any] = {"data.train": train, "data.held_out": "none", **TRAINING, "max_steps": asked.steps}
    target = num_parameters(config_of(base).model, VOCAB_SIZE)
    told: dict[str, Any] = {"edges": EDGES, "pairs": PAIRS, "chance": 1 / len(VALUES), "training": TRAINING}
    for seed in asked.seeds:
        for name in asked.mixers:
            ours = config_of({**base, "model.layers": MIXERS[name], "seed": seed})
            inner = sized(ours.model, VOCAB_SIZE, target).inner_width
            ours = th.override(ours, [f"model.inner_width={inner}"])
            run = trained(work / name.replace(", ", "-") / str(seed), ours)
            parameters = num_parameters(ours.model, VOCAB_SIZE)
            told[f"{name} {seed}"] = {"layers": MIXERS[name], "parameters": parameters, **recalled(run, test)}
            tell(told, asked.out)


if __name__ == "__main__":
    main()
