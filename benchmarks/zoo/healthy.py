"""Healthy runs of many kinds: recipes, factorizations, shapes, rates, schedules, bases. None may be alarmed.

There is enough data that no run overfits: fewer records were read nine times, and what was held out got worse.
"""

import random
from pathlib import Path

from benchmarks.zoo import data
from benchmarks.zoo.case import Case
from benchmarks.zoo.making import adamw

COMMON = [
    *("device=cpu", "threads=1", "prompt=", "ledger.every=0", "checkpoint.every=0", "evaluation.every=40"),
    *("model.num_heads=2", "model.num_kv_heads=1", "data.vocab_size=320"),
]
RECIPES = ("quickstart", "quickstart", "quickstart", "gpt2-124m", "prefix", "infilling", "translation", "masked")
RECIPES += ("classification", "dialogue", "imported")


def healthy(seed: int, folder: Path) -> Case:
    """The run of this seed."""
    draw = random.Random(seed)
    recipe = RECIPES[seed % len(RECIPES)]
    width = draw.choice([32, 48, 64])
    shape = [f"model.width={width}", f"model.head_width={width // 2}", f"model.inner_width={width * 3 // 2}"]
    shape += [f"model.num_layers={draw.choice([1, 2, 3, 5])}", f"model.dropout={draw.choice([0, 0, 0.1])}"]
    keys = [
        *COMMON,
        f"seed={seed}",
        f"batch_size={draw.choice([4, 8, 16])}",
        f"max_steps={draw.choice([120, 200, 300])}",
    ]
    keys += [f"data.context={draw.choice([48, 64, 128])}", f"optimization.clip={draw.choice(['none', '1.0', '0.5'])}"]
    keys += _schedule(draw)
    if draw.random() < 0.5:
        keys += adamw(draw.choice([0.001, 0.002, 0.004]), beta2=draw.choice([0.95, 0.98, 0.999]))
    if draw.random() < 0.2:
        keys += ["data.packing=none"]
    return Case([*_of(recipe, seed, folder, draw), *([] if recipe == "imported" else shape), *keys])


def _schedule(draw: random.Random) -> list[str]:
    kinds = [["kind=constant", "warmup_steps=20"], ["kind=cosine", "warmup_steps=15"], ["kind=wsd", "warmup_steps=10"]]
    return [f"optimization.schedule.{key}" for key in draw.choice(kinds)]


def _of(recipe: str, seed: int, folder: Path, draw: random.Random) -> list[str]:
    """The recipe with data of its kind."""
    split = "data.held_out=hash:0.1"
    long = "data.over_long=split"
    records = {
        "translation": data.pairs,
        "prefix": data.pairs,
        "classification": data.labelled,
        "dialogue": data.dialogues,
    }.get(recipe, data.speeches)(seed, draw.choice([2000, 3000]))
    train = f"data.train={data.write(folder / 'train.jsonl', records)}"
    match recipe:
        case "prefix":
            return ["quickstart", train, split, "objective.factorization.kind=prefix", "data.over_long=truncate-right"]
        case "translation":
            return ["translation", train, split, "model.num_encoder_layers=1", "data.over_long=truncate-right"]
        case "dialogue" | "classification":
            return [recipe, train, split, "data.over_long=truncate-left"]
        case "gpt2-124m":
            return [recipe, train, split, long, "compile=false", "dtype=float32"]
        case "imported":
            return ["quickstart", train, split, long, f"base={_imported(folder, seed)}"]
        case _:
            return [recipe, train, split, long]


def _imported(folder: Path, seed: int) -> Path:
    """A folder as transformers writes it, trained a little on other speeches."""
    from thetahat.cli.words import find_config
    from thetahat.run.train import train
    from thetahat.verbs.export import export

    other = data.write(folder / "other.jsonl", data.speeches(seed + 1000, 500))
    shape = ["model.width=32", "model.head_width=16", "model.inner_width=48", "model.num_layers=2"]
    keys = ["quickstart", *COMMON, *shape, f"data.train={other}", "data.held_out=none", "data.over_long=split"]
    list(train(find_config([*keys, "data.context=64", "max_steps=60"]), folder / "base"))
    export(str(folder / "base"), folder / "hf")
    return folder / "hf"
