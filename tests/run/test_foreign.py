"""Folders of transformers as MODEL and as base: whatever made them, they are scored, tuned, resumed and verified."""

import json

import pytest
import torch
from msgspec.structs import replace
from safetensors.torch import load_file, save_file

from tests.examples import SENTENCE, lively, run_config
from tests.run.test_base import SHAPE, dialogues, ran, write
from thetahat.core import store
from thetahat.core.errors import ConfigError, ModelError
from thetahat.data.config import DataConfig
from thetahat.data.tokens.roles import Roles
from thetahat.data.tokens.tokenizer import train_tokenizer
from thetahat.distribution.world import World
from thetahat.interop.around import Around
from thetahat.interop.write import WriteConfig, write_folder
from thetahat.model.adapters.config import LoRAConfig
from thetahat.model.build import build_model
from thetahat.model.config import (
    AttentionConfig,
    AttentionMixer,
    DecoderConfig,
    EmbeddingConfig,
    EncoderConfig,
    EncoderDecoderConfig,
    HeadConfig,
    LayerNormConfig,
    LearnedPositions,
    MLPConfig,
    RelativeConfig,
    TransformConfig,
    Unrotated,
)
from thetahat.objective.config import Labels, Masked, ObjectiveConfig
from thetahat.proof.bench import Bench
from thetahat.recipes.fine_tuning import fine_tuning
from thetahat.run.base import parameters_of, refuse_typed, resolved
from thetahat.run.folder import stored as stored_module
from thetahat.run.folder.checkpoint import read_config
from thetahat.run.folder.files import CARD, MODEL
from thetahat.run.folder.stored import find_model
from thetahat.run.prepare import prepare
from thetahat.run.train import train
from thetahat.verbs.compare import compare
from thetahat.verbs.load import find_checkpoint, load
from thetahat.verbs.merge import merge
from thetahat.verbs.score import score
from thetahat.verbs.verify import verify

SIZES = SHAPE | {"num_kv_heads": 2}
PLAIN = {"attention": AttentionConfig(query_key_norm="none"), "layers": (AttentionMixer(positions=Unrotated()),)}
BIASED = {
    "norm": LayerNormConfig(),
    "attention": AttentionConfig(query_key_norm="none", has_bias=True, has_output_bias=True),
    "layers": (AttentionMixer(positions=Unrotated()),),
    "mlp": MLPConfig(is_gated=False, activation="gelu", has_bias=True),
    "ties_embeddings": True,
}
GPT2 = DecoderConfig(
    **SIZES | BIASED | {"mlp": MLPConfig(is_gated=False, activation="gelu_tanh", has_bias=True)},
    embedding=EmbeddingConfig(positions=LearnedPositions(number=64)),
)
BERT = EncoderConfig(
    **SIZES | BIASED,
    placement="post",
    embedding=EmbeddingConfig(positions=LearnedPositions(number=64), num_types=2, has_norm=True),
    head=HeadConfig(transform=TransformConfig(), has_bias=True),
)
T5 = EncoderDecoderConfig(
    **SIZES | PLAIN | {"attention": AttentionConfig(query_key_norm="none", scale=1.0, relative=RelativeConfig())},
    num_encoder_layers=1,
    mlp=MLPConfig(is_gated=False, activation="relu"),
    ties_embeddings=True,
    head=HeadConfig(scale=SIZES["width"] ** -0.5),
)
MODELS = {"llama": DecoderConfig(**SHAPE, attention=AttentionConfig(query_key_norm="none")), "gpt2": GPT2}
MODELS |= {"bert": BERT, "t5": T5, "bare": replace(BERT, head=HeadConfig())}
ROWS = 311  # of the tables, more than the tokenizer has ids


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([SENTENCE], 300, ["<|mask|>"])


@pytest.fixture
def folder(tmp_path, tokenizer, monkeypatch):
    """Writes one of the models above as transformers would."""
    monkeypatch.setenv("THETAHAT_CACHE", str(tmp_path / "cache"))

    def written(name):
        config, end = MODELS[name], tokenizer.roles.eos
        around = Around(roles=Roles(eos=end, start=end[0]), context=64, tokenizer=tokenizer.to_json())
        model = lively(build_model(config, ROWS), torch.float32)
        how = WriteConfig(family="bert", has_head=False) if name == "bare" else WriteConfig(family=name)
        write_folder(tmp_path / name, dict(model.named_parameters()), config, around, None, how)
        return str(tmp_path / name)

    return written


@pytest.fixture
def texts(tmp_path):
    return write(tmp_path / "texts.jsonl", [{"text": f"{SENTENCE[:60]} {i}"} for i in range(6)])


@pytest.fixture
def made(tmp_path):
    return write(tmp_path / "pairs.jsonl", [{"prompt": word, "completion": word[::-1]} for word in SENTENCE.split()])


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert", "t5"])
def test_every_kind_of_folder_is_scored_and_its_rows_beyond_the_tokenizer_stay(name, folder, texts, made):
    loaded = load(folder(name))
    assert loaded.tokenizer.vocab_size < ROWS == loaded.model.head.num_outputs
    found = score(loaded, [made if name == "t5" else texts])
    assert found.summary.log_likelihood < 0
    assert found.metadata["model_sha256"] == find_model(str(loaded.folder)).digest


def tuning(base, data, **changes):
    read = DataConfig(train=data, held_out="none", context=changes.pop("context", 64), over_long="split")
    return run_config(DecoderConfig(), base=base, data=read, **{"max_steps": 4} | changes)


def test_training_goes_on_from_a_folder_to_the_same_bits_however_it_is_interrupted(tmp_path, folder, texts):
    base = folder("llama")
    whole = ran(tuning(base, texts), tmp_path / "whole")
    assert load(str(whole)).card.num_rows == ROWS
    first = parameters_of(find_model(str(whole.parent / "step-00000000")))
    theirs = dict(find_model(base).parameters())
    assert all(torch.equal(first[name], value.double()) for name, value in theirs.items())
    for _ in range(4):
        list(train(tuning(base, texts), tmp_path / "broken", max_minutes=0.0))
    last = load_file(find_checkpoint(str(tmp_path / "broken")) / MODEL)
    assert all(torch.equal(value, last[name]) for name, value in load_file(whole / MODEL).items())


def test_an_adapter_of_a_folder_takes_unused_rows_for_new_tokens_and_merges(tmp_path, folder, tokenizer):
    run = ran(dialogues(tmp_path, folder("llama"), adapter=LoRAConfig(rank=2)), tmp_path / "tuned")
    saved = load_file(run / MODEL)
    assert saved["embedding.new_rows"].shape[0] == ROWS - tokenizer.vocab_size
    tuned = load(str(run))
    assert tuned.tokenizer.vocab_size == tokenizer.vocab_size + 2
    assert tuned.model.head.num_outputs == ROWS
    plain, _ = merge(str(run), tmp_path / "plain")
    text = [write(tmp_path / "some.jsonl", [{"text": SENTENCE}])]
    assert "num_rows" in (plain / CARD).read_text()
    scores = [score(load(str(model)), text).summary.log_likelihood for model in (run, plain)]
    assert scores[0] == pytest.approx(scores[1], rel=1e-6)


def test_a_folder_that_changed_since_is_not_the_base_any_more(tmp_path, folder, texts):
    base = folder("gpt2")
    run = ran(tuning(base, texts, max_steps=1), tmp_path / "run")
    path = tmp_path / "gpt2" / "model.safetensors"
    tensors = load_file(path)
    tensors["transformer.ln_f.weight"] += 1
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(ModelError, match="another model than the one that was started from"):
        list(train(read_config(run), tmp_path / "run"))


def test_no_more_positions_are_read_than_were_learned(folder, texts):
    base = folder("gpt2")
    with pytest.raises(ConfigError, match=r"context=65 is more than the 64 positions(.|\n)*try: context=64"):
        load(base, ("context=65",))
    with pytest.raises(ConfigError, match=r"data\.context=65 is more than the 64 positions"):
        list(train(tuning(base, texts, context=65), None))
    assert load(base, ("context=8",)).policy.context == 8


def test_a_folder_without_a_head_is_the_base_of_a_classifier_alone(tmp_path, folder, texts):
    base = folder("bare")
    with pytest.raises(ModelError, match="no head over its vocabulary"):
        load(base)
    with pytest.raises(ModelError, match="no head over its vocabulary"):
        list(train(_encoder(base, texts, Masked()), tmp_path / "no"))
    labels = write(tmp_path / "labels.jsonl", [{"text": w, "label": str(len(w) % 2)} for w in SENTENCE.split()])
    run = ran(_encoder(base, labels, Labels()), tmp_path / "classifier")
    first = parameters_of(find_model(str(run.parent / "step-00000000")))
    theirs = dict(find_model(base).parameters())
    assert torch.equal(first["blocks.0.mlp.up.weight"], theirs["blocks.0.mlp.up.weight"].double())


def _encoder(base, data, factorization):
    config = DataConfig(train=data, held_out="none", context=64, over_long="truncate-left")
    objective = ObjectiveConfig(factorization=factorization)
    return run_config(EncoderConfig(), base=base, data=config, objective=objective, max_steps=1)


@pytest.mark.parametrize("name", ["gpt2", "bert", "t5"])
def test_the_objective_of_a_folder_does_not_depend_on_how_a_batch_is_cut(name, folder, texts, made):
    base, train_on = folder(name), made if name == "t5" else texts
    data = DataConfig(train=train_on, held_out="none", context=64, over_long="truncate-right")
    config = replace(fine_tuning(base, find_model(base).card), data=data, device="cpu", threads=1, batch_size=4)
    found = list(verify(config, ranks=()))
    assert [one.name for one in found if not one.holds] == []
    assert {"packed", "padded", "no-leak"} <= {one.name for one in found}


def test_ids_of_another_vocabulary_are_passed_over_and_named(folder, tokenizer, texts, caplog):
    """A config that was written with another vocabulary in mind: transformers' defaults are GPT-2's."""
    base = folder("gpt2")
    for path in (find_model(base).folder / name for name in ("config.json", "generation_config.json")):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": 50256}))
    loaded = load(base)
    assert "eos_token_id=50256 is passed over" in caplog.text
    assert loaded.tokenizer.roles.eos == tokenizer.roles.eos
    assert score(loaded, [texts]).summary.num_documents == 6


def test_two_models_are_compared_at_the_context_of_the_one_that_reads_fewer(tmp_path, folder, texts):
    """Documents of 30 tokens and more: cut in windows by one, and whole in the other."""
    tuned = ran(tuning(folder("llama"), texts, context=16, max_steps=1), tmp_path / "tuned")
    found = compare(folder("gpt2"), str(tuned), [texts])
    assert [policy.count("context=16") for policy in (found.policy_a, found.policy_b)] == [1, 1]


def test_the_proof_is_of_the_parameters_of_the_folder(folder, texts):
    base = folder("gpt2")
    data = DataConfig(train=texts, held_out="none", context=64, over_long="truncate-right")
    config = resolved(replace(fine_tuning(base, find_model(base).card), data=data, device="cpu", threads=1))
    bench = Bench(config, prepare(config, None, World()), "float64")
    theirs = dict(find_model(base).parameters())
    for name, parameter in bench.state().model.named_parameters():
        assert torch.equal(parameter, theirs[name].double()), name


def test_a_folder_is_hashed_and_its_tokenizer_read_once_however_often_it_is_asked(tmp_path, folder, texts, monkeypatch):
    base, hashed, read = folder("gpt2"), [], []
    digest, tokenizer = store.digest_file, stored_module.load_tokenizer
    monkeypatch.setattr(store, "digest_file", lambda path, *told: hashed.append(path) or digest(path, *told))
    monkeypatch.setattr(stored_module, "load_tokenizer", lambda *told: read.append(1) or tokenizer(*told))
    config = tuning(base, texts)
    refuse_typed(config, {}, {})
    assert hashed == []
    ran(config, tmp_path / "run")
    assert (hashed.count(tmp_path / "gpt2" / "model.safetensors"), len(read)) == (1, 1)
