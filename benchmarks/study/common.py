"""What the measurements have in common: one small decoder, trained by the library, and the files that come of it."""

import argparse
import gzip
import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import replace

import thetahat as th
from thetahat.core import store
from thetahat.core.plain import as_json
from thetahat.model.config import ModelConfig
from thetahat.model.size import num_parameters

SMALL = {
    "device": "cpu",
    "threads": 1,
    "model.num_layers": 4,
    "model.width": 64,
    "model.num_heads": 4,
    "model.num_kv_heads": 4,
    "model.head_width": 16,
    "model.inner_width": 192,
    "data.vocab_size": 512,
    "data.over_long": "split",
    "optimization.schedule.decay": 0.5,
    "evaluation.every": 0,
    "evaluation.final": "false",
    "checkpoint.every": 0,
    "ledger.every": 0,
    "diagnosis.every": 0,
    "diagnosis.preflight": "off",
    "prompt": "",
}
"""The quickstart, made smaller, and with nothing measured on the way."""


def config_of(keys: Mapping[str, Any]) -> th.RunConfig:
    """The small decoder, changed by these keys."""
    return th.override(th.find_recipe("quickstart"), [f"{key}={value}" for key, value in {**SMALL, **keys}.items()])


def trained(folder: Path, config: th.RunConfig) -> Path:
    """The folder of a finished run; one that was broken off goes on. A line says how long it took."""
    if (folder / "checkpoints" / f"step-{config.max_steps:08}").is_dir():
        return folder
    started, made = time.perf_counter(), 0
    for _ in th.train(config, folder):
        made += 1
    if made:
        print(
            f"{folder.parent.name} {folder.name}: {made} steps in {time.perf_counter() - started:.0f} s",
            file=sys.stderr,
            flush=True,
        )
    return folder


def curve(run: Path, name: str = "log_likelihood_per_token") -> list[float]:
    """A number of each step, from the log of the run."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [line[name] for line in lines if name in line]


def sized(model: ModelConfig, vocab_size: int, target: int) -> ModelConfig:
    """The model with the inner width at which it comes closest to so many parameters."""

    def apart(inner: int) -> int:
        return abs(num_parameters(replace(model, inner_width=inner), vocab_size) - target)

    return replace(model, inner_width=min(range(1, 8 * model.width), key=apart))


def read_texts(path: Path) -> list[dict[str, Any]]:
    """The records of a .jsonl.gz."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def write_records(path: Path, records: Iterable[Mapping[str, Any]]) -> Path:
    """The records as .jsonl."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in records), encoding="utf-8")
    return path


def rounded(value: Any, digits: int = 4) -> Any:
    """What JSON keeps of numbers: so many significant digits after the comma."""
    if isinstance(value, float):
        return round(value, digits)
    if isinstance(value, np.ndarray):
        return rounded(value.tolist(), digits)
    if isinstance(value, Mapping):
        return {key: rounded(one, digits) for key, one in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [rounded(one, digits) for one in value]
    return value


def arguments(doc: str, words: Sequence[str] | None = None, more: Mapping[str, Any] | None = None) -> Any:
    """DATA, --work and --out of a script, and its own options."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the folder with the data sets")
    parser.add_argument("--work", type=Path, default=Path("runs/study"), help="where runs go; finished ones are kept")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    for name, options in (more or {}).items():
        parser.add_argument(name, **options)
    return parser.parse_args(words)


def tell(told: Mapping[str, Any], out: Path | None) -> None:
    """Writes the results, one line for each entry at the top; without a path they are printed."""
    lines = [f"{json.dumps(key)}: {json.dumps(as_json(rounded(value)))}" for key, value in told.items()]
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    if out:
        store.write_text(out, text)
    else:
        print(text)
