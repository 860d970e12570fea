"""Tokens per second, utilisation and peak memory of a 124M decoder at 1,024 context in bfloat16 on one GPU.

    python benchmarks/train_124m.py TEXT [KEY=VALUE ...] [--out results.json] [--profile]

The clock is read at every optimizer step, after the device has answered: batches, clipping and the optimizer are
inside. 8 steps of warm-up, 30 measured. FLOPs per token by `thetahat.model.cost.flops_per_token`, utilisation against
801 TFLOP/s (a bf16 product of 8192³ on an H100). `--profile` prints where the device's time of one step goes.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch

from thetahat.core.config import override, to_plain
from thetahat.model.cost import flops_per_token
from thetahat.model.size import num_parameters
from thetahat.recipes.catalogue import find_recipe
from thetahat.run.config import RunConfig
from thetahat.run.train import train

WARM_UP, MEASURED, CEILING = 8, 30, 801e12


def configured(text: str, pairs: list[str]) -> RunConfig:
    """The recipe on this text, without evaluation and saves."""
    steps = [f"max_steps={WARM_UP + MEASURED}", "optimization.schedule.warmup_steps=8"]
    text_only = [f"data.train={text}", "data.held_out=none", "checkpoint.every=0"]
    return override(find_recipe("gpt2-124m"), [*text_only, *steps, *pairs])


def profile(text: str, pairs: list[str]) -> None:
    """Prints the kernels of one step, the longest first."""
    with tempfile.TemporaryDirectory() as folder:
        steps = train(configured(text, pairs), Path(folder) / "run")
        for _ in range(WARM_UP):
            next(steps)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
            next(steps)
            torch.cuda.synchronize()
        print(seen.key_averages().table(sort_by="cuda_time_total", row_limit=45, max_name_column_width=90))


def measure(text: str, pairs: list[str]) -> dict[str, object]:
    """One run of the recipe, with its median step and its memory."""
    config = configured(text, pairs)
    vocab_size = config.data.vocab_size
    seconds: list[float] = []
    losses: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        last = time.perf_counter()
        for report in train(config, Path(folder) / "run"):
            torch.cuda.synchronize()
            now = time.perf_counter()
            seconds.append(now - last)
            losses.append(report.step.total.mean().item())
            tokens, last = report.step.num_tokens, now
            if report.step.step == WARM_UP:
                torch.cuda.reset_peak_memory_stats()
    measured = sorted(seconds[WARM_UP:-1])  # the last one saves
    rate = tokens / statistics.median(measured)
    flops = flops_per_token(config.model, vocab_size, config.data.context)
    return {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "changes": pairs,
        "parameters": num_parameters(config.model, vocab_size),
        "tokens_a_step": tokens,
        "tokens_per_second": round(rate),
        "step_ms": round(1e3 * statistics.median(measured), 1),
        "step_ms_p10_p90": [round(1e3 * measured[int(q * (len(measured) - 1))], 1) for q in (0.1, 0.9)],
        "mflop_a_token": round(flops / 1e6, 1),
        "tflop_per_second": round(rate * flops / 1e12, 1),
        "utilisation_of_801": round(rate * flops / CEILING, 3),
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2),
        "log_likelihood_per_token": [round(losses[0], 4), round(losses[-1], 4)],
        "config": to_plain(config),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("text")
    parser.add_argument("pairs", nargs="*")
    parser.add_argument("--out")
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_intermixed_args()
    if arguments.profile:
        profile(arguments.text, arguments.pairs)
        raise SystemExit
    found = measure(arguments.text, arguments.pairs)
    if arguments.out:
        Path(arguments.out).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({key: value for key, value in found.items() if key != "config"}))
