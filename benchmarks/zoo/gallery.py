"""Draws the gallery of docs/09-gallery.md: python -m benchmarks.zoo.gallery

Each failure is made with one seed, beside a run without it, and what shows it is drawn over the steps. The dotted line
is the first alarm.
"""

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.zoo.case import Said, alarms_of, run
from benchmarks.zoo.failures import FAILURES
from benchmarks.zoo.making import plain
from thetahat.figures.image import as_image
from thetahat.figures.panel import Curve, Mark, Panel

PICTURES = Path(__file__).parents[2] / "docs" / "gallery"
SEED = 0
Line = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Shown:
    """What of a failure is drawn."""

    number: str
    title: str
    unit: str
    value: Callable[[Line], float | None]  # of a line of metrics.jsonl
    is_log: bool = False
    alone: bool = False  # without the healthy run
    more: tuple[str, ...] = ()  # KEY=VALUE of both runs


def nats(line: Line) -> float | None:
    """Nats a target."""
    value = line.get("log_likelihood_per_token")
    return -value if isinstance(value, float) else None


def field(*names: str) -> Callable[[Line], float | None]:
    """What stands under these names."""

    def value(line: Line) -> float | None:
        found: Any = line
        for name in names:
            found = found.get(name) if isinstance(found, dict) else None
        return float(found) if isinstance(found, float | int) else None

    return value


def largest(name: str) -> Callable[[Line], float | None]:
    """The largest of a signal over its parts."""

    def value(line: Line) -> float | None:
        parts = line.get("signals", {}).get(name)
        return max(parts.values()) if parts else None

    return value


def least(name: str) -> Callable[[Line], float | None]:
    """The least of a signal over its parts."""

    def value(line: Line) -> float | None:
        parts = line.get("signals", {}).get(name)
        return min(parts.values()) if parts else None

    return value


LOGIT, NATS = "logit", "nats a target"
SHOWN = (
    Shown("F1", "A learning rate that is too high", NATS, nats),
    Shown("F3", "Exploding attention logits: the largest", LOGIT, largest("max_attention_logit"), True),
    Shown("F4", "Drift of the output logits: log Z", "nats", field("log_normalizer")),
    Shown("F5", "A spike of the embedding's gradient", "norm", field("gradient_norm"), True),
    Shown("F7", "A record unlike the others: the worst of each step", "nats above the median", field("worst_excess")),
    Shown("F10", "A look at the future: what should be predicted is read", NATS, nats, more=("max_steps=400",)),
    Shown("F13", "Stuck: nothing is learned but the shares of tokens", NATS, nats),
    Shown("F16", "Updates that rounding loses: elements that moved", "least share", least("moved")),
    Shown("F18", "An epsilon that is too large: elements below it", "share", largest("below_epsilon")),
    Shown("F19", "A second moment that lags behind", "rms of g / √v", largest("second_moment_lag")),
    Shown("F21", "First parameters of the wrong scale", NATS, nats),
    Shown("F24", "A learning rate that is gone too early", NATS, nats),
    Shown("F26", "Overfitting: what is held out", "bits per byte", field("held_out_bits_per_byte"), alone=True),
)  # fmt: skip


def made(number: str, folder: Path, more: tuple[str, ...] = ()) -> tuple[list[Line], list[Said]]:
    """The lines and the alarms of a run of a failure, or of a healthy one."""
    place = Path(tempfile.mkdtemp(dir=folder))
    makers = {one.number: one.make for one in FAILURES}
    case = makers[number](SEED, place) if number in makers else plain(SEED, place)
    case.keys += more
    outcome = run(case, place)
    lines = [json.loads(line) for line in (place / "run" / "metrics.jsonl").read_text().splitlines()]
    return lines, [*[one for one in outcome.said if one.step == 0], *alarms_of(place / "run" / "alarms.jsonl")]


def curve(name: str, colour: int, lines: list[Line], value: Callable[[Line], float | None]) -> Curve:
    """A signal over the steps."""
    points = [(line["step"], found) for line in lines if (found := value(line)) is not None]
    x, y = np.array(points, np.float64).T
    return Curve(name, colour, {"step": x}, y, has_points=len(points) < 20)


def main() -> None:
    """Draws all, or those that are named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="*", default=[one.number for one in SHOWN])
    typed = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(prefix="gallery-"))
    PICTURES.mkdir(exist_ok=True)
    names = {one.number: one.names for one in FAILURES}
    usual, _ = made("healthy", folder)
    for shown in SHOWN:
        if shown.number not in typed.only:
            continue
        lines, said = made(shown.number, folder, shown.more)
        curves = [curve("with the failure", 1, lines, shown.value)]
        if not shown.alone:
            last, healthy = lines[-1]["step"], made("healthy", folder, shown.more)[0] if shown.more else usual
            curves.insert(0, curve("healthy", 0, [line for line in healthy if line["step"] <= last], shown.value))
        first = next((one for one in said if one.name in names[shown.number] and one.step > 0), None)
        marks = [Mark(first.name, 1, {"step": float(first.step)})] if first else []
        panel = Panel(shown.title, "", shown.unit, curves, shown.is_log, marks=marks)
        (PICTURES / f"{shown.number}.svg").write_bytes(as_image([panel], "step", "svg"))
        print(shown.number, *[f"{one.name}@{one.step}" for one in said], flush=True)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
