"""Losses, gradient norms and scores of every recipe and factorization, made small: what a refactoring must not change.

    python tests/golden/record.py curves.json                  # in float64, as the test holds them on every CPU
    python tests/golden/record.py --against REV                # float32 and float64 on this machine, to the last bit

The second form checks out the revision, records both and compares every number. It needs nothing but git. All goes
through the command line, which stays while the code behind it moves.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as parquet

SMALL = [
    *("device=cpu", "threads=1", "max_steps=20", "batch_size=4", "data.context=64", "data.vocab_size=320"),
    *("model.num_layers=2", "model.width=32", "model.num_heads=2", "model.num_kv_heads=1", "model.head_width=16"),
    "model.inner_width=48",
]
ENCODER_DECODER = ["model.num_encoder_layers=1"]
CASES: dict[str, list[str]] = {
    "causal": ["quickstart", "data.train=text.txt", "data.split_on=\\n\\n"],
    "causal-pieces": ["quickstart", "data.train=text.txt", "objective.normalization=length", "micro_batch_size=2"],
    "causal-pairs": ["quickstart", "data.train=pairs.jsonl", "objective.chunk_size=16", "data.held_out=hash:0.2"],
    "large": ["gpt2-124m", "data.train=text.txt", "data.split_on=\\n\\n", "compile=false", "dtype={dtype}"],
    "prefix": ["quickstart", "data.train=pairs.jsonl", "objective.factorization.kind=prefix", "data.held_out=hash:0.2"],
    "prefix-texts": ["quickstart", "data.train=text.txt", "objective.factorization.kind=prefix"],
    "translation": ["translation", "data.train=pairs.jsonl", "data.held_out=hash:0.2", *ENCODER_DECODER],
    "summaries": ["summaries", "data.train=pairs.jsonl", "data.source_context=48", *ENCODER_DECODER],
    "spans": ["translation", "data.train=text.txt", "data.over_long=split", "data.held_out=tail:0.1",
              "objective.factorization.kind=spans", *ENCODER_DECODER],
    "masked": ["masked", "data.train=text.txt", "data.split_on=\\n\\n", "data.held_out=hash:0.2"],
    "masked-words": ["masked", "data.train=text.txt", "objective.factorization.unit=word",
                     "objective.factorization.replace=80-10-10", "data.held_out=tail:0.1"],
    "classification": ["classification", "data.train=labelled.jsonl", "data.held_out=hash:0.2"],
    "dialogue": ["dialogue", "data.train=dialogues.jsonl", "data.held_out=held.jsonl", "data.context=128",
                 "objective.normalization=dialogue"],
    "dialogue-qwen3": ["dialogue", "data.train=dialogues.jsonl", "data.held_out=held.jsonl", "data.context=128",
                       "data.chat.template=qwen3"],
    "adapter": ["quickstart", "data.train=pairs.jsonl", "data.held_out=hash:0.2", "base=causal", "adapter.rank=2"],
    "fine-tuned": ["dialogue", "data.train=dialogues.jsonl", "data.held_out=held.jsonl", "data.context=128",
                   "base=causal"],
}  # fmt: skip
Curves = dict[str, list[float]]
Run = Callable[..., object]
HELD_OUT = "held_out_bits_per_byte", "held_out_nats_per_label"  # of which a run has one
LOGGED = "log_likelihood_per_token", "gradient_norm", *HELD_OUT  # by lines of steps or by lines of evaluations


def data() -> dict[str, str]:
    """Texts, pairs, labels and dialogues, all of them from the bundled Shakespeare."""
    import thetahat

    folder = Path(thetahat.__file__).parent / "data" / "bundled"
    speeches = (folder / "tinyshakespeare.txt").read_text(encoding="utf-8")[:40_000].split("\n\n")
    said = [speech.split("\n", 1) for speech in speeches if ":\n" in speech]
    pairs = [{"prompt": who, "completion": what[:120]} for who, what in said]
    labels = [{"text": what[:40], "label": "short" if len(what) < 80 else "long"} for _, what in said]
    dialogues = [
        {"messages": [
            {"role": "assistant" if index % 2 else "user", "content": " ".join(what.split())[:60]}
            for index, (_, what) in enumerate(said[first : first + 2 * (1 + first % 3)])
        ]}
        for first in range(0, len(said) - 8, 6)
    ]  # fmt: skip
    lines = {"pairs.jsonl": pairs, "labelled.jsonl": labels}
    lines |= {"held.jsonl": dialogues[::5], "dialogues.jsonl": [one for i, one in enumerate(dialogues) if i % 5]}
    written = {name: "".join(json.dumps(one) + "\n" for one in some) for name, some in lines.items()}
    return {"text.txt": "\n\n".join(speeches), **written}


def thetahat(folder: Path, *arguments: str) -> str:
    """What a command of the package on the path says on standard output."""
    environment = {**os.environ, "THETAHAT_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "thetahat", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)}: exit {done.returncode}\n{done.stderr}")
    return done.stdout


def case(folder: Path, name: str, seed: int, dtype: str, does: Run = thetahat) -> Curves:
    """One run of 20 steps and the score of what it held out, number by number."""
    run = name if seed == 0 else f"{name}-{seed}"
    recipe, *keys = [key.format(dtype=dtype) for key in CASES[name]]
    changed = {key.split("=", 1)[0] for key in keys}
    small = [key for key in SMALL if key.split("=", 1)[0] not in changed]
    if "base=causal" in keys:
        small = [key for key in small if not key.startswith(("model.", "data.vocab_size"))]
    steps = [f"seed={seed}", f"dtype={dtype}", *small, *keys]
    does(folder, "train", recipe, *steps, "--out", run, "--quiet")
    lines = [json.loads(line) for line in (folder / run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    does(folder, "score", run, "--out", f"{run}.parquet", "--quiet")
    scored = parquet.read_table(folder / f"{run}.parquet", columns=["log_prob"])["log_prob"].to_pylist()
    logged = {name: [line[name] for line in lines if name in line] for name in LOGGED}
    return {**{name: values for name, values in logged.items() if values}, "score": scored}


def record(folder: Path, dtype: str, seeds: tuple[int, ...] = (0, 1), only: str = ".*") -> dict[str, Curves]:
    """Every case, once for each seed."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in data().items():
        (folder / name).write_text(text, encoding="utf-8")
    names = [name for name in CASES if re.fullmatch(only, name)]
    if any("base=causal" in CASES[name] for name in names) and "causal" not in names:
        names.insert(0, "causal")
    return {f"{name}-{seed}": case(folder, name, seed, dtype) for name in names for seed in seeds}


def record_revision(root: Path, revision: str, only: str) -> dict[str, Curves]:
    """The same of another revision, by its own code and this recorder."""
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch) / "tree"
        subprocess.run(["git", "worktree", "add", "-q", "--detach", str(tree), revision], cwd=root, check=True)
        try:
            return _record_of(tree / "src", Path(scratch) / "curves.json", only)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=root, check=True)


def _record_of(source: Path, out: Path, only: str) -> dict[str, Curves]:
    found: dict[str, Curves] = {}
    for dtype in ("float32", "float64"):
        command = [sys.executable, __file__, str(out), "--dtype", dtype, "--only", only]
        subprocess.run(command, env={**os.environ, "PYTHONPATH": str(source)}, check=True)
        found |= {f"{dtype} {name}": one for name, one in json.loads(out.read_text(encoding="utf-8")).items()}
    return found


def main() -> None:
    """Records, or compares with a revision."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", nargs="?", type=Path)
    parser.add_argument("--against")
    parser.add_argument("--dtype", default="float64")
    parser.add_argument("--only", default=".*", help="a pattern of names of cases")
    asked = parser.parse_args()
    root = Path(__file__).resolve().parents[2]
    with tempfile.TemporaryDirectory() as scratch:
        if asked.against:
            now = _record_of(root / "src", Path(scratch) / "now.json", asked.only)
            then = record_revision(root, asked.against, asked.only)
            differing = [f"{name} {what}" for name, one in now.items() for what in one if one[what] != then[name][what]]
            numbers = sum(len(values) for one in now.values() for values in one.values())
            print(f"{numbers} numbers of {len(now)} runs, {len(differing)} lists differ from {asked.against}")
            raise SystemExit("\n".join(differing) if differing else 0)
        found = record(Path(scratch), asked.dtype, only=asked.only)
        asked.out.write_text(json.dumps(found, indent=0) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
