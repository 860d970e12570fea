"""What the parts of a block do: each is left out in turn, and what attention costs by the length of the context.

    python -m benchmarks.study.sublayers DATA --out benchmarks/results/study_sublayers.json

Decoders of 4 layers and width 48 read the same tokens of Python Enhancement Proposals. A part is left out where its
last matrix begins at zero and its matrices are frozen: it adds nothing, from the first step to the last. Then the
beginnings of documents that were held out are scored, and compared with the whole block document by document. With
`--cut RUN ...` parts are also cut out of models that were trained with them, as those of mixers.py.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

import thetahat as th
from benchmarks.study.common import arguments, config_of, curve, tell, trained
from benchmarks.study.mixers import SHAPE, compared, long_documents
from thetahat.statistics.interval import bits_per_byte_interval

ATTENTION, NETWORK = "blocks.*.attention.*", "blocks.*.mlp.*"
ZERO = {"model.residual.writers": "zero"}
VARIANTS: dict[str, dict[str, Any]] = {
    "all": {},
    "all, branches from zero": ZERO,
    "no positions": {"model.layers": '[{positions={kind="none"}}]'},
    "no norms in blocks": {"model.placement": "none", "model.attention.query_key_norm": "none"},
    "no network": {**ZERO, "frozen": f'["{NETWORK}"]'},
    "no attention": {**ZERO, "frozen": f'["{ATTENTION}"]'},
    "neither": {**ZERO, "frozen": f'["{ATTENTION}","{NETWORK}"]'},
}
LAST = {"attention": "output", "mlp": "down"}  # the last matrix of each branch
LENGTHS = (256, 1024, 4096, 16384, 65536)
COSTED = {
    "attention": "1x attention",
    "window": "[{distance=64}]",
    "delta": "1x delta",
    "hybrid": "3x delta, 1x attention",
}


def costs(base: dict[str, Any]) -> dict[str, Any]:
    """GFLOP a token of training, its share in attention, and megabytes kept for one text in generation, by length."""
    told: dict[str, Any] = {"lengths": LENGTHS}
    for name, layers in COSTED.items():
        found = [
            th.cost(
                config_of({**base, "model.layers": layers, "data.context": length, "batch_size": 1}),
                on=th.Machines(gpus=()),
            )
            for length in LENGTHS
        ]
        work = [one.estimate.operations for one in found]
        trained_by = [one.total - one.update for one in work]  # the update does not grow with the length
        told[name] = {
            "gflop_per_token": [of / one.num_tokens / 1e9 for of, one in zip(trained_by, work, strict=True)],
            "attention_share": [3 * one.attention / of for of, one in zip(trained_by, work, strict=True)],
            "cache_megabytes": [one.estimate.inference.cache / 1e6 for one in found],
        }
    return told


def cut(run: Path, held: Path) -> dict[str, Any]:
    """Bits per byte that a trained model loses where the last matrix of a branch is set to zero afterwards."""
    loaded = th.load(str(run))
    places = {f"{kind} {layer + 1}": [(kind, layer)] for kind in LAST for layer in range(loaded.model.num_layers)}
    places |= {f"every {kind}": [(kind, layer) for layer in range(loaded.model.num_layers)] for kind in LAST}
    whole = th.score(loaded, [str(held)]).rows
    sizes = [one.num_bytes for one in whole]
    told: dict[str, Any] = {"whole": list(bits_per_byte_interval([one.log_prob for one in whole], sizes))}
    for name, those in places.items():
        matrices = [loaded.model.block(layer).get_parameter(f"{kind}.{LAST[kind]}.weight") for kind, layer in those]
        before = [one.detach().clone() for one in matrices]
        with torch.no_grad():
            for one in matrices:
                one.zero_()
            rows = th.score(loaded, [str(held)]).rows
            for one, value in zip(matrices, before, strict=True):
                one.copy_(value)
        lost = [now.log_prob - then.log_prob for now, then in zip(rows, whole, strict=True)]
        told[name] = list(bits_per_byte_interval(lost, sizes))
    return told


def main() -> None:
    asked = arguments(
        __doc__ or "",
        more={"--steps": {"type": int, "default": 240}, "--cut": {"type": Path, "nargs": "+", "default": []}},
    )
    work = asked.work / "sublayers"
    train, held = long_documents(asked.data, work, 1200)
    base = {**SHAPE, "data.train": train, "data.held_out": "none", "data.context": 128, "batch_size": 4}
    told: dict[str, Any] = {"training": {**SHAPE, "data.context": 128, "batch_size": 4, "max_steps": asked.steps}}
    told["costs"] = costs({**SHAPE, "max_steps": 1})
    for run in asked.cut:
        told[f"cut {run.parent.name}"] = cut(run, long_documents(asked.data, work / "cut", 700)[1])
        tell(told, asked.out)
    for seed in asked.seeds:
        for name, keys in VARIANTS.items():
            ours = config_of({**base, **keys, "max_steps": asked.steps, "seed": seed})
            run = trained(work / name.replace(", ", "-").replace(" ", "-") / str(seed), ours)
            ledger = run / "held.parquet"
            if not ledger.is_file():
                th.score(str(run), [str(held)], out=ledger)
            rows, _ = th.read_ledger(ledger)
            found = bits_per_byte_interval([one.log_prob for one in rows], [one.num_bytes for one in rows])
            one = {"bits_per_byte": list(found), "training_nats_per_token": -float(np.mean(curve(run)[-30:]))}
            if name == "all":
                whole = ledger
            else:
                one["saves_over_all"] = compared(whole, ledger)
            told[f"{name} {seed}"] = one
            tell(told, asked.out)


if __name__ == "__main__":
    main()
