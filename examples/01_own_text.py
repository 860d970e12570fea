"""Trains on a text of your own, scores it, and lets the model go on writing.

python examples/01_own_text.py my.txt        # without a name: the bundled Shakespeare
"""

import sys
from pathlib import Path

import thetahat as th

text = sys.argv[1] if len(sys.argv) > 1 else "bundled:tinyshakespeare"

# Everything is set by KEY=VALUE, as on the command line. This model is small, so that it takes seconds.
config = th.override(
    th.find_recipe("quickstart"),
    [
        f"data.train={text}",
        *("model.num_layers=2", "model.width=64", "model.num_heads=2", "model.num_kv_heads=1", "model.inner_width=192"),
        *("data.context=64", "data.vocab_size=512", "max_steps=60", "evaluation.every=30", "threads=1"),
    ],
)

# A report comes after each step. Started again, the same run goes on where it stopped, or yields nothing if it is done.
run = Path("runs/own-text")
for report in th.train(config, run):
    if report.step and report.step.step % 10 == 0:
        print(f"step {report.step.step:3}  {report.step.total.mean().item():.3f} nats per token")

# How likely the held-out end of the text is. Bits per byte do not depend on the tokenizer.
score = th.score(str(run)).summary
print(f"held out: {score.bits_per_byte:.3f} bits per byte, 95 % interval {score.bits_per_byte_ci95}")

print("ROMEO:", end="")
for piece in th.generate(th.load(str(run)), "ROMEO:", th.Sampling(max_tokens=40, temperature=0.8, seed=1)):
    print(piece, end="", flush=True)
print()
