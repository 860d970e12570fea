"""Attention, windows and recurrences at equal parameters and equal tokens, on long documents.

    python -m benchmarks.study.mixers DATA --out benchmarks/results/study_mixers.json

Decoders of 4 layers and width 48 that differ in what mixes positions; the inner width of their networks is changed
until all have the parameters of the first. Each reads the same rows of 512 tokens of Python Enhancement Proposals in
the same order. Then the beginnings of documents that were held out are scored, each read at once, which is longer than
what was trained on, and by attention also in windows of 512: bits per byte by position, with intervals over documents,
and the difference to attention in windows, document by document. Pairs of tokens that stand in one of these documents
alone say how much is recalled: what the second costs where the pair is new, and where it comes again, by distance
(Arora et al., Zoology, 2023, arXiv 2312.04927).
"""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

import thetahat as th
from benchmarks.study.common import SMALL, arguments, config_of, curve, read_texts, sized, tell, trained, write_records
from thetahat.model.size import num_parameters
from thetahat.statistics.interval import ratio_interval

MIXERS = {
    "attention": "1x attention",
    "window": "[{distance=64}]",
    "linear": "1x linear",
    "linear, decay": '[{kind="linear",decay="learned"}]',
    "delta": "1x delta",
    "state-space": "1x state-space",
    "hybrid": "3x delta, 1x attention",
}
CONTEXT, LONG = 512, 2048
EDGES = (0, 16, 64, 128, 256, 512, 1024, 2048)  # of positions
DISTANCES = (1, 16, 64, 256, 2048)  # to where a pair stood before
NUM_HELD, BEGINNING = 32, 3500  # documents that are scored, and characters of each
SHAPE = {"model.width": 48, "model.num_heads": 3, "model.num_kv_heads": 3, "model.inner_width": 144}
TRAINING = {**SHAPE, "data.context": CONTEXT, "batch_size": 2, "max_steps": 1000}


def long_documents(data: Path, work: Path, beginning: int = BEGINNING) -> tuple[Path, Path]:
    """Proposals of 12 to 40 kilobytes: what is trained on, and the beginnings of others."""
    texts = [one for one in read_texts(data / "peps" / "peps.jsonl.gz") if 12_000 < len(one["text"]) < 40_000]
    records = [{"id": one["id"], "text": one["text"]} for one in texts]
    held, train = records[::10][:NUM_HELD], [one for number, one in enumerate(records) if number % 10][:160]
    beginnings = [{**one, "text": one["text"][:beginning]} for one in held]
    return write_records(work / "train.jsonl", train), write_records(work / "held.jsonl", beginnings)


def config(layers: str, train: Path, keys: Mapping[str, Any], target: int = 0) -> th.RunConfig:
    """A decoder with these layers and so many parameters."""
    made = config_of({"data.train": train, "data.held_out": "none", "model.layers": layers, **keys})
    if not target:
        return made
    inner = sized(made.model, made.data.vocab_size, target).inner_width
    return th.override(made, [f"model.inner_width={inner}"])


def cells(tokens: Path) -> dict[str, Any]:
    """Nats and bytes by document and bucket of positions."""
    table = pq.read_table(tokens)
    names = table["id"].to_pylist()
    documents = list(dict.fromkeys(names))
    row = np.array([documents.index(name) for name in names])
    bucket = np.searchsorted(EDGES, table["position"].to_numpy(), side="right") - 1
    nats, sizes = np.zeros((2, len(documents), len(EDGES) - 1))
    np.add.at(nats, (row, bucket), table["log_prob"].to_numpy())
    np.add.at(sizes, (row, bucket), table["num_bytes"].to_numpy())
    return {"bits": -nats / np.log(2), "bytes": sizes}


def scored(run: Path, held: Path, context: int) -> dict[str, Any]:
    """The ledger, and what it comes to by position."""
    ledger, tokens = run / f"{context}.parquet", run / f"{context}.tokens.parquet"
    if not tokens.is_file():
        th.score(th.load(str(run), (f"context={context}",)), [str(held)], out=ledger, tokens=tokens)
    return cells(tokens)


def by_position(ours: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """Bits per byte in each bucket, and how many more than the base's, with 95 % intervals over documents."""
    whole = ratio_interval(ours["bits"].sum(1), ours["bytes"].sum(1))
    more = ratio_interval((ours["bits"] - base["bits"]).sum(1), ours["bytes"].sum(1))
    told: dict[str, Any] = {
        "whole": list(whole),
        "whole_more": list(more),
        "bits_per_byte": [],
        "more_than_attention": [],
    }
    for bucket in range(len(EDGES) - 1):
        there = ours["bytes"][:, bucket] > 0
        sizes = ours["bytes"][there, bucket]
        difference = ours["bits"][there, bucket] - base["bits"][there, bucket]
        told["bits_per_byte"].append(list(ratio_interval(ours["bits"][there, bucket], sizes)))
        told["more_than_attention"].append(list(ratio_interval(difference, sizes)))
    return told


def recalled(tokens: Path) -> dict[str, Any]:
    """Nats of the second token of pairs of one document alone: where they are new, and again by distance."""
    table = pq.read_table(tokens)
    names, token, nats = table["id"].to_pylist(), table["token"].to_pylist(), -table["log_prob"].to_numpy()
    found: dict[tuple[int, int], list[int]] = {}
    for place in range(1, len(token)):
        if names[place] == names[place - 1]:
            found.setdefault((token[place - 1], token[place]), []).append(place)
    alone = [places for places in found.values() if len({names[place] for place in places}) == 1]
    again = [(place, place - before) for places in alone for before, place in pairwise(places)]
    told = {"new": over_documents(names, nats, [places[0] for places in alone])}
    for low, high in pairwise(DISTANCES):
        told[f"again {low}-{high - 1}"] = over_documents(names, nats, [at for at, far in again if low <= far < high])
    return told


def over_documents(names: list[str], nats: Any, places: list[int]) -> list[float]:
    """The mean over places, its interval over documents, and how many places there are."""
    _, document = np.unique([names[place] for place in places], return_inverse=True)
    return [*ratio_interval(np.bincount(document, nats[places]), np.bincount(document)), len(places)]


def compared(base: Path, ours: Path) -> list[Any]:
    """What `thetahat compare` says: bits per byte that ours saves, their interval, and p."""
    found = th.compare(base, ours).whole.to_dict()
    return [found["bits_per_byte_saved"], *found["bits_per_byte_saved_ci95"], found["p_value"]]


def main() -> None:
    asked = arguments(__doc__ or "", more={"--mixers": {"nargs": "+", "default": list(MIXERS)}})
    work = asked.work / "mixers"
    train, held = long_documents(asked.data, work)
    model, vocab_size = config(MIXERS["attention"], train, TRAINING).model, SMALL["data.vocab_size"]
    target = num_parameters(model, vocab_size)
    runs: dict[str, Any] = {}
    for seed in asked.seeds:
        first = work / "attention" / str(seed)
        for name in asked.mixers:
            ours = config(MIXERS[name], train, {**TRAINING, "seed": seed}, target)
            run = trained(work / name.replace(", ", "-") / str(seed), ours)
            told = {"layers": MIXERS[name], "parameters": num_parameters(ours.model, vocab_size)}
            told["inner_width"] = ours.model.inner_width
            told["training_nats_per_token"] = -float(np.mean(curve(run)[-30:]))
            if name == "attention":
                base = scored(run, held, CONTEXT)
                runs[f"attention in windows {seed}"] = told | by_position(base, base)
            told |= by_position(scored(run, held, LONG), base)
            told["recalled"] = recalled(run / f"{LONG}.tokens.parquet")
            if name != "attention":
                told["saves_over_attention"] = compared(first / f"{LONG}.parquet", run / f"{LONG}.parquet")
            runs[f"{name} {seed}"] = told
            tell({"edges": EDGES, "training": TRAINING, **runs}, asked.out)


if __name__ == "__main__":
    main()
