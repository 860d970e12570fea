"""Pretrain, then fine-tune: from a run's parameters, with new tokens, an adapter, or a part frozen."""

import json

import pytest
import torch
from msgspec.structs import replace
from safetensors.torch import load_file

from tests.examples import SENTENCE, run_config
from thetahat.core.errors import ConfigError, ModelError
from thetahat.data.config import ChatConfig, DataConfig
from thetahat.data.tokens.tokenizer import train_tokenizer
from thetahat.model.adapters.config import LoRAConfig
from thetahat.model.adapters.lora import merge
from thetahat.model.adapters.rows import HeadWithRows, train_new_rows
from thetahat.model.config import DecoderConfig, EncoderConfig, ValueEmbeddingConfig
from thetahat.model.layers.head import Head
from thetahat.objective.config import Labels, Masked, ObjectiveConfig
from thetahat.run.base import new_tokens, parameters_of as parameters_of_stored
from thetahat.run.folder.files import MODEL
from thetahat.run.folder.stored import find_model
from thetahat.run.log.metrics import TIMES
from thetahat.run.train import train
from thetahat.verbs.explain import explain
from thetahat.verbs.load import find_checkpoint, load
from thetahat.verbs.score import score

SHAPE = {"num_layers": 1, "width": 16, "num_heads": 2, "num_kv_heads": 1, "head_width": 8, "inner_width": 24}
DIALOGUES = [
    {"messages": [{"role": "user", "content": f"say {word}"}, {"role": "assistant", "content": word * 2}]}
    for word in SENTENCE.split()
]
LABELS = [{"text": f"{word} {i}", "label": "even" if i % 2 else "odd"} for i, word in enumerate(SENTENCE.split())]


def parameters_of(folder):
    return parameters_of_stored(find_model(str(folder)))


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def ran(config, folder):
    for _ in train(config, folder):
        pass
    return find_checkpoint(str(folder))


@pytest.fixture
def texts(tmp_path, monkeypatch):
    monkeypatch.setenv("THETAHAT_CACHE", str(tmp_path / "cache"))
    return write(tmp_path / "texts.jsonl", [{"text": f"{SENTENCE} {i}"} for i in range(12)])


@pytest.fixture
def base(tmp_path, texts):
    data = DataConfig(train=texts, held_out="none", context=64, over_long="split", vocab_size=300)
    return str(ran(run_config(DecoderConfig(**SHAPE), data=data, max_steps=2), tmp_path / "base"))


def dialogues(tmp_path, base, **changes):
    data = DataConfig(
        train=write(tmp_path / "dialogues.jsonl", DIALOGUES),
        held_out="none",
        context=64,
        chat=ChatConfig(template="chatml"),
    )
    return run_config(DecoderConfig(), data=data, base=base, max_steps=2, **changes)


def test_a_run_starts_from_its_base_with_new_tokens_behind_the_old_ones(tmp_path, base):
    config = dialogues(tmp_path, base)
    checkpoint = ran(config, tmp_path / "tuned")
    before, first = load_file(f"{base}/{MODEL}"), load_file(checkpoint.parent / "step-00000000" / MODEL)
    old = len(before["embedding.weight"])
    assert len(first["embedding.weight"]) == old + 2  # <|im_start|>, <|im_end|>
    torch.testing.assert_close(first["embedding.weight"][:old], before["embedding.weight"], rtol=0, atol=0)
    assert not torch.equal(first["embedding.weight"][old], first["embedding.weight"][old + 1])
    for name in set(before) - {"embedding.weight", "head.weight"}:
        assert torch.equal(before[name], first[name])
    tuned = load(str(checkpoint))
    assert tuned.card.model == DecoderConfig(**SHAPE)
    assert tuned.tokenizer.special.keys() >= {"<|im_start|>", "<|im_end|>"}


def test_an_adapter_begins_as_its_base_and_is_saved_alone(tmp_path, base):
    config = dialogues(tmp_path, base, adapter=LoRAConfig(rank=2, also=("embedding.*", "head.*")))
    checkpoint = ran(config, tmp_path / "tuned")
    saved = load_file(checkpoint / MODEL)
    assert {name.rpartition(".")[2] for name in saved} == {"lora_in", "lora_out", "weight"}
    assert {name for name in saved if name.endswith("weight")} == {"embedding.weight", "head.weight"}
    first = load_file(checkpoint.parent / "step-00000000" / MODEL)
    assert all(not first[name].any() for name in first if name.endswith("lora_out"))
    assert any(saved[name].any() for name in saved if name.endswith("lora_out"))


@pytest.fixture
def tied(tmp_path, texts):
    data = DataConfig(train=texts, held_out="none", context=64, over_long="split", vocab_size=300)
    shape = DecoderConfig(**SHAPE, ties_embeddings=True)
    return str(ran(run_config(shape, data=data, max_steps=2), tmp_path / "tied"))


@pytest.mark.parametrize("name", ["base", "tied"])
@pytest.mark.parametrize("changes", [{"adapter": LoRAConfig(rank=2)}, {"frozen": ("*embedding.*", "blocks.*")}])
def test_rows_of_new_tokens_are_trained_beside_what_is_frozen(tmp_path, name, changes, request, caplog):
    caplog.set_level("INFO", "thetahat")
    config = dialogues(tmp_path, request.getfixturevalue(name), **changes)
    told = explain(config, 0)[1].new_tokens
    assert told.startswith("new tokens <|im_start|>, <|im_end|>: their rows are trained beside")
    last = ran(config, tmp_path / "tuned")
    assert told in caplog.text
    before, after = parameters_of(last.parent / "step-00000000"), parameters_of(last)
    tables = ["embedding.weight"] + ["head.weight"] * (name == "base" and "adapter" in changes)
    assert all(torch.equal(before[each][:-2], after[each][:-2]) for each in tables)
    assert all((before[each][-2:] != after[each][-2:]).any(1).all() for each in tables)
    blocks = {each: value for each, value in load_file(last / MODEL).items() if each.endswith("new_rows")}
    assert {each.replace("new_rows", "weight") for each in blocks} == set(tables)
    assert all(len(value) == 2 for value in blocks.values())


def test_a_run_with_new_rows_goes_on_to_the_same_bits_and_is_the_base_of_others(tmp_path, tied):
    config = dialogues(tmp_path, tied, adapter=LoRAConfig(rank=2))
    whole = load_file(ran(config, tmp_path / "whole") / MODEL)
    for _ in range(2):
        list(train(config, tmp_path / "broken", max_minutes=0.0))
    resumed = find_checkpoint(str(tmp_path / "broken"))
    assert all(torch.equal(value, load_file(resumed / MODEL)[name]) for name, value in whole.items())
    again = ran(dialogues(tmp_path, str(resumed), adapter=LoRAConfig(rank=2)), tmp_path / "again")
    first, mine = parameters_of(again.parent / "step-00000000"), parameters_of(resumed)
    assert all(torch.equal(first[name], mine[name]) for name in mine)


def test_blocks_of_new_rows_compute_what_whole_tables_do(tied):
    model = load(tied).model
    frozen = [parameter.requires_grad_(False) for parameter in model.parameters()]
    train_new_rows(model, 3)
    model.embedding.new_rows.data.normal_(generator=torch.Generator().manual_seed(0))
    assert model.head.new_rows is model.embedding.new_rows
    hidden, tokens = torch.randn(4, 16, dtype=torch.float64), torch.tensor([0, 1, 296, 297, 298, 299])
    vocab_size = model.head.num_outputs
    tokens = torch.cat([tokens, torch.arange(vocab_size - 5, vocab_size)])
    slices = [None, *(slice(first, first + width) for first in range(0, vocab_size, 37) for width in (1, 36, 37, 999))]
    grown = [model.head(hidden, each) for each in slices], model.embedding(tokens), model.head.weight
    model.head(hidden).sum().backward()
    assert all(parameter.grad is None for parameter in frozen)
    merge(model)
    plain = [model.head(hidden, each) for each in slices], model.embedding(tokens), model.head.weight
    torch.testing.assert_close(grown, plain, rtol=1e-12, atol=1e-12)
    assert model.head.weight is model.embedding.weight


def test_a_soft_cap_holds_for_new_rows():
    head = Head(3, 5, has_bias=True, cap=2.0)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=3.0)
    grown = HeadWithRows(head, torch.nn.Parameter(torch.ones(2, 3)))
    hidden = torch.randn(7, 3)
    logits = torch.nn.functional.linear(hidden, grown.weight, head.bias)
    torch.testing.assert_close(grown(hidden), 2 * torch.tanh(logits / 2))


@pytest.mark.parametrize("name", ["base", "tied"])
@pytest.mark.parametrize("also", [(), ("embedding.*",)])
def test_a_merged_adapter_computes_the_same(tmp_path, name, also, request):
    config = dialogues(tmp_path, request.getfixturevalue(name), adapter=LoRAConfig(rank=2, also=also))
    ran(config, tmp_path / "tuned")
    adapted, whole = (load(str(tmp_path / "tuned")) for _ in range(2))
    merge(whole.model)
    plain = parameters_of(adapted.folder)
    for name, value in whole.model.named_parameters():
        torch.testing.assert_close(value, plain[name].to(value), rtol=1e-12, atol=1e-14)
    data = [config.data.train]
    before, after = score(adapted, data), score(whole, data)
    assert after.summary.log_likelihood == pytest.approx(before.summary.log_likelihood, rel=1e-12)


def test_an_adapter_of_another_base_is_refused(tmp_path, base, texts):
    data = DataConfig(train=texts, held_out="none", context=64, over_long="split", vocab_size=300)
    config = dialogues(tmp_path, str(tmp_path / "base"), adapter=LoRAConfig(rank=2))
    ran(config, tmp_path / "tuned")
    import shutil

    shutil.rmtree(tmp_path / "base")
    ran(run_config(DecoderConfig(**SHAPE), data=data, max_steps=2, seed=5), tmp_path / "base")
    with pytest.raises(ModelError, match="is another model than the one that was started from, or adapted"):
        load(str(tmp_path / "tuned"))


def test_frozen_parameters_do_not_move(tmp_path, base):
    checkpoint = ran(dialogues(tmp_path, base, frozen=("blocks.0.attention.*", "norm.*")), tmp_path / "tuned")
    first, last = (load_file(folder / MODEL) for folder in (checkpoint.parent / "step-00000000", checkpoint))
    moved = {name for name in first if not torch.equal(first[name], last[name])}
    assert moved
    assert not any(name.startswith(("blocks.0.attention.", "norm.")) for name in moved)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frozen": ("nothing.*",)}, r"frozen='nothing.\*' matches no parameter"),
        ({"frozen": ("blocks.*", "embeding.*")}, r"frozen='embeding.\*' matches no parameter"),
        ({"frozen": ("*",)}, "leaves nothing to train"),
        ({"adapter": LoRAConfig(targets=("nothing",))}, "adapter.targets='nothing' matches no matrix"),
        ({"adapter": LoRAConfig(targets=("*.query", "*.q_proj"))}, r"adapter.targets='\*.q_proj' matches no matrix"),
        ({"adapter": LoRAConfig(also=("embeding.*",))}, r"adapter.also='embeding.\*' matches no parameter"),
    ],
)
def test_what_cannot_be_frozen_or_adapted_is_named(tmp_path, base, changes, message):
    with pytest.raises(ConfigError, match=message):
        ran(dialogues(tmp_path, base, **changes), tmp_path / "tuned")


def test_an_adapter_needs_a_base():
    with pytest.raises(ConfigError, match="an adapter without a model to adapt"):
        run_config(adapter=LoRAConfig())


@pytest.mark.parametrize("adapter", [None, LoRAConfig(rank=2)])
def test_a_masked_encoder_becomes_a_classifier(tmp_path, texts, adapter):
    data = DataConfig(train=texts, held_out="none", context=64, over_long="split", vocab_size=300)
    encoder, objective = EncoderConfig(**SHAPE), ObjectiveConfig(factorization=Masked())
    ran(run_config(encoder, data=data, objective=objective, max_steps=2), tmp_path / "masked")
    data = DataConfig(train=write(tmp_path / "labels.jsonl", LABELS), held_out="none", context=64)
    config = run_config(
        EncoderConfig(),
        data=data,
        objective=ObjectiveConfig(factorization=Labels()),
        base=str(tmp_path / "masked"),
        adapter=adapter,
        max_steps=3,
    )
    checkpoint = ran(config, tmp_path / "labels")
    heads = [load_file(folder / MODEL)["head.weight"] for folder in (checkpoint.parent / "step-00000000", checkpoint)]
    assert not torch.equal(*heads)
    loaded = load(str(checkpoint))
    assert loaded.card.labels == ("even", "odd")
    assert loaded.model.head.weight.shape[0] == 2
    assert score(loaded, [data.train]).summary.num_tokens == len(LABELS)


@pytest.mark.parametrize("factorization", [Masked(), Masked(unit="span", replace="80-10-10")])
def test_a_run_with_masks_and_dropout_goes_on_to_the_same_bits(tmp_path, texts, factorization):
    """Transformers draws new masks after a resume; here they are a function of (seed, epoch, sequence)."""
    data = DataConfig(train=texts, held_out="none", context=32, over_long="split", vocab_size=300)
    config = run_config(
        replace(EncoderConfig(**SHAPE), dropout=0.2),
        data=data,
        objective=ObjectiveConfig(factorization=factorization),
        max_steps=9,
        dtype="float32",
    )
    whole = load_file(ran(config, tmp_path / "whole") / MODEL)
    for step in range(1, 10):  # a step, and a start from its checkpoint
        assert [report.step.step for report in train(config, tmp_path / "broken", max_minutes=0.0)] == [step]
    resumed = load_file(find_checkpoint(str(tmp_path / "broken")) / MODEL)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    lines = [
        [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in text]
        for text in ((tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("whole", "broken"))
    ]
    assert lines[0] == lines[1]


@pytest.mark.parametrize(
    ("changes", "stays"),
    [
        ({"adapter": LoRAConfig(rank=2)}, True),
        ({"adapter": LoRAConfig(rank=2, also=("*.value_embedding.weight",))}, False),
        ({"frozen": ("blocks.*",)}, True),
        ({"frozen": ("embedding.*",)}, False),
    ],
)
@pytest.mark.parametrize("has_tables", [True, False])
def test_rows_of_frozen_value_embeddings_are_not_said_to_be_trained(changes, stays, has_tables):
    tables = ValueEmbeddingConfig(every=1) if has_tables else None
    tokenizer = train_tokenizer([SENTENCE], 270).with_special_tokens(["<a>"])
    known = tokenizer.vocab_size - 1
    shape = DecoderConfig(**SHAPE, value_embeddings=tables)
    config = run_config(shape, base="runs/base", base_vocab_size=known, **changes)
    told = new_tokens(config, tokenizer)
    assert told.startswith("new tokens <a>: their rows are trained")
    assert told.endswith("stay where they begin") == (stays and has_tables)
