"""What each mixer costs by the length of a text: time and memory of a gradient, and of a token that is generated.

    python -m benchmarks.mixer_length [--longest 16384] [--out benchmarks/results/mixer_length.json]

A decoder of two layers of one mixer, one text of T tokens, one thread, float32.

- Gradient: forward and backward pass of the sum of the hidden states, without the head. Time is that of the process on
  the CPU, not of a clock, so that what else the machine does is not counted, and the least of some repeats, since what
  else it does still costs caches. Memory is the most bytes of all storages at one time beyond the parameters, which is
  exact (`benchmarks/cost.py`).
- Generation: a prompt of T tokens is read, then one token after another: the least time of a token, and the bytes that
  were kept of the prompt.

Each quantity is fitted by c T^e: the logarithm over that of T is a line whose slope is e, with the 95 % interval
of least squares. Of attention e lies between 1 and 2, since a layer's maps are linear and its pairs are not; the last
two lengths alone are nearer to what it comes to, and printed, too. Asked of linear, delta and state-space: e <= 1.1 of
time and memory of a gradient; in generation nothing may grow.
"""

import argparse
import gc
import json
import math
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch
from scipy.stats import linregress, t as student

from benchmarks.cost import Living
from thetahat.core.batch import Inputs
from thetahat.core.config import override
from thetahat.core.visibility import visibility_of
from thetahat.generation.rows import begin_decoding
from thetahat.model.build import build_model
from thetahat.model.config import DecoderConfig
from thetahat.model.init import initialize

SHAPE = DecoderConfig(num_layers=2, width=128, num_heads=4, num_kv_heads=4, head_width=32, inner_width=352)
MIXERS = {
    "attention": "attention",
    "window of 256": "[{distance = 255}]",
    "linear": "linear",
    "linear, learned decay": "[{kind = 'linear', decay = 'learned'}]",
    "delta": "delta",
    "state-space": "state-space",
}
SHORTEST = 512
VOCABULARY = 256
ENOUGH = 1.5
"""Seconds of repeats of one length, of which there are at least three."""


def model_of(layers: str) -> torch.nn.Module:
    """A decoder with its first parameters."""
    model = build_model(override(SHAPE, [f"layers={layers}"]), VOCABULARY)
    initialize(model, 0)
    return model


def text_of(length: int) -> torch.Tensor:
    return torch.randint(VOCABULARY, (1, length), generator=torch.Generator().manual_seed(length))


def seconds(run: Callable[[], object], least: int = 3) -> float:
    """The least time on the CPU of some repeats, the first left out."""
    run()
    found: list[float] = []
    while len(found) < least or sum(found) < ENOUGH:
        begun = time.process_time()
        run()
        found.append(time.process_time() - begun)
    return min(found)


def gradient(layers: str, length: int) -> dict[str, float]:
    """Of a forward and a backward pass over one text."""
    model, tokens = model_of(layers), text_of(length)
    inputs = Inputs(tokens, torch.arange(length)[None], visibility_of(torch.zeros_like(tokens), is_plain=True))

    def run() -> None:
        model.hidden(inputs).sum().backward()

    run()
    gc.collect()
    with Living() as living:
        run()
    return {"seconds": seconds(run), "bytes": living.most}


def generation(layers: str, length: int, tokens: int = 32) -> dict[str, float]:
    """Of a token behind a prompt; what is kept of the prompt."""
    model, found = model_of(layers), []
    rows = begin_decoding(model, text_of(length).tolist(), context=length + tokens, max_tokens=tokens)
    with torch.no_grad():
        rows.read()
        kept = [rows._cache.layers[layer] for layer in range(SHAPE.num_layers)]
        for token in range(tokens):
            rows.append([token])
            begun = time.process_time()
            rows.read()
            found.append(time.process_time() - begun)
    return {"seconds": min(found), "bytes": sum(map(bytes_in, kept))}


def bytes_in(kept: object) -> int:
    """Of the tensors that a layer keeps."""
    held = (getattr(kept, name, None) for name in ("keys", "values", "state", "tail"))
    return sum(one.numel() * one.element_size() for one in held if one is not None)


def fit(by_length: dict[int, float]) -> dict[str, float | list[float]]:
    """The exponent over all lengths with its 95 % interval, and that between the last two."""
    lengths, values = [math.log(one) for one in by_length], [math.log(one) for one in by_length.values()]
    line = linregress(lengths, values)
    away = float(student.ppf(0.975, len(lengths) - 2)) * line.stderr if len(set(values)) > 1 else 0.0
    (x, y), (x_last, y_last) = list(zip(lengths, values, strict=True))[-2:]
    return {
        "exponent": round(line.slope, 3),
        "interval": [round(line.slope - away, 3), round(line.slope + away, 3)],
        "last": round((y_last - y) / (x_last - x), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--longest", type=int, default=16_384)
    parser.add_argument("--only", default="")
    parser.add_argument("--out", type=Path)
    typed = parser.parse_args()
    torch.set_num_threads(1)
    lengths = [SHORTEST << power for power in range(int(math.log2(typed.longest // SHORTEST)) + 1)]
    found: dict[str, dict[str, object]] = {}
    for name, layers in MIXERS.items():
        if typed.only not in name:
            continue
        found[name] = {}
        for what, measure in (("gradient", gradient), ("generation", generation)):
            measured = {length: measure(layers, length) for length in lengths}
            fits = {unit: fit({length: one[unit] for length, one in measured.items()}) for unit in ("seconds", "bytes")}
            found[name][what] = {"by length": measured, "fit": fits}
            for unit, said in fits.items():
                first, last = (measured[length][unit] for length in (lengths[0], lengths[-1]))
                low, high = said["interval"]
                print(
                    f"{name:22s} {what:10s} {unit:7s} {first:.3g} .. {last:.3g}  T^{said['exponent']:.2f}"
                    f" ({low:.2f} .. {high:.2f}), at the end T^{said['last']:.2f}",
                    flush=True,
                )
    if typed.out:
        shape = {name: getattr(SHAPE, name) for name in ("num_layers", "width", "num_heads", "head_width")}
        about = {"torch": torch.__version__, "machine": platform.machine(), "threads": 1, "shape": shape}
        typed.out.write_text(json.dumps({"about": about, "lengths": lengths, "mixers": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
