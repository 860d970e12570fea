"""One stream or two: translation and summaries by a decoder, by a decoder that sees its whole prompt, and by an encoder
with a decoder.

    python -m benchmarks.study.streams DATA --out benchmarks/results/study_streams.json

All three have equal parameters: the inner width of their networks makes them so; targets are the completions alone. A
row of the decoders holds prompts, too, so rows of the encoder-decoder are made shorter until a step has as many
targets. What was held out is compared pair by pair.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import thetahat as th
from benchmarks.study.common import arguments, config_of, curve, read_texts, sized, tell, trained, write_records
from benchmarks.study.mixers import compared
from thetahat.model.size import num_parameters
from thetahat.statistics.interval import bits_per_byte_interval, ratio_interval

HEADS = {"model.width": 96, "model.num_heads": 3, "model.num_kv_heads": 3, "model.head_width": 32}
ONE = {**HEADS, "model.num_layers": 5, "model.inner_width": 256, "model.ties_embeddings": "true"}
TWO = {**ONE, "model.kind": "encoder-decoder", "model.num_layers": 2, "model.num_encoder_layers": 2}
STREAMS: dict[str, dict[str, Any]] = {
    "decoder": {**ONE, "objective.factorization.kind": "causal"},
    "decoder, prompt from both sides": {**ONE, "objective.factorization.kind": "prefix"},
    "encoder and decoder": {**TWO, "objective.factorization.kind": "conditional"},
}
TRAINING = {"data.vocab_size": 2000, "data.over_long": "drop", "model.dropout": 0.1, "optimization.schedule.decay": 0.6}
TASKS: dict[str, dict[str, Any]] = {
    "translation": {"data.context": 128, "batch_size": 16},
    "summaries": {"data.context": 384, "batch_size": 4},
}


def files(data: Path, task: str, work: Path) -> tuple[Path, Path]:
    """Pairs to train on and pairs that are held out."""
    if task == "translation":
        train, held = (data / "multi30k_en_de" / f"{name}.jsonl.gz" for name in ("train", "test2016"))
    else:
        train, held = (data / "scitldr" / f"{name}.jsonl.gz" for name in ("train", "dev"))
    texts = [read_texts(path) for path in (train, held)]
    if task == "summaries":  # as much of an abstract as all three have room for
        texts = [[{**one, "prompt": one["prompt"][:900]} for one in found] for found in texts]
    folder = work / task
    return write_records(folder / "train.jsonl", texts[0]), write_records(folder / "held.jsonl", texts[1][:500])


def measured(run: Path, held: Path) -> tuple[Path, dict[str, Any]]:
    """The ledger of the held-out pairs, and what it comes to."""
    ledger = run / "held.parquet"
    if not ledger.is_file():
        th.score(str(run), [str(held)], out=ledger)
    rows, _ = th.read_ledger(ledger)
    log_probs, tokens = [one.log_prob for one in rows], [one.num_tokens for one in rows]
    return ledger, {
        "bits_per_byte": list(bits_per_byte_interval(log_probs, [one.num_bytes for one in rows])),
        "nats_per_token": list(ratio_interval([-one for one in log_probs], tokens)),
    }


def targets(config: th.RunConfig) -> float:
    """Targets of a step, the mean of the first ones."""
    data = th.prepare(config)
    return float(np.mean([sum(float((one.weights > 0).sum()) for one in data.batches(step)) for step in range(8)]))


def config(name: str, keys: Mapping[str, Any], target: int) -> th.RunConfig:
    """A run of one of the three, with so many parameters, and as many targets in a step as the first."""
    made = config_of({**keys, **STREAMS[name]})
    inner = sized(made.model, made.data.vocab_size, target).inner_width
    made = th.override(made, [f"model.inner_width={inner}"])
    if name != "encoder and decoder":
        return made
    wanted = targets(config_of({**keys, **STREAMS["decoder"]}))
    share = wanted / targets(made)
    return th.override(made, [f"data.context={round(share * made.data.context)}"])


def main() -> None:
    more: dict[str, Any] = {"--steps": {"type": int, "default": 1200}}
    more["--tasks"] = {"nargs": "+", "default": list(TASKS)}
    asked = arguments(__doc__ or "", more=more)
    work = asked.work / "streams"
    told: dict[str, Any] = {"training": {**TRAINING, **TASKS, "max_steps": asked.steps}}
    target = num_parameters(config_of({**TRAINING, **ONE}).model, int(str(TRAINING["data.vocab_size"])))
    for task in asked.tasks:
        train, held = files(asked.data, task, work)
        for seed in asked.seeds:
            base = {**TRAINING, **TASKS[task], "data.train": train, "data.held_out": "none"}
            ledgers: dict[str, Path] = {}
            for name in STREAMS:
                ours = config(name, {**base, "max_steps": asked.steps, "seed": seed}, target)
                run = trained(work / task / name.replace(", ", "-").replace(" ", "-") / str(seed), ours)
                ledgers[name], found = measured(run, held)
                found["parameters"] = num_parameters(ours.model, ours.data.vocab_size)
                found["targets"] = curve(run, "tokens")[-1]
                found["training_nats_per_token"] = -float(np.mean(curve(run)[-50:]))
                if name != "decoder":
                    found["saves_over_decoder"] = compared(ledgers["decoder"], ledgers[name])
                told[f"{task}, {name} {seed}"] = found
                tell(told, asked.out)


if __name__ == "__main__":
    main()
