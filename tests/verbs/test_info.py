"""What is said of a model before it is loaded: counts hold, memory is that of a step that was measured."""

import json
import sys
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace
from safetensors.torch import load_file

from tests.examples import SENTENCE, run_config
from tests.verbs.test_families import LABELS, PAIRS, TEXTS
from thetahat.cli.main import main
from thetahat.core.config import override
from thetahat.core.errors import DamagedError, ModelError
from thetahat.data.config import DataConfig
from thetahat.distribution.world import World
from thetahat.model.adapters.config import LoRAConfig
from thetahat.model.attention.cache import Cache
from thetahat.model.config import DecoderConfig, EncoderConfig, EncoderDecoderConfig
from thetahat.model.memory import cache_bytes
from thetahat.model.size import num_parameters
from thetahat.objective.config import Causal, Conditional, Labels, Masked, ObjectiveConfig
from thetahat.proof.speed.living import Living
from thetahat.recipes.catalogue import RECIPES
from thetahat.run.branch import branch
from thetahat.run.prepare import prepare
from thetahat.run.state import first_state
from thetahat.run.step import step
from thetahat.run.train import train
from thetahat.verbs.info import info

SHAPE = {"num_layers": 2, "width": 48, "num_heads": 4, "num_kv_heads": 2, "head_width": 16, "inner_width": 96}
DECODER, ENCODER = DecoderConfig(**SHAPE), EncoderConfig(**SHAPE)
PAIR = EncoderDecoderConfig(**SHAPE, num_encoder_layers=2)


KINDS = {
    "decoder": (DECODER, Causal(), TEXTS, []),
    "bfloat16": (DECODER, Causal(), TEXTS, ["dtype=bfloat16"]),
    "chunks": (DECODER, Causal(), TEXTS, ["objective.chunk_size=16"]),
    "layer norms and a plain network": (
        *(DECODER, Causal(), TEXTS),
        ["model.norm.kind=layer", "model.mlp.is_gated=false", "model.mlp.activation=gelu"],
    ),
    "sandwich": (DECODER, Causal(), TEXTS, ["model.placement=sandwich", "model.attention.query_key_norm=none"]),
    "no norms in blocks": (DECODER, Causal(), TEXTS, ["model.placement=none"]),
    "capped scores": (DECODER, Causal(), TEXTS, ["model.attention.cap=50"]),
    "experts": (DECODER, Causal(), TEXTS, ["model.experts.num_experts=4"]),
    "experts in bfloat16": (
        *(DECODER, Causal(), TEXTS),
        ["dtype=bfloat16", "model.experts={num_chosen=3, inner_width=40, shared_width=56, num_dense=1}"],
    ),
    "masked": (ENCODER, Masked(rate=0.3), TEXTS, ["model.placement=post"]),
    "labels": (ENCODER, Labels(), LABELS, []),
    "pair": (PAIR, Conditional(), PAIRS, []),
    "relative": (PAIR, Conditional(), PAIRS, ["model.attention.relative.num_buckets=32"]),
}


def prepared_of(tmp_path, name):
    model, factorization, records, pairs = KINDS[name]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records * 8))
    data = DataConfig(train=str(tmp_path / "data.jsonl"), context=64, vocab_size=400, held_out="none")
    objective = ObjectiveConfig(factorization=factorization)
    config = run_config(model, data=data, objective=objective, dtype="float32", batch_size=8, micro_batch_size=4)
    (tmp_path / "run").mkdir()
    return prepare(override(config, pairs), tmp_path / "run", World())


@pytest.mark.parametrize("name", KINDS)
def test_the_memory_of_training_is_that_of_a_step(name, tmp_path):
    """Two micro-batches: when the second begins to be differentiated, the gradients are there, too."""
    prepared = prepared_of(tmp_path, name)
    config, batches = prepared.config, prepared.batches(0, World())
    labels = len(prepared.labels)
    with Living() as living:
        state = first_state(config, prepared.tokenizer.vocab_size, 4, torch.device("cpu"), labels)
        for batch in batches:
            batch.map(lambda tensor: (living.note([tensor]), tensor)[1])
        step(state, batches, World())
    of_run = replace(
        config, data=replace(config.data, labels=prepared.labels, vocab_size=prepared.tokenizer.vocab_size)
    )
    found = info(of_run).training
    assert found.parameters == 4 * sum(one.numel() for one in state.model.parameters())
    assert found.optimizer == sum(one.nbytes for one in state.optimizer.state().values() if one.ndim)
    assert 0.9 < found.total / living.most < 1.15


def test_the_memory_of_the_cache_is_that_of_a_cache():
    model = replace(DECODER, layers=override(DECODER, ["layers=[{distance=7},{},{distance=5,num_global=3}]"]).layers)
    model = replace(model, num_layers=3)
    cache = Cache(model, 1, 32, torch.zeros(1))
    for layer in cache.layers:
        layer.append(*torch.zeros(2, 1, model.num_kv_heads, 1, model.head_width))  # it is made with the first position
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    held += sum(layer.global_keys.nbytes + layer.global_values.nbytes for layer in cache.layers)
    assert cache_bytes(model, 32, "float32") == held
    assert cache_bytes(DECODER, 1, "float32") * 32 == cache_bytes(DECODER, 32, "float32")


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_parts_add_up_to_what_a_recipe_makes(recipe):
    config = RECIPES[recipe]()
    found = info(config)
    assert found.num_parameters == sum(found.parameters.values())
    assert found.num_parameters == num_parameters(config.model, config.data.vocab_size)
    assert not found.is_trained
    assert found.training.total > found.training.parameters * 3


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = DataConfig(train="my.txt", context=32, over_long="split", vocab_size=300, held_out="none")
    (tmp_path / "my.txt").write_text(f"{SENTENCE}\n" * 20)
    folder = tmp_path / "runs" / "mine"
    config = run_config(DECODER, data=data, dtype="float32", max_steps=2)
    for _ in train(config, folder):
        pass
    return folder


def said(*typed, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["thetahat", "info", *typed])
    main()
    return capsys.readouterr()


def test_a_run_is_told_from_its_headers_and_its_manifest(run, capsys, monkeypatch):
    found = json.loads(said("runs/mine", "--json", capsys=capsys, monkeypatch=monkeypatch).out)
    checkpoint = run / "checkpoints" / "step-00000002"
    weights = load_file(checkpoint / "model.safetensors")
    assert found["stored"] == {"F32": sum(one.numel() for one in weights.values())}
    assert found["num_parameters"] == found["stored"]["F32"] == found["num_trainable"]
    assert found["progress"]["step"] == 2
    manifest = json.loads((checkpoint / "MANIFEST.json").read_text())["files"]
    assert {one["name"]: (one["num_bytes"], one["sha256"]) for one in found["files"]} == {
        name: (entry["bytes"], entry["sha256"]) for name, entry in manifest.items()
    }
    shown = said("runs/mine", "batch_size=64", capsys=capsys, monkeypatch=monkeypatch).out
    assert "64 rows of 32 positions at once" in shown
    assert f"decoder of {found['num_parameters']:,} parameters" in shown


def test_no_weights_are_read(run, monkeypatch):
    (model := run / "checkpoints" / "step-00000002" / "model.safetensors").write_bytes(
        (whole := model.read_bytes())[:-8] + bytes(8)
    )
    assert info(str(run)).num_parameters > 0  # a flipped bit is none of its business
    model.write_bytes(whole[:-8])
    with pytest.raises((ModelError, DamagedError)):
        info(str(run))


def test_lineage_goes_on_to_the_first_ancestor(run):
    longer = branch("runs/mine", ["max_steps=3"])
    list(train(longer, Path("runs/b")))
    adapted = replace(longer, parent=None, base="runs/b", adapter=LoRAConfig(rank=2), max_steps=1)
    list(train(adapted, Path("runs/c")))
    found = info("runs/c")
    assert [(one.relation, one.name) for one in found.lineage] == [
        ("trained from", "runs/b"),
        ("branched from", "runs/mine@2"),
    ]
    assert found.adapter["rank"] == 2
    assert found.num_trainable == found.parameters["adapters"] == found.stored["F32"]
    assert found.training.gradients == 4 * found.num_trainable


def test_what_is_no_model_is_said(run, capsys, monkeypatch):
    for typed, expected in (
        (("runs/min",), "runs/mine"),
        (("quickstrat",), "quickstart"),
        (("quickstart", "lr=1"), "lr"),
    ):
        with pytest.raises(SystemExit):
            said(*typed, capsys=capsys, monkeypatch=monkeypatch)
        assert expected in capsys.readouterr().err
