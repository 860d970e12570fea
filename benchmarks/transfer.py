"""Whether learning rates of a small model hold on a wider and deeper one, with `transfer` and without.

    python benchmarks/transfer.py --out benchmarks/results/transfer.json --figure docs/transfer.svg

Two measurements, each over four widths and over three depths, for AdamW and for Muon:

- the coordinate check (Yang et al., 2022, arXiv 2203.03466): by how much the residual stream behind the last block, the
  inside of the last network, and the logits have moved after 10 steps, as root mean squares. Where rates hold it does
  not depend on the shape; told is the exponent of its growth.
- the learning rate at which the loss of the last fifth of a run is lowest, from a parabola through the best rate and
  its neighbours, in powers of 2 of the best one of the smallest shape.

All rates are multiplied together, from those of `RATES`.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from msgspec.structs import replace
from torch import nn

from thetahat.data.config import DataConfig
from thetahat.distribution.world import ALONE
from thetahat.model.config import DecoderConfig, EmbeddingConfig
from thetahat.model.transfer.config import TransferConfig
from thetahat.optimization.config import WSD, AdamW, Muon, OptimizationConfig
from thetahat.run.config import RunConfig
from thetahat.run.prepare import Prepared, prepare
from thetahat.run.state import State, first_state
from thetahat.run.step import step

WIDTHS, DEPTHS = (16, 32, 64, 128), (2, 4, 16)
BASE = TransferConfig(width=16, num_layers=2)
DEEP_WIDTH = 32  # of the models of several depths, whose base has this width, too
SEEDS = (0, 1)
CHECKED = 10  # steps before the coordinate check
RATES = {
    "adamw": {"matrices": AdamW(learning_rate=0.01, weight_decay=0.1, epsilon=1e-10)},
    "muon": {"matrices": Muon(learning_rate=0.03, weight_decay=0.1)},
}


def config_of(width: int, depth: int, rule: str, factor: float, seed: int, num_steps: int) -> RunConfig:
    """A decoder of this shape, with all rates multiplied by the factor."""
    table = AdamW(learning_rate=0.01, epsilon=1e-10)
    rules = {"embeddings": table, "vectors": table, **RATES[rule]}
    scaled: dict[str, Any] = {
        name: replace(one, learning_rate=one.learning_rate * factor) for name, one in rules.items()
    }
    return RunConfig(
        recipe="transfer",
        device="cpu",
        threads=1,
        seed=seed,
        data=DataConfig(
            train="bundled:tinyshakespeare", held_out="tail:0.1", context=64, over_long="split", vocab_size=512
        ),
        model=DecoderConfig(
            num_layers=depth,
            width=width,
            num_heads=width // 16,
            num_kv_heads=width // 16,
            head_width=16,
            inner_width=3 * width,
            embedding=EmbeddingConfig(has_norm=True),
        ),
        optimization=OptimizationConfig(schedule=WSD(warmup_steps=num_steps // 10, decay=0.5), **scaled),
        batch_size=4,
        max_steps=num_steps,
    )


def begun(config: RunConfig, data: Prepared) -> State:
    """The state before step 1."""
    return first_state(config, data.tokenizer.vocab_size, config.max_steps, torch.device("cpu"))


def loss_of(config: RunConfig, data: Prepared) -> float:
    """Nats per token in the last fifth of a run; infinite if it diverged."""
    state, last = begun(config, data), list[float]()
    for number in range(config.max_steps):
        try:
            done = step(state, data.batches(number), ALONE)
        except ValueError:  # not finite
            return float("inf")
        last.append(-done.total.mean().item())
    return float(np.mean(last[-(config.max_steps // 5) :]))


def movement(config: RunConfig, data: Prepared) -> dict[str, float]:
    """How far activations on one batch have moved after some steps, as root mean squares."""
    state, probe = begun(config, data), data.batches(config.max_steps - 1)[0]
    before = activations(state, probe)
    for number in range(CHECKED):
        step(state, data.batches(number), ALONE)
    after = activations(state, probe)
    return {name: (after[name] - before[name]).square().mean().sqrt().item() for name in before}


@torch.no_grad()
def activations(state: State, batch: Any) -> dict[str, torch.Tensor]:
    """The residual stream behind the last block, the inside of the last network, and the logits."""
    found: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, Any, torch.Tensor], None]:
        def hook(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
            found[name] = output

        return hook

    block = state.model.block(state.model.num_layers - 1)
    hooks = [
        block.register_forward_hook(keep("stream")),
        block.get_submodule("mlp.up").register_forward_hook(keep("inner")),
    ]
    found["logits"] = state.model.head(state.model.hidden(batch.inputs))
    for hook in hooks:
        hook.remove()
    return {name: found[name] for name in ("stream", "inner", "logits")}


def shapes(over: str) -> list[tuple[int, int]]:
    """Width and depth of each model of a sweep; the smallest first."""
    return [(width, 2) for width in WIDTHS] if over == "width" else [(DEEP_WIDTH, depth) for depth in DEPTHS]


def with_rule(config: RunConfig, over: str, *, holds: bool) -> RunConfig:
    """The config with the rule, or without."""
    base = BASE if over == "width" else TransferConfig(width=DEEP_WIDTH, num_layers=DEPTHS[0])
    return replace(config, transfer=base) if holds else config


def exponent(sizes: list[int], values: list[float]) -> float:
    """The slope of logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


Losses = dict[int, float]  # by the power of 2 of the factor


def search(loss_at: Callable[[int], float], start: int) -> tuple[Losses, float]:
    """The losses at whole powers of 2 around the best one, found from `start` on, and the vertex of their parabola."""
    losses, at = {start: loss_at(start)}, start
    while True:
        for power in (at - 1, at + 1):
            if power not in losses:
                losses[power] = loss_at(power)
        best = min((at - 1, at, at + 1), key=lambda power: losses[power])
        if best == at:
            low, here, high = (losses[power] for power in (at - 1, at, at + 1))
            vertex = at + 0.5 * (low - high) / (low - 2 * here + high) if np.isfinite([low, high]).all() else at
            return dict(sorted(losses.items())), float(vertex)
        at = best


@dataclass
class Sweep:
    """Models of several shapes, by one rule of update, with the rule of transfer or without."""

    rule: str
    over: str  # width or depth
    holds: bool
    num_steps: int
    data: Prepared
    known: dict[int, float]  # losses of the smallest shape, which is the same with and without

    def config(self, shape: tuple[int, int], power: int = 0, seed: int = 0) -> RunConfig:
        """Of one run: rates are multiplied by a power of 2."""
        return with_rule(config_of(*shape, self.rule, 2.0**power, seed, self.num_steps), self.over, holds=self.holds)

    def row(self) -> dict[str, Any]:
        """What is written of it."""
        ours = shapes(self.over)
        sizes = [shape[self.over == "depth"] for shape in ours]
        moved = [movement(self.config(shape), self.data) for shape in ours]
        named = {name: [one[name] for one in moved] for name in moved[0]}
        exponents = {name: exponent(sizes, values) for name, values in named.items()}
        losses, best = list[Losses](), list[float]()
        for shape in ours:
            at = partial(self.loss_at, shape, self.known if shape == ours[0] else {})
            found, vertex = search(at, round(best[-1]) if best else 0)
            losses.append(found)
            best.append(vertex)
        told = {"rule": self.rule, "over": self.over, "transfer": self.holds, "sizes": sizes}
        return {**told, "moved": named, "exponents": exponents, "losses": losses, "best": best}

    def loss_at(self, shape: tuple[int, int], known: dict[int, float], power: int) -> float:
        """The mean over seeds."""
        if power not in known:
            known[power] = float(np.mean([loss_of(self.config(shape, power, seed), self.data) for seed in SEEDS]))
        return known[power]


def sweeps(num_steps: int, overs: Sequence[str]) -> Iterator[dict[str, Any]]:
    """A row for each sweep."""
    data = prepare(config_of(WIDTHS[0], 2, "adamw", 1.0, 0, num_steps))
    for rule in RATES:
        for over in overs:
            known: dict[int, float] = {}
            for holds in (True, False):
                yield Sweep(rule, over, holds, num_steps, data, known).row()


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """The best rates over the shapes, with the rule and without."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    from thetahat.figures.image import COLOURS, STYLE

    with rc_context(STYLE):  # pyright: ignore[reportArgumentType] - its keys are a literal type of theirs
        figure = Figure(figsize=(7.2, 4.6), layout="constrained")
        places: Any = figure.subplots(2, 2, sharey=True)
        for row in rows:
            place = places[("adamw", "muon").index(row["rule"])][("width", "depth").index(row["over"])]
            best = np.array(row["best"]) - row["best"][0]
            name, look = ("with transfer", "o-") if row["transfer"] else ("without", "s--")
            colour = COLOURS[0 if row["transfer"] else 1]
            place.plot(row["sizes"], 2.0**best, look, color=colour, markersize=4, linewidth=1.6, label=name)
            place.set_title({"adamw": "AdamW", "muon": "Muon"}[row["rule"]], loc="left", fontsize=10)
            place.set_xlabel(row["over"])
            place.set_xscale("log", base=2)
            place.set_yscale("log", base=2)
            place.set_xticks(row["sizes"], [str(size) for size in row["sizes"]])
            place.set_yticks([1 / 8, 1 / 4, 1 / 2, 1, 2], ["1/8", "1/4", "1/2", "1", "2"])
            place.grid(linewidth=0.5, alpha=0.4)
        for side in places:
            side[0].set_ylabel("best rate")
        places[0][0].legend(frameon=False)
        figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--draw", type=Path, nargs="+", help="results to draw in place of new ones")
    parser.add_argument("--over", choices=("width", "depth"), nargs="+", default=["width", "depth"])
    asked = parser.parse_args()
    if asked.draw:
        draw([row for path in asked.draw for row in json.loads(path.read_text())["sweeps"]], asked.figure)
        return
    torch.set_num_threads(1)
    started, rows = time.perf_counter(), []
    for row in sweeps(asked.steps, asked.over):
        rows.append(row)
        print(json.dumps({name: row[name] for name in ("rule", "over", "transfer", "exponents", "best")}), flush=True)
        if asked.out:
            told = {"steps": asked.steps, "seconds": time.perf_counter() - started, "sweeps": rows}
            asked.out.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    if asked.figure:
        draw(rows, asked.figure)


if __name__ == "__main__":
    main()
