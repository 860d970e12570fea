"""How many texts of a file get their own label: by the head of an encoder, or by the likeliest of all labels as text.

    python benchmarks/classification.py runs/NAME TEST.jsonl [--count N] [--out results.json]

For a decoder, log Pr(label | text) of every label that occurs in TEST: the text is read once, and each label is a
branch behind it. With the 95 % interval of Wilson (1927).
"""

import argparse
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from thetahat.core.batch import Packed
from thetahat.core.parts import Part, Parts
from thetahat.data.read.record import Record
from thetahat.data.read.texts import read_records
from thetahat.model.encoder import Encoder
from thetahat.objective.config import Labels, ObjectiveConfig
from thetahat.objective.factorization import causal, labels as ask_label
from thetahat.objective.log_prob import reference
from thetahat.verbs.load import Loaded, load


def wilson(hits: int, count: int, z: float = 1.959964) -> tuple[float, float]:
    share, width = hits / count, z * z / count
    middle, half = share + width / 2, z * math.sqrt(share * (1 - share) / count + width / count / 4)
    return (middle - half) / (1 + width), (middle + half) / (1 + width)


def packed_of(pieces: Sequence[Sequence[int]], parents: Sequence[int], starts: Sequence[int]) -> Packed:
    number = torch.tensor([index for index, piece in enumerate(pieces) for _ in piece])
    place = torch.tensor([j for piece in pieces for j in range(len(piece))])
    is_root = torch.tensor(parents)[number] < 0
    return Packed(
        tokens=torch.tensor([token for piece in pieces for token in piece]),
        weight=torch.where(is_root | (place == 0), 0.0, 1.0).double(),
        num_bytes=torch.zeros_like(number),
        position=place + torch.tensor(starts)[number],
        part=number,
        is_prompt=is_root,
        piece=number,
        row=torch.zeros(len(pieces), dtype=torch.int64),
        parent=torch.tensor(parents),
        seed=torch.zeros(len(pieces), dtype=torch.int64),
        parts=Parts(
            number=torch.arange(len(pieces)),
            weight=torch.ones(len(pieces), dtype=torch.float64),
            num_tokens=torch.ones(len(pieces), dtype=torch.int64),
            record_tokens=torch.ones(len(pieces), dtype=torch.int64),
            record_parts=torch.ones(len(pieces), dtype=torch.int64),
            has_prompt=torch.zeros(len(pieces), dtype=torch.bool),
            describe=lambda numbers: [Part(f"row{index}", f"row{index}", "rows") for index in numbers],
        ),
    )


@torch.inference_mode()
def by_branches(loaded: Loaded, record: Record, labels: Sequence[str], ids: Sequence[Sequence[int]]) -> str:
    frame = loaded.tokenizer.frames.text
    prompt = [*frame.before, *loaded.tokenizer.encode([record.prompt])[0]]
    pieces = [prompt, *([prompt[-1], *label, *frame.after] for label in ids)]
    packed = packed_of(pieces, [-1, *[0] * len(ids)], [0, *[len(prompt) - 1] * len(ids)])
    batch = causal(packed)
    hidden, targets = (
        loaded.model.hidden(batch.inputs).flatten(0, 1)[batch.supervised],
        batch.targets.flatten()[batch.supervised],
    )
    nats = reference(hidden, loaded.model.head, targets).log_prob.double()
    sums = torch.zeros(len(pieces), dtype=torch.float64).index_add_(0, batch.part.flatten()[batch.supervised], nats)
    return labels[int(sums[1:].argmax())]


@torch.inference_mode()
def by_head(loaded: Loaded, records: Sequence[Record]) -> list[str]:
    frame, objective = loaded.tokenizer.frames.text, ObjectiveConfig(factorization=Labels())
    found: list[str] = []
    for first in range(0, len(records), 64):
        texts = loaded.tokenizer.encode([record.prompt for record in records[first : first + 64]])
        pieces = [[*frame.around(text), 0] for text in texts]
        packed = packed_of(pieces, [-1] * len(pieces), [0] * len(pieces))
        packed.weight.fill_(1.0)
        rows = torch.arange(len(pieces))
        from dataclasses import replace

        batch = ask_label(replace(packed, row=rows, is_prompt=torch.zeros_like(packed.is_prompt)), objective)
        logits = loaded.model.head(loaded.model.hidden(batch.inputs).flatten(0, 1)[batch.supervised])
        found += [loaded.card.labels[index] for index in logits.argmax(-1).tolist()]
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--count", type=int, help="only so many texts, evenly spread")
    parser.add_argument("--out", metavar="FILE")
    chosen = parser.parse_args()
    loaded, records = load(chosen.model), list(read_records(chosen.data))
    known = sorted({record.text for record in records})
    if chosen.count:
        records = records[:: max(1, len(records) // chosen.count)][: chosen.count]
    start = time.perf_counter()
    if isinstance(loaded.model, Encoder):
        answers = by_head(loaded, records)
    else:
        ids = loaded.tokenizer.encode(known)
        answers = [by_branches(loaded, record, known, ids) for record in records]
    hits = sum(answer == record.text for answer, record in zip(answers, records, strict=True))
    result = {
        "model": str(loaded.folder),
        "kind": type(loaded.model).__name__,
        "texts": len(records),
        "accuracy": hits / len(records),
        "interval95": wilson(hits, len(records)),
        "seconds": time.perf_counter() - start,
    }
    print(json.dumps(result))
    if chosen.out:
        Path(chosen.out).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
