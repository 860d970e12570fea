"""The figures of docs/14-architectures.md, from the results.

python -m benchmarks.study.figures benchmarks/results docs
"""

import argparse
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from thetahat.figures.image import COLOURS, DASHES, GRID, INK, STYLE

Told = Mapping[str, Any]
LEAST = 1e-4  # bits per byte that are drawn
COLOUR = {
    name: (COLOURS[number % len(COLOURS)], DASHES[number % len(DASHES)])
    for number, name in enumerate(
        ("attention", "window", "linear", "linear, decay", "delta", "state-space", "hybrid"),
    )
}


def places(columns: int, height: float) -> tuple[Figure, Any]:
    """Panels beside one another."""
    figure = Figure(figsize=(7.2, height), layout="constrained")
    found = figure.subplots(1, columns, squeeze=False)[0]
    for place in found:
        place.grid(color=GRID, linewidth=0.8)
        place.set_axisbelow(True)
    return figure, found


def of_seeds(told: Told, name: str) -> list[Any]:
    """The entries `NAME SEED`, of all seeds."""
    return [one for key, one in told.items() if key.rpartition(" ")[0].removesuffix(",") == name]


def ticked(place: Any, values: list[int], axis: str = "x") -> None:
    """A logarithmic axis with exactly these numbers."""
    getattr(place, f"set_{axis}scale")("log", base=2)
    shown = [f"{value // 1024}k" if value >= 1024 else str(value) for value in values]
    getattr(place, f"set_{axis}ticks")(values, shown)
    getattr(place, f"{axis}axis").minorticks_off()


def mixers(results: Path) -> Figure:
    """Bits per byte by position, relative to attention in windows of its training; and recall by number of pairs."""
    told = json.loads((results / "study_mixers.json").read_text())
    recall_path = results / "study_recall_long.json"
    recall = json.loads(recall_path.read_text()) if recall_path.is_file() else {}
    figure, (left, *others) = places(2 if recall else 1, 3.4)
    edges = told["edges"]
    for name, (colour, dash) in COLOUR.items():
        if found := of_seeds(told, name):
            y = np.mean([[low[0] for low in one["more_than_attention"]] for one in found], 0)
            left.plot(edges[1 : len(y) + 1], y, linestyle=dash, color=colour, linewidth=1.6)
        if found := of_seeds(recall, name):
            y = np.mean([[low[0] for low in one["by_pairs"]] for one in found], 0)
            others[0].plot(
                recall["pairs"], 100 * y, linestyle=dash, color=colour, linewidth=1.6, marker="o", markersize=3
            )
    for name, (colour, dash) in COLOUR.items():
        left.plot([], [], linestyle=dash, color=colour, label=name)
    left.axhline(0, color=INK, linewidth=0.8)
    left.axvline(512, color=INK, linewidth=0.8, linestyle=":")
    left.annotate(
        "trained up to here",
        (512, 1.0),
        (-3, -9),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        fontsize=8,
        ha="right",
    )
    ticked(left, edges[1:])
    left.set_xlabel("position, up to")
    left.set_ylabel("bits per byte, more than attention\nin windows of 512")
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    for right in others:
        ticked(right, recall["pairs"])
        right.set_xlabel("pairs to remember")
        right.set_ylabel("values recalled, %")
        right.set_ylim(-3, 103)
    return figure


def norms(results: Path) -> Figure:
    """Gradients by layer, and losses at each rate."""
    told = json.loads((results / "study_norms.json").read_text())
    variants = [key.removeprefix("gradients ") for key in told if key.startswith("gradients ")]
    rates = sorted({float(key.split()[-2]) for key in told if key.startswith("losses ")})
    figure, (first, *others) = places(1 + len(rates), 3.3)
    for number, name in enumerate(variants):
        look = {"color": COLOURS[number], "linestyle": DASHES[number % len(DASHES)], "linewidth": 1.6}
        first.plot(range(1, len(told[f"gradients {name}"]) + 1), told[f"gradients {name}"], label=name, **look)
        for rate, place in zip(rates, others, strict=True):
            runs = [one["nats_per_token"] for one in of_seeds(told, f"losses {name} {rate}")]
            if runs:
                shortest = min(map(len, runs))
                y = np.mean([run[:shortest] for run in runs], 0)
                y = np.convolve(y, np.ones(5) / 5, "valid")
                place.plot(np.arange(len(y)) + 5, y, **look)
    first.set_yscale("log")
    first.set_xlabel("layer")
    first.set_title("gradient at the start", loc="left", fontsize=9)
    first.set_ylabel("norm of a layer's gradient")
    figure.legend(loc="outside lower center", ncols=6, frameon=False, columnspacing=1.2, handlelength=1.6)
    for rate, place in zip(rates, others, strict=True):
        place.set_title(f"rate {rate:g}", loc="left", fontsize=9)
        place.set_xlabel("step")
        place.set_ylim(others[0].get_ylim()[0], 6.5)
    for place in others[:1]:
        place.set_ylabel("nats per token")
    return figure


def sublayers(results: Path) -> Figure:
    """What cutting a part out loses; operations and what is kept, by length."""
    told = json.loads((results / "study_sublayers.json").read_text())
    figure, (left, middle, right) = places(3, 3.1)
    cuts = {key.removeprefix("cut "): one for key, one in told.items() if key.startswith("cut ")}
    shift = 0.0
    for name, found in cuts.items():
        colour, _ = COLOUR[name]
        for part, mark, said in (("mlp", "s", "network"), ("attention", "o", "mixer")):
            layers = sum(key.startswith(f"{part} ") for key in found)
            for layer in range(1, layers + 1):
                value, low, high = found[f"{part} {layer}"]
                x, look = layer + shift, {"color": colour, "markersize": 4.5, "markerfacecolor": "white"}
                left.plot([x, x], [max(low, LEAST), max(high, LEAST)], color=colour, linewidth=1.2)
                named = {"label": f"{said}, {name}"} if layer == 1 else {}
                left.plot(x, max(value, LEAST), mark, **look, **named)
        shift += 0.17
    left.set_yscale("log")
    left.set_xlabel("layer that is cut")
    left.set_xticks(range(1, 5))
    left.set_title("bits per byte lost", loc="left", fontsize=9)
    costs = told["costs"]
    for name, (colour, dash) in COLOUR.items():
        if name in costs:
            look = {"color": colour, "linestyle": dash, "linewidth": 1.6}
            middle.plot(costs["lengths"], np.array(costs[name]["gflop_per_token"]) * 1e3, label=name, **look)
            right.plot(costs["lengths"], costs[name]["cache_megabytes"], **look)
    for place in (middle, right):
        ticked(place, costs["lengths"])
        place.set_yscale("log")
        place.set_xlabel("length, tokens")
    middle.set_title("training: MFLOP a token", loc="left", fontsize=9)
    right.set_title("generation: MB kept", loc="left", fontsize=9)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, columnspacing=1.2, handlelength=1.6)
    return figure


def depth(results: Path) -> Figure:
    """Bits per byte over depth, a point a seed."""
    told = json.loads((results / "study_depth.json").read_text())
    runs = [one for one in told.values() if isinstance(one, dict) and "layers" in one]
    figure, (left, right) = places(2, 2.7)
    layers = sorted({one["layers"] for one in runs})
    width = {one["layers"]: one["width"] for one in runs}
    for place, name in ((left, "bits_per_byte"), (right, "tokens_per_second")):
        value = [
            [one[name][0] if name == "bits_per_byte" else one[name] for one in runs if one["layers"] == each]
            for each in layers
        ]
        place.plot(layers, [np.mean(each) for each in value], "-", color=COLOURS[0], linewidth=1.6)
        for each, values in zip(layers, value, strict=True):
            place.plot([each] * len(values), values, "o", color=COLOURS[0], markersize=4.5, markerfacecolor="white")
        place.set_xscale("log", base=2)
        place.set_xticks(layers, [f"{each}\n({width[each]})" for each in layers])
        place.minorticks_off()
        place.set_xlabel("layers (width)")
    left.set_title("held out, bits per byte", loc="left", fontsize=9)
    right.set_title("training, tokens a second of one thread", loc="left", fontsize=9)
    right.set_ylim(0)
    return figure


FIGURES: dict[str, Callable[[Path], Figure]] = {
    "mixers": mixers,
    "norms": norms,
    "sublayers": sublayers,
    "depth": depth,
}


def drawn(results: Path, folder: Path, form: str) -> Iterator[Path]:
    """The files, as they are written."""
    with rc_context(STYLE):  # pyright: ignore[reportArgumentType] - its keys are a literal type of theirs
        for name, draw in FIGURES.items():
            if (results / f"study_{name}.json").is_file():
                path = folder / f"study_{name}.{form}"
                draw(results).savefig(path, dpi=150, metadata={"Date": None} if form == "svg" else None)
                yield path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--form", choices=("svg", "png"), default="svg")
    asked = parser.parse_args()
    for path in drawn(asked.results, asked.folder, asked.form):
        print(path)


if __name__ == "__main__":
    main()
