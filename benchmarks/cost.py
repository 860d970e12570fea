"""How close `thetahat cost` comes to steps that were made: parameters, operations and memory over a grid of configs.

    python benchmarks/cost.py [--out benchmarks/results/cost.json]

Each case makes a real step of two micro-batches on the CPU, the trainer's own `step` on the trainer's own batches.

- Operations are those that torch's FlopCounterMode counts of the step, its update included, with attention by the
  unfused kernel: the counter knows no fused kernel of the CPU and would count it as nothing.
- Memory is the largest sum of the bytes of all storages that live at one time, parameters, optimizer state and batches
  included: a TorchDispatchMode sees every tensor that an operation returns, and a finalizer when its storage goes. It
  is exact for what the allocator is asked for, and knows nothing of its rounding, of fragments, or of scratch memory
  within a kernel.

The estimate is asked for the shape of the batch that was read: rows, positions, and the mean length of a piece.
"""

import argparse
import json
import math
import os
import platform
import random
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from msgspec.structs import replace
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from thetahat.core.config import override
from thetahat.data.config import DataConfig
from thetahat.distribution.world import World
from thetahat.model.config import DecoderConfig, EncoderConfig, EncoderDecoderConfig
from thetahat.model.size import num_parameters
from thetahat.objective.config import Causal, Conditional, Labels, Masked, ObjectiveConfig
from thetahat.proof.speed.living import Living
from thetahat.proof.speed.read import as_read, pieces_of
from thetahat.recipes.quickstart import quickstart
from thetahat.run.cost.operations import operations_of
from thetahat.run.diagnosis.needed import training_memory
from thetahat.run.prepare import Prepared, prepare
from thetahat.run.state import first_model, first_state
from thetahat.run.step import step

SMALL = {"num_layers": 2, "width": 64, "num_heads": 4, "num_kv_heads": 4, "head_width": 16, "inner_width": 160}
MEDIUM = {"num_layers": 4, "width": 128, "num_heads": 8, "num_kv_heads": 2, "head_width": 16, "inner_width": 352}
LARGE = {"num_layers": 6, "width": 192, "num_heads": 6, "num_kv_heads": 6, "head_width": 32, "inner_width": 512}
ADAMW = [
    *("optimization.matrices.kind=adamw", "optimization.matrices.learning_rate=0.001"),
    "optimization.matrices.weight_decay=0.1",
]
TIED, UNTIED = ["model.ties_embeddings=true"], ["model.ties_embeddings=false"]
PLAIN = ["model.norm.kind=layer", "model.mlp.is_gated=false", "model.mlp.activation=gelu"]


@dataclass(frozen=True)
class Case:
    """A config: the shape, its kind, KEY=VALUE, and how many words a document has."""

    shape: dict[str, Any]
    pairs: list[str]
    kind: str = "decoder"
    words: int = 800  # of a document; more than a row: rows are full, one piece each


GRID = {
    "small, tied": Case(SMALL, TIED),
    "small, untied, AdamW": Case(SMALL, [*UNTIED, *ADAMW]),
    "grouped queries": Case(MEDIUM, TIED),
    "one group, untied": Case(MEDIUM, [*UNTIED, "model.num_kv_heads=1"]),
    "large": Case(LARGE, TIED),
    "large, chunked head": Case(LARGE, [*TIED, "objective.chunk_size=64"]),
    "large, bfloat16": Case(LARGE, [*TIED, "dtype=bfloat16"]),
    "chunked head, bfloat16, AdamW": Case(MEDIUM, [*UNTIED, *ADAMW, "dtype=bfloat16", "objective.chunk_size=100"]),
    "long rows": Case(SMALL, [*TIED, "data.context=1024", "micro_batch_size=1"]),
    "long rows, window of 128": Case(
        SMALL, [*TIED, "data.context=1024", "micro_batch_size=1", "model.layers=[{distance=128},{}]"]
    ),
    "long rows, window of 64 and 16 global positions": Case(
        SMALL, [*TIED, "data.context=512", "micro_batch_size=1", "model.layers=[{distance=64,num_global=16},{}]"]
    ),
    "packed documents of 30 words": Case(MEDIUM, TIED, words=30),
    "packed documents of 90 words": Case(SMALL, [*TIED, "data.context=512", "micro_batch_size=2"], words=90),
    "layer norms, plain network": Case(MEDIUM, [*TIED, *PLAIN]),
    "sandwich, no query-key norm": Case(
        MEDIUM, [*TIED, "model.placement=sandwich", "model.attention.query_key_norm=none"]
    ),
    "float8": Case(LARGE, [*UNTIED, *ADAMW, "dtype=bfloat16", "float8=true"]),
    "ALiBi": Case(MEDIUM, [*TIED, "model.layers=[{positions={kind='alibi'}}]"]),
    "ALiBi, bfloat16, squared ReLU": Case(
        MEDIUM,
        [*TIED, "dtype=bfloat16", "model.layers=[{positions={kind='alibi'}}]", "model.mlp.activation=relu2"],
    ),
    "sinks": Case(MEDIUM, [*TIED, "model.attention.sinks=learned"]),
    "sinks, ALiBi, bfloat16": Case(
        MEDIUM,
        [
            *(*TIED, "dtype=bfloat16", "model.layers=[{positions={kind='alibi'}}]"),
            "model.attention.sinks=learned",
        ],
    ),
    "value embeddings": Case(MEDIUM, [*TIED, "model.value_embeddings.every=2"]),
    "value embeddings, bfloat16": Case(MEDIUM, [*UNTIED, "model.value_embeddings.every=1", "dtype=bfloat16"]),
    "shared keys, windows": Case(
        MEDIUM, [*UNTIED, "model.attention.sharing=2", "model.layers=[{distance=99},{distance=99},{},{}]"]
    ),
    "shared keys, smear, bfloat16": Case(
        MEDIUM,
        [*TIED, "model.attention.sharing=3", "model.embedding.smear.gate_width=24", "dtype=bfloat16"],
    ),
    "smear": Case(SMALL, [*TIED, "model.embedding.smear.gate_width=24"]),
    "squared ReLU without a gate": Case(MEDIUM, [*TIED, "model.mlp.is_gated=false", "model.mlp.activation=relu2"]),
    "learned scales of branches": Case(MEDIUM, [*TIED, "model.residual.kind=learned"]),
    "two future tokens": Case(MEDIUM, [*TIED, "model.num_future=2", "objective.future=[0.3,0.3]"]),
    "a future token, bfloat16, packed": Case(
        SMALL, [*UNTIED, "model.num_future=1", "objective.future=[0.3]", "dtype=bfloat16"], words=90
    ),
    "linear attention": Case(MEDIUM, [*TIED, "model.layers=linear"]),
    "linear attention with learned decay, packed": Case(
        MEDIUM, [*TIED, "model.layers=[{kind='linear',decay='learned'}]"], words=90
    ),
    "delta rule and attention": Case(SMALL, [*TIED, "model.layers=3x delta, 1x attention"]),
    "delta rule, wide values, bfloat16": Case(
        MEDIUM, [*TIED, "model.layers=[{kind='delta',value_width=32}]", "dtype=bfloat16"]
    ),
    "state space, long rows": Case(
        SMALL, [*TIED, "model.layers=state-space", "data.context=1024", "micro_batch_size=1"]
    ),
    "latent attention": Case(MEDIUM, [*TIED, "model.layers=latent"]),
    "latent attention, bfloat16, latent queries": Case(
        MEDIUM, [*TIED, "dtype=bfloat16", "model.layers=[{kind='latent',latent_width=48,query_width=64}]"]
    ),
    "latent attention in windows, packed, sinks": Case(
        SMALL,
        [*TIED, "model.layers=[{kind='latent',distance=40},{kind='latent'}]", "model.attention.sinks=learned"],
        words=60,
    ),
    "latent attention, frozen": Case(
        MEDIUM, [*UNTIED, "model.layers=latent", 'frozen=["embedding.*", "*.key.*", "*.value.*"]']
    ),
    "capped scores": Case(MEDIUM, [*TIED, "model.attention.cap=50"]),
    "frozen embeddings and network": Case(MEDIUM, [*UNTIED, 'frozen=["embedding.*", "blocks.*.mlp.*"]']),
    "moving average": Case(MEDIUM, [*TIED, *ADAMW, "optimization.ema=0.99"]),
    "masked encoder": Case(MEDIUM, TIED, "masked"),
    "masked encoder, norms behind": Case(LARGE, [*TIED, "model.placement=post", *PLAIN], "masked"),
    "labels": Case(SMALL, TIED, "labels", words=60),
    "encoder-decoder": Case(SMALL, TIED, "pairs", words=55),
    "encoder-decoder, medium, untied": Case(MEDIUM, UNTIED, "pairs", words=55),
    "encoder-decoder, relative positions": Case(
        SMALL, [*TIED, "model.attention.relative.num_buckets=32"], "pairs", words=80
    ),
    "encoder-decoder, bfloat16": Case(MEDIUM, [*TIED, "dtype=bfloat16"], "pairs", words=55),
}
KINDS = {
    "decoder": (DecoderConfig, Causal()),
    "masked": (EncoderConfig, Masked(rate=0.3)),
    "labels": (EncoderConfig, Labels()),
    "pairs": (EncoderDecoderConfig, Conditional()),
}


def records(case: Case, number: int) -> list[dict[str, str]]:
    """Documents of random words, a few thousand of them."""
    draw = random.Random(1)
    known = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 7))) for _ in range(900)]

    def text(words: int) -> str:
        return " ".join(draw.choices(known, k=words))

    match case.kind:
        case "labels":
            return [{"text": text(case.words), "label": ("sea", "land", "air")[i % 3]} for i in range(number)]
        case "pairs":
            return [{"prompt": text(case.words), "completion": text(case.words * 2 // 3)} for _ in range(number)]
        case _:  # of unequal lengths where a row holds several, so that rows can be filled
            spread = case.words // 2 if case.words < 500 else 0
            return [{"text": text(case.words + draw.randint(-spread, spread))} for _ in range(number)]


def prepared_of(case: Case, folder: Path) -> Prepared:
    """The data of a case, encoded, and its config."""
    shape, factorization = KINDS[case.kind]
    number = 8 if case.words > 500 else 3000 // case.words + 40
    (folder / "data.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records(case, number)))
    data = DataConfig(
        train=str(folder / "data.jsonl"), context=128, vocab_size=1200, held_out="none", over_long="split"
    )
    if case.kind in {"labels", "pairs"}:
        data = replace(data, over_long="drop", context=256)
    more = {"num_encoder_layers": case.shape["num_layers"]} if case.kind == "pairs" else {}
    config = replace(
        quickstart(),
        device="cpu",
        threads=1,
        data=data,
        model=shape(**case.shape, **more),
        objective=ObjectiveConfig(factorization=factorization),
        batch_size=8,
        micro_batch_size=4,
        prompt="",
    )
    config = override(config, case.pairs)
    if config.micro_batch_size is not None and config.micro_batch_size != 4:
        config = replace(config, batch_size=2 * config.micro_batch_size)
    (folder / "run").mkdir()
    return prepare(config, folder / "run", World())


@dataclass(frozen=True)
class Compared:
    """What was counted and measured, and what was said before."""

    parameters: int
    parameters_said: int
    flops: int
    flops_said: int
    peak_bytes: int
    peak_bytes_said: int


def handed_on(change: Any, states: Any, *_: Any, **__: Any) -> int:
    """Operations of states that are handed on: a product a chunk where the change of a state is a matrix."""
    return 0 if change[-1] == 1 else 2 * math.prod(change) * states[-1]


def handed_back(states: Any, change: Any, *_: Any, **__: Any) -> int:
    """Those of their gradient."""
    return handed_on(change, states)


HANDED_ON = {  # products within one operation
    torch.ops.thetahat.states_before: handed_on,
    torch.ops.thetahat.states_before_backward: handed_back,
}


def compare(case: Case, folder: Path) -> Compared:
    """One step of a case, measured, and another one, counted."""
    prepared = prepared_of(case, folder)
    config, batches, labels = prepared.config, prepared.batches(0, World()), len(prepared.labels)
    vocab_size = prepared.tokenizer.vocab_size
    with Living() as living:
        state = first_state(config, vocab_size, 4, torch.device("cpu"), labels)
        for batch in batches:
            batch.map(lambda tensor: (living.note([tensor]), tensor)[1])
        step(state, batches, World())
    with FlopCounterMode(display=False, custom_mapping=HANDED_ON) as counter, sdpa_kernel(SDPBackend.MATH):
        step(state, batches, World())
    read = as_read(config, batches)
    model = first_model(read, vocab_size, torch.device("meta"), labels, draws=False)
    said = operations_of(model, read, pieces_of(batches), "all")
    return Compared(
        parameters=sum(one.numel() for one in state.model.parameters()),
        parameters_said=num_parameters(config.model, vocab_size, labels) if not config.adapter else 0,
        flops=counter.get_total_flops(),
        flops_said=round(said.total),
        peak_bytes=living.most,
        peak_bytes_said=training_memory(model, read, vocab_size, labels).total,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", default="")
    typed = parser.parse_args()
    os.environ |= {"THETAHAT_CACHE": tempfile.mkdtemp(), "THETAHAT_WORKERS": "1"}
    torch.set_num_threads(1)
    found = {}
    for name, case in GRID.items():
        if typed.only not in name:
            continue
        with tempfile.TemporaryDirectory() as folder:
            begun = time.perf_counter()
            one = compare(case, Path(folder))
        flops, memory = one.flops_said / one.flops - 1, one.peak_bytes_said / one.peak_bytes - 1
        found[name] = asdict(one)
        print(
            f"{name:38s} {one.parameters:10,d} {one.parameters_said - one.parameters:+d}"
            f"  {one.flops / 1e9:8.3f} GFLOP {flops:+.1%}  {one.peak_bytes / 1e6:8.2f} MB {memory:+.1%}"
            f"  {time.perf_counter() - begun:.1f} s",
            flush=True,
        )
    if typed.out:
        about = {"torch": torch.__version__, "platform": platform.platform()}
        typed.out.write_text(json.dumps({"about": about, "cases": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
