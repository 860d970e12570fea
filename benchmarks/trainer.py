"""The same decoder trained by thetahat and by Hugging Face's Trainer on a CPU: tokens a second, in turns.

    python benchmarks/trainer.py DATA [--rounds 3] [--steps 25] [--dtype bfloat16] [--out FILE]

A Qwen3 of 14M parameters with AdamW, in float32 or under autocast, on DATA (a folder with `books`, `sgd`, `clinc150`):

- `full`: rows of 512 targets of a long text, 8 a step;
- `dialogues`: 16 dialogues a step, each a text of its own; `short`: 64 short texts a step.

Trainer reads ragged texts in three ways: padded to the longest of a batch, its default; padded, and drawn by length;
and packed into one row by `DataCollatorWithFlattening`, with positions that begin anew. `thetahat` packs them, and asks
for about the same number of documents a step, in rows that its threads can share evenly. Counted are targets, never
padding. Each measurement is a process of its own, and the first five steps are not counted. Before that both compute
the likelihood of the same documents.
"""

import argparse
import gzip
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import thetahat as th
from thetahat.core.batch import Inputs
from thetahat.core.visibility import visibility_of

RESULTS = Path(__file__).with_name("results")
FIRST = 5  # steps that are not counted
SHAPE = {
    "model.width": 384,
    "model.num_layers": 6,
    "model.num_heads": 6,
    "model.num_kv_heads": 2,
    "model.head_width": 64,
    "model.inner_width": 1024,
    "model.ties_embeddings": "true",
    "model.attention.query_key_norm": "head",
    "data.vocab_size": 8192,
    "optimization.matrices": '{kind="adamw",learning_rate=0.0003}',
    "optimization.embeddings.learning_rate": 0.0003,
    "optimization.vectors.learning_rate": 0.0003,
    "optimization.clip": 1.0,
    "evaluation.every": 0,
    "evaluation.final": "false",
    "checkpoint.every": 0,
    "data.held_out": "none",
    "prompt": "",
}
TASKS: dict[str, dict[str, Any]] = {
    "full": {"data.context": 512, "batch_size": 8, "data.over_long": "split"},
    "dialogues": {"data.context": 512, "data.over_long": "drop"},
    "short": {"data.context": 160, "data.over_long": "drop"},
}
DOCUMENTS = {"full": 8, "dialogues": 16, "short": 64}  # of a step of Trainer
WAYS = {"full": ["ours", "padded"], "dialogues": ["ours", "padded", "by length", "packed"]}
WAYS["short"] = WAYS["dialogues"]


def texts(data: Path, task: str) -> list[str]:
    """The documents of one kind."""
    if task == "full":
        with gzip.open(sorted((data / "books").glob("*.txt.gz"))[0], "rt", encoding="utf-8") as file:
            return [file.read()]
    name = "sgd" if task == "dialogues" else "clinc150"
    with gzip.open(data / name / "train.jsonl.gz", "rt", encoding="utf-8") as file:
        records = [json.loads(line) for line in file]
    if task == "dialogues":
        return ["\n".join(f"{one['role']}: {one['content']}" for one in each["messages"]) for each in records]
    return [each["prompt"] for each in records]


def config(task: str, train: Path, steps: int, dtype: str) -> th.RunConfig:
    """The run of thetahat."""
    keys = {**SHAPE, **TASKS[task], "data.train": train, "max_steps": steps, "device": "cpu", "dtype": dtype}
    made = th.override(th.find_recipe("quickstart"), [f"{name}={value}" for name, value in keys.items()])
    if task == "full":
        return made
    data = th.prepare(made)  # rows that hold as many documents as a batch of Trainer
    targets = float(data.train.lengths.sum() - len(data.train.lengths))
    rows = DOCUMENTS[task] * targets / len(data.train.lengths) / made.data.context
    threads = len(os.sched_getaffinity(0))
    rows = threads * max(1, round(rows / threads))  # as many for each thread
    return th.override(made, [f"batch_size={rows}"])


def ours(made: th.RunConfig) -> float:
    """Targets a second, of the steps after the first."""
    with tempfile.TemporaryDirectory() as folder:
        clock, targets = list[float](), 0
        for report in th.train(made, Path(folder) / "run"):
            clock.append(time.perf_counter())
            targets += report.step.num_tokens if report.step and len(clock) > FIRST else 0
    return targets / (clock[-1] - clock[FIRST - 1])


def exported(made: th.RunConfig, folder: Path) -> Any:
    """The first model of the run as transformers loads it."""
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    from thetahat.interop.around import Around
    from thetahat.interop.write import WriteConfig, write_folder

    disable_progress_bar()
    model = th.first_model(made, th.prepare(made).tokenizer.vocab_size)
    parameters = {name: one.detach() for name, one in model.named_parameters()}
    write_folder(folder / "model", parameters, made.model, Around(), how=WriteConfig(dtype="float32"))
    return model, AutoModelForCausalLM.from_pretrained(folder / "model", attn_implementation="sdpa")


def sequences(made: th.RunConfig, task: str) -> list[dict[str, Any]]:
    """What Trainer reads: the token ids of each document, or of each row of a long text."""
    corpus = th.prepare(made).train
    tokens = corpus.tokens.astype("int64").tolist()
    if task == "full":
        length = made.data.context + 1
        return [{"input_ids": tokens[at : at + length]} for at in range(0, len(tokens) - length, length)]
    bounds = corpus.offsets.tolist()
    return [{"input_ids": tokens[low:high]} for low, high in itertools.pairwise(bounds)]


def theirs(made: th.RunConfig, task: str, way: str, steps: int) -> float:
    """The same of Trainer."""
    from transformers import DataCollatorWithFlattening, Trainer, TrainerCallback, TrainingArguments

    rows, targets, clock = sequences(made, task), list[int](), list[float]()

    def padded(batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        longest = max(len(one["input_ids"]) for one in batch)
        targets.append(sum(len(one["input_ids"]) - 1 for one in batch))
        lengths = [len(one["input_ids"]) for one in batch]
        ids = torch.zeros(len(batch), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for number, (one, length) in enumerate(zip(batch, lengths, strict=True)):
            ids[number, :length], mask[number, :length] = torch.tensor(one["input_ids"]), 1
        labels = ids.masked_fill(mask == 0, -100)
        whole = {} if bool(mask.all()) else {"attention_mask": mask}  # without one, attention is told only causal
        return {"input_ids": ids, "labels": labels, **whole}

    flat = DataCollatorWithFlattening()

    def packed(batch: list[dict[str, Any]]) -> Any:
        targets.append(sum(len(one["input_ids"]) - 1 for one in batch))
        return flat(batch)

    class Clock(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            clock.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        _, model = exported(made, Path(folder))
        arguments = TrainingArguments(
            folder,
            use_cpu=True,
            bf16=made.dtype == "bfloat16",
            per_device_train_batch_size=DOCUMENTS[task],
            max_steps=steps,
            learning_rate=3e-4,
            adam_beta2=0.98,
            optim="adamw_torch_fused",
            logging_strategy="no",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
            train_sampling_strategy="group_by_length" if way == "by length" else "random",
        )
        collator = packed if way == "packed" else padded
        Trainer(model, arguments, collator, rows, callbacks=[Clock()]).train()
    counted = targets[: len(clock)]  # the loader may be a batch ahead
    return sum(counted[FIRST:]) / (clock[-1] - clock[FIRST - 1])


def check(made: th.RunConfig, task: str) -> float:
    """The largest relative difference of the likelihoods of eight documents; more than rounding is an error."""
    with tempfile.TemporaryDirectory() as folder:
        model, theirs = exported(made, Path(folder))
        apart = []
        for one in sequences(made, task)[:8]:
            ids = torch.tensor([one["input_ids"]])
            read = ids[:, :-1]
            inputs = Inputs(read, torch.arange(read.shape[1])[None], visibility_of(torch.zeros_like(read)))
            with torch.no_grad():
                here = model.head(model.hidden(inputs)[0])
                there = theirs(input_ids=read).logits[0]
            sums = [float(each.double().log_softmax(-1).gather(1, ids[0, 1:, None]).sum()) for each in (here, there)]
            apart.append(abs(sums[0] - sums[1]) / abs(sums[0]))
    assert max(apart) < 1e-5, apart
    return max(apart)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--out", type=Path, default=RESULTS / "trainer.json")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if asked.one:
            task, way = asked.one
            train = Path(os.environ["TRAINER_TEXTS"])
            made = config(task, train, asked.steps, "float32" if way == "check" else asked.dtype)
            if way == "check":
                print(json.dumps(check(made, task)))
            else:
                print(json.dumps(ours(made) if way == "ours" else theirs(made, task, way, asked.steps)))
            return
        found: dict[str, Any] = {"steps": asked.steps, "dtype": asked.dtype, "threads": len(os.sched_getaffinity(0))}
        for task in asked.tasks:
            train = Path(folder) / f"{task}.jsonl"
            train.write_text("".join(json.dumps({"text": one}) + "\n" for one in texts(asked.data, task)))
            environment = os.environ | {"TRAINER_TEXTS": str(train), "THETAHAT_CACHE": folder}

            def one(way: str, task: str = task, environment: dict[str, str] = environment) -> float:
                words = [sys.executable, __file__, str(asked.data), "--steps", str(asked.steps), "--dtype", asked.dtype]
                words += ["--one", task, way]
                done = subprocess.run(words, env=environment, capture_output=True, text=True)
                if done.returncode:
                    raise SystemExit(done.stderr[-3000:])
                return json.loads(done.stdout.splitlines()[-1])

            told: dict[str, Any] = {"likelihoods_apart": one("check")}
            rates = {way: [] for way in WAYS[task]}
            for _ in range(asked.rounds):
                for way in WAYS[task]:
                    rates[way].append(one(way))
            told["targets_per_second"] = {way: statistics.median(each) for way, each in rates.items()}
            told["ours_over"] = {
                way: statistics.median([a / b for a, b in zip(rates["ours"], each, strict=True)])
                for way, each in rates.items()
                if way != "ours"
            }
            found[task] = told
            print(task, json.dumps(told), flush=True)
            asked.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
