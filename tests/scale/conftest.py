"""Whole runs on several ranks, in every layout, beside the same run in one process."""

import json
import random
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.commands import ended, started, worlds

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "while", "wizards", "box", "in", "fog"]
RUN = """
recipe = "tiny"
seed = 3
device = "cpu"
dtype = "float64"
threads = 1
batch_size = 6
micro_batch_size = 2
max_steps = 12

[data]
train = "data.jsonl"
held_out = "held.jsonl"
context = 32
over_long = "split"
vocab_size = 300

[model]
kind = "decoder"
num_layers = 2
width = 16
num_heads = 4
num_kv_heads = 2
head_width = 8
inner_width = 24
ties_embeddings = true

[objective]
chunk_size = 16

[optimization]
clip = 0.5
ema = 0.9
matrices = { kind = "muon", learning_rate = 0.02, weight_decay = 0.1 }
embeddings = { kind = "adamw", learning_rate = 0.005 }
vectors = { kind = "adamw", learning_rate = 0.005 }
schedule = { kind = "wsd", warmup_steps = 4, decay = 0.5 }

[evaluation]
every = 4
ema = true

[checkpoint]
every = 3
keep = 2

[diagnosis]
every = 3
"""
SHAPE = (  # another kind of model begins with its own
    "model.num_layers=2",
    "model.width=16",
    "model.num_heads=4",
    "model.num_kv_heads=2",
    "model.head_width=8",
    "model.inner_width=24",
)
KINDS = {
    "decoder": (),
    "encoder": ("model.kind=encoder", *SHAPE, "objective.factorization.kind=masked"),
    "encoder-decoder": (
        "model.kind=encoder-decoder",
        *SHAPE,
        "model.num_encoder_layers=2",
        "objective.factorization.kind=spans",
    ),
    "shared-layers": ("model.shares_layers=true",),
    "states": ("model.layers=state-space,linear",),  # a run of the delta rule multiplies rounding: docs/decisions.md
    "latent": ("model.layers=[{kind='latent',latent_width=12,rotary_width=4},{}]",),
    "shared-keys": (
        *("model.num_layers=4", "model.attention.sharing=2", "model.value_embeddings.every=2"),
        *("model.embedding.smear.gate_width=9", "optimization.vectors.epsilon=1e-12"),
    ),
    "recomputed": ("recompute=1",),
    "adapter": ("base=base", "adapter.rank=4", "optimization.ema=none", "evaluation.ema=false"),
    "biases": (
        "data.vocab_size=301",
        "model.inner_width=25",
        "model.ties_embeddings=false",
        "model.attention.has_bias=true",
        "model.attention.has_output_bias=true",
        "model.mlp.has_bias=true",
        "model.head.has_bias=true",
        'samples.prompts=["the quick", "a"]',
    ),
    "new-rows": ("base=base", 'data.special_tokens=["<a>","<b>"]', 'frozen=["embedding.*"]'),
}
"""What is trained, beside a decoder with tied embeddings and a head in chunks."""


def texts(path, number, lengths, seed):
    chance = random.Random(seed)
    lines = [
        {"text": " ".join(chance.choice(WORDS) for _ in range(chance.choice(lengths))) + ".", "id": f"{path.stem}{i}"}
        for i in range(number)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture(scope="session")
def bench(tmp_path_factory):
    """A folder with data and a config."""
    folder = tmp_path_factory.mktemp("scale")
    texts(folder / "data.jsonl", 60, [3, 5, 2, 9, 4, 12, 7, 40], 0)
    texts(folder / "held.jsonl", 7, [4, 6, 20], 1)
    (folder / "tiny.toml").write_text(RUN)
    return folder


def trained(folder, name, size, *keys, recipe=("tiny.toml",), code=0, sets=()):
    """The run of this name, by so many ranks; the folder."""
    command = ["train", *recipe, "--out", name, "--quiet", *keys]
    ranks = worlds(size) if size > 1 else [{}]
    attempts = [started(folder, *command, environment=world, sets=sets) for world in ranks]
    done = [ended(attempt) for attempt in attempts]
    assert [one.returncode for one in done] == [code] * size, done[0].stderr + done[-1].stderr
    return folder / name


def newest(run) -> Path:
    return max((run / "checkpoints").glob("step-*"))


def tensors(run):
    """All tensors of its newest checkpoint, of the model, the optimizer and the average."""
    return {
        (path.stem, name): tensor
        for path in sorted(newest(run).glob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }


def names(run):
    """Of its newest checkpoint: each file of tensors, with the names, shapes and dtypes in it, as they are laid out."""
    return {path.name: header(path) for path in sorted(newest(run).glob("*.safetensors"))}


def header(path) -> bytes:
    """What stands before the tensors of a file."""
    content = path.read_bytes()
    return content[: 8 + int.from_bytes(content[:8], "little")]


def distance(ours, theirs):
    """The largest relative error over tensors, with its name."""
    assert ours.keys() == theirs.keys()
    errors = {
        name: float((ours[name].double() - one.double()).norm() / one.double().norm().clamp(min=1e-30))
        for name, one in theirs.items()
    }
    return max((error, name) for name, error in errors.items())


def written(run):
    """Its samples."""
    path = run / "samples.jsonl"
    return path.read_text() if path.exists() else ""


def lines(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def batches(run):
    """What was read in each step."""
    return [line["batch"] for line in lines(run) if "batch" in line]


def held_out(run):
    return [line["held_out_bits_per_byte"] for line in lines(run) if "held_out_bits_per_byte" in line]
