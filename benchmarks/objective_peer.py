"""What a step of Hugging Face's Trainer minimises, and what its evaluation reports, for three kinds of models.

    python -m venv peer && peer/bin/pip install torch transformers accelerate
    peer/bin/python benchmarks/objective_peer.py

One JSON object on standard output. Models are tiny, from configurations, with dropout off and initial weights wide
enough that rows differ in loss. Everything is Trainer's default but for a learning rate of zero, no clipping and rows
in order. Whose the loss is:

- the model's: as most users have it.
- the model's, accepts_loss_kwargs=False: the attribute by which a model class tells Trainer that it ignores the count
  of targets, set by hand for the models that ignore it and do not say so.
- compute_loss_func: the function that a user may write, as Trainer's documentation says.

A gradient that is zero but for rounding (BERT's key biases, to which softmax is blind) is compared with 10⁻³ of the
norm of all, so an exact way in float32 shows errors up to about 10⁻⁵.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import accelerate
import torch
import transformers
from objective_rows import END, MASK, PAD, VOCABULARY, decoder_rows, masked_rows, pair_rows
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    PrinterCallback,
    T5Config,
    T5ForConditionalGeneration,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

NO_TARGET = -100  # what Trainer counts as no target
TRAINED_ROWS, EVALUATED_ROWS, SEED = 8, 37, 0
WAYS = {  # rows in a batch, batches in a step: each is one step on all rows
    "batch 8": (8, 1),
    "batch 1, 8 accumulated": (1, 8),
    "batch 2, 4 accumulated": (2, 4),
    "batch 3, 3 accumulated (3+3+2)": (3, 3),
}
RANKS_WAY, RANKS = "batch 4, 2 ranks", 2
EVALUATION_BATCHES = (1, 2, 4, 8, 16, 37)
MODELS = {"BERT": "encoder-only", "Llama": "decoder-only", "T5": "encoder-decoder"}
MODELS_OWN, ATTRIBUTE, USERS = "the model's", "the model's, accepts_loss_kwargs=False", "compute_loss_func"
RUNS = [  # Llama's own loss needs no attribute
    (name, loss) for name in MODELS for loss in (MODELS_OWN, ATTRIBUTE, USERS) if (name, loss) != ("Llama", ATTRIBUTE)
]


def make_model(name: str) -> torch.nn.Module:
    """The same weights at each call."""
    torch.manual_seed(SEED)
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 128, "initializer_range": 0.2}
    sizes |= {"num_hidden_layers": 2, "num_attention_heads": 4, "pad_token_id": PAD, "eos_token_id": END}
    if name == "BERT":
        off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        return BertForMaskedLM(BertConfig(**sizes, **off))
    if name == "Llama":
        return LlamaForCausalLM(LlamaConfig(**sizes, bos_token_id=END))
    sizes = {"vocab_size": VOCABULARY, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4}
    sizes |= {"pad_token_id": PAD, "eos_token_id": END, "decoder_start_token_id": PAD}
    return T5ForConditionalGeneration(T5Config(**sizes, dropout_rate=0.0))


def make_rows(name: str, count: int, seed: int) -> list[dict[str, list[int]]]:
    """Rows in Trainer's terms: `input_ids`, and `labels` that are `NO_TARGET` where nothing is predicted."""
    if name == "Llama":
        return [{"input_ids": row, "labels": row} for row in decoder_rows(count, seed)]
    if name == "T5":
        return [{"input_ids": source, "labels": target} for source, target in pair_rows(count, seed)]
    rows = []
    for tokens, masked in masked_rows(count, seed):
        inputs = [MASK if place in masked else token for place, token in enumerate(tokens)]
        labels = [token if place in masked else NO_TARGET for place, token in enumerate(tokens)]
        rows.append({"input_ids": inputs, "labels": labels})
    return rows


class Collator:
    """Pads to the longest row of a batch; gives an encoder-decoder its inputs as `DataCollatorForSeq2Seq` does."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model

    def __call__(self, rows: list[dict[str, list[int]]]) -> dict[str, Tensor]:
        def padded(key: str, value: int) -> Tensor:
            return pad_sequence([torch.tensor(row[key]) for row in rows], batch_first=True, padding_value=value)

        batch = {"input_ids": padded("input_ids", PAD), "labels": padded("labels", NO_TARGET)}
        batch["attention_mask"] = (batch["input_ids"] != PAD).long()
        if isinstance(self.model, T5ForConditionalGeneration):
            batch["decoder_input_ids"] = self.model.prepare_decoder_input_ids_from_labels(batch["labels"])
        return batch


def summed_loss(name: str, logits: Tensor, labels: Tensor) -> Tensor:
    """Sum over targets of their negative log-probability, nats."""
    if name == "Llama":  # position i predicts token i + 1
        logits, labels = logits[:, :-1], labels[:, 1:]
    return cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=NO_TARGET, reduction="sum")


def make_trainer(name: str, loss: str, folder: str, **arguments: Any) -> Trainer:
    """A Trainer with its defaults, a learning rate of zero and no clipping."""

    def user_loss(outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int) -> Tensor:
        return summed_loss(name, outputs["logits"], labels) / num_items_in_batch

    model = make_model(name)
    if loss == ATTRIBUTE:
        model.accepts_loss_kwargs = False
    trainer = Trainer(
        model,
        TrainingArguments(
            folder,
            learning_rate=0.0,
            optim="sgd",
            max_grad_norm=0.0,
            max_steps=1,
            logging_steps=1,
            train_sampling_strategy="sequential",
            prediction_loss_only=True,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            seed=SEED,
            **arguments,
        ),
        data_collator=Collator(model),
        train_dataset=make_rows(name, TRAINED_ROWS, SEED),
        eval_dataset=make_rows(name, EVALUATED_ROWS, SEED + 1),
        compute_loss_func=user_loss if loss == USERS else None,
    )
    trainer.remove_callback(PrinterCallback)  # it writes to standard output
    return trainer


class Gradients(TrainerCallback):
    """Copies the gradients that the optimizer is about to use."""

    def __init__(self) -> None:
        self.found: dict[str, Tensor] = {}

    def on_pre_optimizer_step(self, *_: Any, model: torch.nn.Module, **__: Any) -> None:
        named = model.named_parameters()
        self.found = {key: weight.grad.detach().clone() for key, weight in named if weight.grad is not None}


def step(name: str, loss: str, batch: int, accumulated: int) -> tuple[float, dict[str, Tensor]]:
    """The loss that one step on all rows logs, and its gradients."""
    gradients = Gradients()
    sizes = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulated}
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(name, loss, folder, **sizes)
        trainer.add_callback(gradients)
        trainer.train()
    if trainer.state.global_step != 1 or trainer.state.epoch != 1.0:
        raise RuntimeError(f"Not one step on all rows: {trainer.state.global_step} steps, epoch {trainer.state.epoch}.")
    return next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry), gradients.found


def norm(gradients: dict[str, Tensor]) -> float:
    """Norm of all tensors together."""
    return sum(gradient.double().square().sum().item() for gradient in gradients.values()) ** 0.5


def relative_error(gradients: dict[str, Tensor], reference: dict[str, Tensor]) -> float:
    """The largest over tensors of ‖g − g₀‖ / max(‖g₀‖, 10⁻³ ‖G₀‖), G₀ all tensors of the reference."""
    if gradients.keys() != reference.keys():
        raise RuntimeError(f"Other tensors have gradients: {sorted(gradients.keys() ^ reference.keys())}.")
    floor = 1e-3 * norm(reference)
    return max(
        (gradients[key].double() - wanted.double()).norm().item() / max(wanted.double().norm().item(), floor)
        for key, wanted in reference.items()
    )


def trained_cells() -> list[dict[str, Any]]:
    """Of each model, loss and way: what a step logs and how far its gradient is from that of one batch of all rows."""
    cells = []
    with tempfile.TemporaryDirectory() as folder:
        launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={RANKS}", __file__]
        subprocess.run([sys.executable, *launch, "--ranks", folder], check=True, stdout=sys.stderr)
        for name, loss in RUNS:
            found = {way: step(name, loss, *sizes) for way, sizes in WAYS.items()}
            place = f"{folder}/{name}.{loss}"
            value = json.loads(Path(f"{place}.json").read_text(encoding="utf-8"))
            found[RANKS_WAY] = value, load_file(f"{place}.safetensors")
            reference = found["batch 8"][1]
            for way, (value, gradients) in found.items():
                error, ratio = relative_error(gradients, reference), norm(gradients) / norm(reference)
                cell = {"model": name, "kind": MODELS[name], "loss": loss, "way": way, "value": value}
                cells.append(cell | {"relative_gradient_error": error, "gradient_norm_ratio": ratio})
    return cells


def ranks_cells(folder: str) -> None:
    """What one of the ranks does: a step of each model and loss; the first rank writes what it found."""
    for name, loss in RUNS:
        value, gradients = step(name, loss, TRAINED_ROWS // RANKS, 1)
        if os.environ["RANK"] == "0":
            Path(f"{folder}/{name}.{loss}.json").write_text(json.dumps(value), encoding="utf-8")
            save_file(gradients, f"{folder}/{name}.{loss}.safetensors")


def token_mean(name: str) -> float:
    """Mean over all targets of all rows of their negative log-probability, a row at a time, without padding."""
    model = make_model(name).eval()
    total, targets = 0.0, 0
    for row in make_rows(name, EVALUATED_ROWS, SEED + 1):
        batch = Collator(model)([row])
        with torch.no_grad():
            total += summed_loss(name, model(**batch).logits.double(), batch["labels"]).item()
        labels = batch["labels"][:, 1:] if name == "Llama" else batch["labels"]
        targets += int((labels != NO_TARGET).sum())
    return total / targets


def evaluated_cells() -> list[dict[str, Any]]:
    """Of each model, loss and batch size: the `eval_loss` of Trainer and how far it is from the token mean."""
    cells = []
    for name, loss in RUNS:
        truth = token_mean(name)
        for batch in EVALUATION_BATCHES:
            with tempfile.TemporaryDirectory() as folder:
                value = make_trainer(name, loss, folder, per_device_eval_batch_size=batch).evaluate()["eval_loss"]
            cell = {"model": name, "kind": MODELS[name], "loss": loss, "way": f"evaluation, batch {batch}"}
            cells.append(
                cell | {"value": value, "token_mean": truth, "relative_value_error": abs(value - truth) / truth}
            )
    return cells


def versions() -> dict[str, str]:
    """What the figures hold for."""
    libraries = {library.__name__: library.__version__ for library in (torch, transformers, accelerate)}
    return {"python": platform.python_version()} | libraries


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--ranks", metavar="FOLDER", help="run as one of the ranks, started by the script itself")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    if chosen.ranks:
        ranks_cells(chosen.ranks)
    else:
        cells = trained_cells() + evaluated_cells()
        print(json.dumps({"peer": "transformers.Trainer", "versions": versions(), "cells": cells}))
