"""Bytes against subwords at equal cost: novels, Python code, documentation in English and in Spanish.

    python -m benchmarks.study.vocabulary DATA --out benchmarks/results/study_vocabulary.json

One decoder with vocabularies of 257 (bytes), 512 and 2,048, trained on each text for so many steps that all take the
same operations, by `thetahat cost`. Bits per byte of what was held out do not depend on how a text is cut.
"""

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import thetahat as th
from benchmarks.study.common import arguments, config_of, read_texts, tell, trained, write_records
from benchmarks.study.depth import flops
from benchmarks.study.mixers import SHAPE
from thetahat.model.size import num_parameters
from thetahat.statistics.interval import bits_per_byte_interval

SIZES = (257, 512, 2048)
TRAINING = {**SHAPE, "data.context": 128, "batch_size": 8}
BYTES, HELD, NUM_HELD = 1_200_000, 600, 60  # of a text to train on; of a document that is held out, and how many


def texts_of(data: Path, name: str) -> Iterator[str]:
    """Documents of a few kilobytes of one kind."""
    match name:
        case "novels":
            for path in sorted((data / "books").glob("*.txt.gz")):
                with gzip.open(path, "rt", encoding="utf-8") as file:
                    text = file.read()
                yield from (text[at : at + 4000] for at in range(0, len(text), 4000))
        case "code":
            yield from (one["text"] for one in read_texts(data / "python_code" / "thealgorithms.jsonl.gz"))
        case _:
            part = "prompt" if name == "English documentation" else "completion"
            texts = [one[part] for one in read_texts(data / "pydocs_en_es" / "train.jsonl.gz")]
            yield from ("\n\n".join(texts[at : at + 20]) for at in range(0, len(texts), 20))


def files(data: Path, name: str, work: Path) -> tuple[Path, Path]:
    """What is trained on, and the beginnings of every tenth document up to there."""
    train, held, size = list[dict[str, str]](), list[dict[str, str]](), 0
    for number, text in enumerate(texts_of(data, name)):
        if number % 10 == 9 and len(held) < NUM_HELD:
            held.append({"id": str(number), "text": text[:HELD]})
        elif size < BYTES:
            train.append({"id": str(number), "text": text})
            size += len(text.encode())
    folder = work / name.replace(" ", "-")
    return write_records(folder / "train.jsonl", train), write_records(folder / "held.jsonl", held)


def main() -> None:
    more: dict[str, Any] = {"--steps": {"type": int, "default": 150}}
    more["--texts"] = {"nargs": "+", "default": ["novels", "code", "English documentation", "Spanish documentation"]}
    asked = arguments(__doc__ or "", more=more)
    work = asked.work / "vocabulary"
    told: dict[str, Any] = {"training": TRAINING}
    for seed in asked.seeds:
        for name in asked.texts:
            train, held = files(asked.data, name, work)
            base = {**TRAINING, "data.train": train, "data.held_out": "none", "seed": seed}
            budget = asked.steps * flops(config_of({**TRAINING, "data.vocab_size": 512, "max_steps": 1}))
            for size in SIZES:
                keys = {**base, "data.vocab_size": size}
                steps = round(budget / flops(config_of({**TRAINING, "data.vocab_size": size, "max_steps": 1})))
                ours = config_of({**keys, "max_steps": steps})
                run = trained(work / name.replace(" ", "-") / f"{size}-{seed}", ours)
                ledger = run / "held.parquet"
                if not ledger.is_file():
                    th.score(str(run), [str(held)], out=ledger)
                rows, _ = th.read_ledger(ledger)
                sizes, tokens = ([getattr(one, what) for one in rows] for what in ("num_bytes", "num_tokens"))
                told[f"{name}, {size}, {seed}"] = {
                    "bits_per_byte": list(bits_per_byte_interval([one.log_prob for one in rows], sizes)),
                    "bytes_per_token": sum(sizes) / sum(tokens),
                    "bytes_read": steps * 1024 * sum(sizes) / sum(tokens),
                    "parameters": num_parameters(ours.model, size),
                    "steps": steps,
                }
                tell(told, asked.out)


if __name__ == "__main__":
    main()
