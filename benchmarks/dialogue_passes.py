"""All turns of a dialogue in one pass, against a pass for each turn: the same numbers, and how much sooner.

    python benchmarks/dialogue_passes.py DIALOGUES.jsonl [--device cuda] [--dtype bfloat16] [--out results.json]

For every bundled template: the largest difference of a turn's log-probability between the tree of a dialogue, packed
with others, and the turn alone behind its own inference prompt, in nats a token, over the first 200 dialogues. Then,
for dialogues of six assistant turns: the time of forward and backward over all of them in one pass and in six, both
packed into rows of 1,024 positions, medians of alternating runs; and the ratio of the positions that are read. On a
GPU also the most memory that each of the two takes at once. `--dtype` is that of the products that are timed; numbers
are compared in float32.
"""

import argparse
import itertools
import json
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from thetahat.core.batch import Batch
from thetahat.data.chat.encode import ChatOptions
from thetahat.data.chat.template import TEMPLATES
from thetahat.data.config import DataConfig
from thetahat.data.corpus.build import build_corpus
from thetahat.data.corpus.corpus import Corpus
from thetahat.data.corpus.encode import Encoding
from thetahat.data.order.pack import lay
from thetahat.data.order.plan import Plan, gather, plan_training
from thetahat.data.read.record import Record
from thetahat.data.read.texts import read_records
from thetahat.data.tokens.tokenizer import train_tokenizer
from thetahat.model.build import build_model
from thetahat.model.config import DecoderConfig, Dtype
from thetahat.model.init import initialize
from thetahat.model.precision import computing_in
from thetahat.objective.factorization import causal
from thetahat.objective.log_prob import reference
from thetahat.objective.objective import log_likelihood

CONTEXT, ROWS = 1024, 4
SHAPE = DecoderConfig(num_layers=4, width=256, num_heads=8, num_kv_heads=4, head_width=32, inner_width=704)
EXACT = DecoderConfig(num_layers=3, width=64, num_heads=4, num_kv_heads=2, head_width=16, inner_width=176)
TURNS, REPETITIONS = 6, 5


@dataclass(frozen=True)
class Laid:
    corpus: Corpus
    plan: Plan
    batches: list[Batch]

    @property
    def positions(self) -> int:
        return int(self.plan.pieces.size.sum())


def lay_out(records: list[Record], tokenizer: Any, template: str, *, shares: bool) -> Laid:
    options = ChatOptions(TEMPLATES[template], CONTEXT, shares_prefixes=shares)
    corpus = build_corpus(records, tokenizer, {}, None, Encoding(chat=options))
    config = DataConfig(context=CONTEXT)
    plan, _ = plan_training(corpus, config)
    pieces = lay(plan.pieces, CONTEXT, "best-fit")
    laid = replace(plan, pieces=pieces)
    bounds = np.searchsorted(pieces.row, np.arange(0, pieces.num_rows + ROWS, ROWS))
    groups = [np.arange(low, high) for low, high in itertools.pairwise(bounds) if high > low]
    return Laid(corpus, laid, [causal(gather(corpus, laid, index)) for index in groups])


@torch.no_grad()
def turns(model: Any, laid: Laid) -> dict[tuple[str, str], tuple[float, int]]:
    """The log-probability and the tokens of every turn, by record and name."""
    found: dict[tuple[str, str], tuple[float, int]] = {}
    for batch in laid.batches:
        batch = batch.to(model.device)
        hidden, targets = model.hidden(batch.inputs).flatten(0, 1), batch.targets.flatten()
        supervised = torch.arange(len(targets), device=model.device) if batch.supervised is None else batch.supervised
        nats = reference(hidden[supervised], model.head, targets[supervised]).log_prob.double().cpu()
        part = batch.part.flatten()[supervised].cpu()
        sums = torch.zeros(len(batch.parts), dtype=torch.float64).index_add_(0, part, nats)
        counts = torch.bincount(part, minlength=len(batch.parts))
        for number, one in enumerate(batch.parts.named()):
            if counts[number]:
                before = found.get((one.id, one.name), (0.0, 0))
                found[one.id, one.name] = before[0] + float(sums[number]), before[1] + int(counts[number])
    return found


def seconds(model: Any, laid: Laid, dtype: Dtype) -> float:
    start = time.perf_counter()
    for batch in laid.batches:
        with computing_in(dtype, model.device):
            total = log_likelihood(model, batch.to(model.device))
        (-total.log_prob).backward()
        model.zero_grad()
    if model.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_mebibytes(model: Any, laid: Laid, dtype: Dtype) -> float:
    torch.cuda.reset_peak_memory_stats()
    seconds(model, laid, dtype)
    return torch.cuda.max_memory_allocated() / 2**20


def compare(records: list[Record], template: str, device: str, *, timed: Dtype | None = None) -> dict[str, Any]:
    names = TEMPLATES[template].special_tokens
    tokenizer = train_tokenizer((text for record in records for text in record.texts), 2000, names)
    model = build_model(SHAPE if timed else EXACT, tokenizer.vocab_size)
    initialize(model, 0)
    model.to(device)
    one, many = (lay_out(records, tokenizer, template, shares=shares) for shares in (True, False))
    result: dict[str, Any] = {"template": template, "token_ratio": many.positions / one.positions}
    if timed:
        for laid in (one, many):
            seconds(model, laid, timed)  # kernels are compiled, memory is asked for
        pairs = [(seconds(model, one, timed), seconds(model, many, timed)) for _ in range(REPETITIONS)]
        result["seconds_one_pass"] = statistics.median(first for first, _ in pairs)
        result["seconds_k_passes"] = statistics.median(second for _, second in pairs)
        result["time_ratio"] = result["seconds_k_passes"] / result["seconds_one_pass"]
        result["share_of_token_ratio"] = result["time_ratio"] / result["token_ratio"]
        if device == "cuda":
            result["peak_mebibytes_one_pass"] = peak_mebibytes(model, one, timed)
            result["peak_mebibytes_k_passes"] = peak_mebibytes(model, many, timed)
        return result
    ours, theirs = turns(model, one), turns(model, many)
    assert ours.keys() == theirs.keys()
    assert all(ours[key][1] == theirs[key][1] for key in ours)
    result |= {
        "dialogues": len(records),
        "turns": len(ours),
        "branching_dialogues": int((np.bincount(one.corpus.column["spans.document"]) > 1).sum()),
        "max_difference_nats_per_token": max(abs(ours[key][0] - theirs[key][0]) / ours[key][1] for key in ours),
    }
    return result


def with_thoughts(record: Record) -> Record:
    """The same dialogue with a thought in front of every answer, which templates like qwen3 strip from the history."""

    def think(message: Any) -> Any:
        if message.role != "assistant":
            return message
        content = f"<think>\nThey said something; I answer it.\n</think>\n\n{message.fields['content']}"
        return replace(message, fields={**message.fields, "content": content})

    dialogue = replace(record.dialogue, messages=tuple(map(think, record.dialogue.messages)))
    return replace(record, dialogue=dialogue)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("dialogues", help="a .jsonl of messages")
    parser.add_argument("--out", metavar="FILE", help="where to write the raw numbers, as JSON")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of what is timed")
    chosen = parser.parse_args()
    records = list(read_records(chosen.dialogues))
    six = [r for r in records if sum(m.role == "assistant" for m in r.dialogue.messages) == TURNS][:48]
    thinking = [with_thoughts(record) for record in records[: chosen.count]]
    exact = [compare(thinking, name, chosen.device) for name in TEMPLATES]
    for row in exact:
        print(json.dumps(row), flush=True)
    pairs = (("chatml", six), ("qwen3", [*map(with_thoughts, six)]))
    times = [compare(some, name, chosen.device, timed=chosen.dtype) for name, some in pairs]
    for row in times:
        print(json.dumps(row), flush=True)
    if chosen.out:
        Path(chosen.out).write_text(json.dumps({"exact": exact, "times": times}, indent=1) + "\n", encoding="utf-8")
