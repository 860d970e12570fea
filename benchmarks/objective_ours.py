"""What our step maximises and our evaluation reports, on the rows of `objective_rows.py`, cut in the peer's ways."""

import itertools
import json
import platform
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from msgspec.structs import replace
from objective_rows import END, MASK, VOCABULARY, decoder_rows, masked_rows, pair_rows
from safetensors.torch import load_file, save_file

import thetahat
from thetahat.core.batch import Batch, Packed
from thetahat.core.parts import Part, Parts
from thetahat.core.total import Total
from thetahat.data.config import DataConfig
from thetahat.distribution.launch import launch
from thetahat.distribution.world import World, join_world
from thetahat.model.config import DecoderConfig, EncoderConfig, EncoderDecoderConfig
from thetahat.objective.config import Conditional, Masked, ObjectiveConfig
from thetahat.objective.factorization import causal, conditional
from thetahat.objective.masked import read_whole
from thetahat.objective.objective import log_likelihood
from thetahat.optimization.config import AdamW, OptimizationConfig
from thetahat.run.config import RunConfig
from thetahat.run.state import State, first_state
from thetahat.run.step import step
from thetahat.verbs.verify import gradient_distance

TRAINED_ROWS, EVALUATED_ROWS = 8, 37
WAYS = {
    "batch 8": [8],
    "batch 1, 8 accumulated": [1] * 8,
    "batch 2, 4 accumulated": [2] * 4,
    "batch 3, 3 accumulated (3+3+2)": [3, 3, 2],
}
RANKS_WAY, EVALUATION_BATCHES = "batch 4, 2 ranks", (1, 2, 4, 8, 16, 37)
SHAPE = {"num_layers": 2, "width": 64, "num_heads": 4, "num_kv_heads": 4, "head_width": 16, "inner_width": 128}
KINDS = {
    "encoder-only": (EncoderConfig(**SHAPE), Masked()),
    "decoder-only": (DecoderConfig(**SHAPE), None),
    "encoder-decoder": (EncoderDecoderConfig(**SHAPE, num_encoder_layers=2), Conditional()),
}
ROWS = {"encoder-only": masked_rows, "decoder-only": decoder_rows, "encoder-decoder": pair_rows}


def packed_of(pieces: Sequence[Sequence[int]], rows: Sequence[int], parents: Sequence[int]) -> Packed:
    """Pieces laid in rows; what has no parent but is one's source is a prompt."""
    flat = [token for piece in pieces for token in piece]
    number = torch.tensor([index for index, piece in enumerate(pieces) for _ in piece])
    place = torch.tensor([j for piece in pieces for j in range(len(piece))])
    is_prompt = torch.tensor([index in parents for index in range(len(pieces))])[number]
    parts = Parts(
        number=torch.arange(len(pieces)),
        weight=torch.ones(len(pieces), dtype=torch.float64),
        num_tokens=torch.ones(len(pieces), dtype=torch.int64),
        record_tokens=torch.ones(len(pieces), dtype=torch.int64),
        record_parts=torch.ones(len(pieces), dtype=torch.int64),
        has_prompt=torch.zeros(len(pieces), dtype=torch.bool),
        describe=lambda numbers: [Part(f"row{index}", f"row{index}", "rows") for index in numbers],
    )
    return Packed(
        tokens=torch.tensor(flat),
        weight=torch.where(is_prompt | (place == 0), 0.0, 1.0).double(),
        num_bytes=torch.ones(len(flat), dtype=torch.int64),
        position=place,
        part=number,
        is_prompt=is_prompt,
        piece=number,
        row=torch.tensor(rows),
        parent=torch.tensor(parents),
        seed=torch.zeros(len(pieces), dtype=torch.int64),
        parts=parts,
    )


def batch_of(kind: str, rows: Sequence[Any]) -> Batch:
    count = len(rows)
    if kind == "decoder-only":
        return causal(packed_of(rows, range(count), [-1] * count))
    if kind == "encoder-only":  # the masks are given, as they are to the peer
        packed = packed_of([tokens for tokens, _ in rows], range(count), [-1] * count)
        chosen = torch.tensor([j in masks for tokens, masks in rows for j in range(len(tokens))])
        packed.weight.fill_(1.0)
        return read_whole(packed, ObjectiveConfig(), chosen, torch.where(chosen, MASK, packed.tokens), None)
    pieces = [piece for source, target in rows for piece in (source, [END, *target])]
    parents = [parent for index in range(count) for parent in (-1, 2 * index)]
    return conditional(packed_of(pieces, [i // 2 for i in range(2 * count)], parents), ObjectiveConfig())


def state_of(kind: str, dtype: str = "float32") -> State:
    model, factorization = KINDS[kind]
    rule = AdamW(learning_rate=1e-3)
    config = RunConfig(
        recipe="table",
        device="cpu",
        dtype=dtype,
        threads=1,
        data=DataConfig(),
        model=model,
        objective=ObjectiveConfig(factorization=factorization) if factorization else ObjectiveConfig(),
        optimization=OptimizationConfig(matrices=rule, embeddings=rule, vectors=rule),
        batch_size=8,
        max_steps=1,
    )
    return first_state(replace(config), VOCABULARY, 1, torch.device("cpu"))


def outcome(kind: str, batches: Sequence[Batch], world: World) -> tuple[float, dict[str, torch.Tensor]]:
    state = state_of(kind)
    report = step(state, batches, world)
    return -report.total.mean().item(), {name: p.grad for name, p in state.model.named_parameters()}


def cut(kind: str, rows: Sequence[Any], sizes: Sequence[int]) -> list[Batch]:
    bounds = [0, *torch.tensor(sizes).cumsum(0).tolist()]
    return [batch_of(kind, rows[low:high]) for low, high in itertools.pairwise(bounds)]


def rank(kind: str, folder: str) -> None:
    world = join_world("cpu")
    rows = ROWS[kind](TRAINED_ROWS, 0)[world.rank :: world.size]
    value, gradients = outcome(kind, [batch_of(kind, rows)], world)
    if world.is_first:
        save_file(gradients | {"value": torch.tensor(value, dtype=torch.float64)}, Path(folder) / f"{kind}.safetensors")
    world.leave()


def trained(kind: str) -> list[dict[str, Any]]:
    rows = ROWS[kind](TRAINED_ROWS, 0)
    found = {way: outcome(kind, cut(kind, rows, sizes), World()) for way, sizes in WAYS.items()}
    with tempfile.TemporaryDirectory() as folder:
        launch(rank, 2, kind, folder)
        tensors = load_file(Path(folder) / f"{kind}.safetensors")
    found[RANKS_WAY] = float(tensors.pop("value")), tensors
    plain = found["batch 8"][1]
    return [
        {"way": way, "value": value, "relative_gradient_error": gradient_distance(plain, gradients)}
        for way, (value, gradients) in found.items()
    ]


@torch.no_grad()
def evaluated(kind: str) -> list[dict[str, Any]]:
    rows, model = ROWS[kind](EVALUATED_ROWS, 1), state_of(kind).model.eval()
    exact, alone = state_of(kind, "float64").model.eval(), cut(kind, rows, [1] * EVALUATED_ROWS)
    truth = -float(sum((log_likelihood(exact, batch) for batch in alone), Total.zero()).mean())
    cells = []
    for size in EVALUATION_BATCHES:
        sizes = [min(size, EVALUATED_ROWS - first) for first in range(0, EVALUATED_ROWS, size)]
        totals = [log_likelihood(model, batch) for batch in cut(kind, rows, sizes)]
        value = -float(sum(totals, Total.zero()).mean())
        error = abs(value - truth) / truth
        cells.append(
            {"way": f"evaluation, batch {size}", "value": value, "token_mean": truth, "relative_value_error": error}
        )
    return cells


def ours() -> dict[str, Any]:
    """Our versions and cells, in the form of the peer's."""
    torch.set_num_threads(1)
    versions = {"python": platform.python_version(), "torch": torch.__version__, "thetahat": thetahat.__version__}
    cells = [
        {"model": name, "kind": kind, "loss": "Σ w log Pr / Z"} | cell
        for kind, name in {"encoder-only": "encoder", "decoder-only": "decoder", "encoder-decoder": "both"}.items()
        for cell in [*trained(kind), *evaluated(kind)]
    ]
    return {"peer": "thetahat", "versions": versions, "cells": cells}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(ours()) + "\n")
