"""Where the norm stands, in a decoder of 24 layers: gradients before the first step, and which of them train.

    python -m benchmarks.study.norms DATA --out benchmarks/results/study_norms.json

Width 32, AdamW at a constant rate without a warm-up, 512 tokens a step. Told are the norms of the gradient of each
layer's parameters on the first 512 tokens, and the loss of each step at two rates. `post` begins as Vaswani et al. did
it, with all matrices alike; `post, shrunk` with the last matrix of each branch divided by the square root of twice the
layers, as all others. DATA is not read: the text is the bundled one.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

import thetahat as th
from benchmarks.study.common import arguments, config_of, curve, tell, trained
from thetahat.core.errors import NonFiniteError

NUM_LAYERS = 24
SHAPE = {
    "model.num_layers": NUM_LAYERS,
    "model.width": 32,
    "model.num_heads": 2,
    "model.num_kv_heads": 2,
    "model.inner_width": 96,
    "data.context": 64,
    "batch_size": 8,
    "optimization.schedule": '{kind="constant"}',
    "diagnosis.alarms": "false",
}
VARIANTS = {
    "pre": {"model.placement": "pre"},
    "post": {"model.placement": "post", "model.residual.writers": "even"},
    "none": {"model.placement": "none"},
    "post, DeepNorm": {"model.placement": "post", "model.residual": '{kind="deepnorm"}'},
    "post, shrunk": {"model.placement": "post"},
    "sandwich": {"model.placement": "sandwich"},
}
RATES = (0.001, 0.005)


def config(variant: str, rate: float, steps: int, seed: int) -> th.RunConfig:
    """One run; all parameters have one rate."""
    rates = {
        "optimization.matrices": f'{{kind="adamw",learning_rate={rate}}}',
        "optimization.embeddings.learning_rate": rate,
        "optimization.vectors.learning_rate": rate,
    }
    return config_of({**SHAPE, **rates, **VARIANTS[variant], "max_steps": steps, "seed": seed})


def gradients(ours: th.RunConfig) -> list[float]:
    """The norm of the gradient of the parameters of each layer, on the first batch."""
    data = th.prepare(ours)
    model = th.first_model(ours, data.tokenizer.vocab_size)
    batches = data.batches(0)
    weight, _ = th.weigh(batches)
    for batch in batches:
        (-th.log_likelihood(model, batch).log_prob / weight).backward()
    squares = np.zeros(NUM_LAYERS)
    for name, parameter in model.named_parameters():
        if ".blocks." in f".{name}" and parameter.grad is not None:
            squares[int(name.split("blocks.")[1].split(".")[0])] += float(parameter.grad.square().sum())
    return np.sqrt(squares).tolist()


def losses(folder: Path, ours: th.RunConfig) -> tuple[list[float], str]:
    """Nats per token of each step, and why it ended before its last one."""
    why = ""
    try:
        trained(folder, ours)
    except NonFiniteError as error:
        why = str(error).splitlines()[0]
    return [-one for one in curve(folder)], why


def main() -> None:
    asked = arguments(__doc__ or "", more={"--steps": {"type": int, "default": 80}})
    told: dict[str, Any] = {"shape": SHAPE, "steps": asked.steps}
    before = json.loads(asked.out.read_text(encoding="utf-8")) if asked.out and asked.out.is_file() else {}
    for variant in VARIANTS:
        if (name := f"gradients {variant}") in before:
            told[name] = before[name]
            continue
        by_seed = [gradients(config(variant, RATES[0], asked.steps, seed)) for seed in range(3)]
        told[name] = [float(f"{one:.4g}") for one in np.exp(np.log(by_seed).mean(0))]
        tell(told, asked.out)
    for seed in asked.seeds:
        for rate in RATES:
            for variant in VARIANTS:
                folder = asked.work / "norms" / variant.replace(", ", "-") / f"{rate}-{seed}"
                found, why = losses(folder, config(variant, rate, asked.steps, seed))
                told[f"losses {variant} {rate} {seed}"] = {"nats_per_token": found, "ended": why}
                tell(told, asked.out)


if __name__ == "__main__":
    main()
