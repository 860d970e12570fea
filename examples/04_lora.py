"""Adapters (LoRA) on a base: a few thousand parameters are trained beside a model that stays as it is.

python examples/04_lora.py
"""

import json
from pathlib import Path

import thetahat as th

shape = ["model.num_layers=2", "model.width=64", "model.num_heads=2", "model.num_kv_heads=1", "model.inner_width=192"]
sizes = ["data.context=64", "data.vocab_size=512", "threads=1"]

# The base: any model will do, a run, a folder as transformers writes it, or hf:owner/name.
base = th.override(th.find_recipe("quickstart"), [*shape, *sizes, "max_steps=60"])
for _ in th.train(base, Path("runs/base")):
    pass

# What it is to learn: completions behind prompts. Prompts are read, and are not learned.
pairs = [{"prompt": f"QUESTION: {n} and {n}?", "completion": f" ANSWER: {2 * n}."} for n in range(100)]
Path("pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")

config = th.override(
    th.find_recipe("quickstart"),
    [
        *("base=runs/base", "adapter.rank=8", *sizes),
        *("data.train=pairs.jsonl", "data.held_out=hash:0.2", "data.shifts_splits=false", "data.over_long=error"),
        *("max_steps=40", "batch_size=4"),
    ],
)
for report in th.train(config, Path("runs/adapted")):
    if report.held_out:
        print(f"step {report.step.step:3}  held out: {report.held_out.nats_per_token:.3f} nats per token")

before, after = th.score("runs/base", ["pairs.jsonl"]).summary, th.score("runs/adapted", ["pairs.jsonl"]).summary
print(f"all pairs: {before.nats_per_token:.3f} nats per token before, {after.nats_per_token:.3f} after")
# th.merge("runs/adapted") makes a plain model of both, which needs no base.
