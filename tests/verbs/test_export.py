"""A model of ours as a folder of transformers: it loads there whole, and gives every text the same likelihood."""

import json

import pytest
import torch
import transformers
import yaml
from msgspec.structs import replace
from safetensors.torch import load_file

from tests.examples import SENTENCE, run_config
from tests.run.test_base import dialogues, ran, write
from thetahat.core.errors import FolderError, ModelError
from thetahat.data.config import ChatConfig, DataConfig
from thetahat.data.read.prompt import unanswered
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
from thetahat.objective.config import Conditional, Masked, ObjectiveConfig, Prefix
from thetahat.run.folder.files import read_progress
from thetahat.run.writing.dialogue import dialogue_prompts
from thetahat.verbs.export import ExportConfig, export
from thetahat.verbs.load import load
from thetahat.verbs.score import score

UNROTATED = (AttentionMixer(positions=Unrotated()),)
DECODER = DecoderConfig(num_layers=2, width=16, num_heads=4, num_kv_heads=2, head_width=8, inner_width=24)
BERT = EncoderConfig(
    num_layers=2,
    width=16,
    num_heads=4,
    num_kv_heads=4,
    head_width=4,
    inner_width=24,
    norm=LayerNormConfig(),
    norm_epsilon=1e-12,
    placement="post",
    ties_embeddings=True,
    layers=UNROTATED,
    attention=AttentionConfig(query_key_norm="none", has_bias=True, has_output_bias=True),
    mlp=MLPConfig(is_gated=False, activation="gelu", has_bias=True),
    embedding=EmbeddingConfig(positions=LearnedPositions(number=64), num_types=2, has_norm=True),
    head=HeadConfig(transform=TransformConfig(), has_bias=True),
)
T5 = EncoderDecoderConfig(
    num_layers=2,
    num_encoder_layers=2,
    width=16,
    num_heads=4,
    num_kv_heads=4,
    head_width=4,
    inner_width=24,
    layers=UNROTATED,
    attention=AttentionConfig(query_key_norm="none", scale=1.0, relative=RelativeConfig()),
)
GPT2 = DecoderConfig(
    num_layers=2,
    width=16,
    num_heads=4,
    num_kv_heads=4,
    head_width=4,
    inner_width=64,
    norm=LayerNormConfig(),
    norm_epsilon=1e-5,
    ties_embeddings=True,
    layers=UNROTATED,
    attention=AttentionConfig(query_key_norm="none", has_bias=True, has_output_bias=True),
    mlp=MLPConfig(is_gated=False, activation="gelu_tanh", has_bias=True),
    embedding=EmbeddingConfig(positions=LearnedPositions(number=64)),
)
TEXTS = [f"{SENTENCE}, {number} times" for number in range(6)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("export")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THETAHAT_CACHE", str(place / "cache"))
        write(place / "texts.jsonl", [{"text": text} for text in TEXTS])
        write(place / "pairs.jsonl", [{"prompt": f"{WORD} {n}", "completion": text} for n, text in enumerate(TEXTS)])
        yield place


WORD = "say it"
MINE = """{{ bos_token }}{{ mood }}{% for one in messages %}{{ one.role }}: {{ one.content }}<|turn|>
{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"""
KINDS = {
    "causal": (DECODER, None, "texts.jsonl"),
    "gpt2": (GPT2, None, "texts.jsonl"),
    "masked": (BERT, Masked(), "texts.jsonl"),
    "conditional": (T5, Conditional(), "pairs.jsonl"),
}


def trained(place, name, **changes):
    """A run of a kind, made once."""
    model, factorization, data = KINDS[name]
    out = place / name
    if not out.exists():
        data = DataConfig(train=str(place / data), held_out="hash:0.3", context=64, over_long="drop", vocab_size=300)
        objective = ObjectiveConfig(factorization=factorization) if factorization else ObjectiveConfig()
        config = run_config(model, data=data, max_steps=3, objective=objective)
        ran(replace(config, dtype="float32", **changes), out)
    return out


def loaded_by_transformers(kind, folder):
    model, info = kind.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert [info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")] == [set(), set(), set()]
    return model.eval(), transformers.AutoTokenizer.from_pretrained(folder)


@torch.no_grad()
def causal_log_prob(model, tokenizer, text):
    ids = torch.tensor([[*tokenizer(text)["input_ids"], tokenizer.eos_token_id]])
    log_probs = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
    return log_probs.gather(-1, ids[0, 1:, None]).double().sum().item()


@torch.no_grad()
def masked_log_prob(model, tokenizer, text):
    """Each token of the text masked alone."""
    ids = torch.tensor(tokenizer(text)["input_ids"])
    places = torch.arange(1, len(ids) - 1)
    rows = ids.repeat(len(places), 1)
    rows[torch.arange(len(places)), places] = tokenizer.mask_token_id
    log_probs = model(input_ids=rows).logits[torch.arange(len(places)), places].log_softmax(-1)
    return log_probs.gather(-1, ids[places, None]).double().sum().item()


@torch.no_grad()
def pair_log_prob(model, tokenizer, prompt, text):
    source = tokenizer(prompt, return_tensors="pt")["input_ids"]
    asked = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    read = torch.tensor([[model.config.decoder_start_token_id, *asked[:-1]]])
    log_probs = model(input_ids=source, decoder_input_ids=read).logits[0].log_softmax(-1)
    return log_probs.gather(-1, torch.tensor(asked)[:, None]).double().sum().item()


@pytest.mark.parametrize("name", ["causal", pytest.param("gpt2", marks=pytest.mark.slow)])
def test_transformers_gives_every_text_the_same_likelihood(place, tmp_path, name):
    run = trained(place, name)
    done = export(str(run), tmp_path / "out")
    model, tokenizer = loaded_by_transformers(transformers.AutoModelForCausalLM, tmp_path / "out")
    ours = score(load(str(run)), [str(place / "texts.jsonl")]).rows
    theirs = [causal_log_prob(model, tokenizer, text) for text in TEXTS]
    assert [row.log_prob for row in ours] == pytest.approx(theirs, rel=1e-6)
    assert (done.family, done.dtype) == ({"causal": "qwen3", "gpt2": "gpt2"}[name], "float32")


@pytest.mark.slow
def test_transformers_guesses_masked_tokens_with_the_same_likelihood(place, tmp_path):
    run = trained(place, "masked")
    export(str(run), tmp_path / "out")
    model, tokenizer = loaded_by_transformers(transformers.AutoModelForMaskedLM, tmp_path / "out")
    ours = score(load(str(run)), [str(place / "texts.jsonl")]).rows
    theirs = [masked_log_prob(model, tokenizer, text) for text in TEXTS]
    assert [row.log_prob for row in ours] == pytest.approx(theirs, rel=1e-6)


@pytest.mark.slow
def test_transformers_gives_every_completion_the_same_likelihood(place, tmp_path):
    run = trained(place, "conditional")
    export(str(run), tmp_path / "out")
    model, tokenizer = loaded_by_transformers(transformers.AutoModelForSeq2SeqLM, tmp_path / "out")
    ours = score(load(str(run)), [str(place / "pairs.jsonl")]).rows
    theirs = [pair_log_prob(model, tokenizer, f"{WORD} {n}", text) for n, text in enumerate(TEXTS)]
    assert [row.log_prob for row in ours] == pytest.approx(theirs, rel=1e-6)


def test_a_folder_of_ours_is_a_model_of_every_command_and_scores_the_same(place, tmp_path):
    run = trained(place, "causal")
    done = export(str(run), tmp_path / "out")
    before, after = (score(load(str(path)), [str(place / "texts.jsonl")]) for path in (run, tmp_path / "out"))
    assert [row.log_prob for row in after.rows] == [row.log_prob for row in before.rows]
    assert done.bits_per_byte == score(load(str(run))).summary.bits_per_byte


def test_a_card_says_what_was_held_out_and_no_place_on_this_machine(place, tmp_path):
    run = trained(place, "causal")
    done = export(str(run), tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    _, front, text = card.split("---\n", 2)
    said = yaml.safe_load(front)
    assert (said["library_name"], said["pipeline_tag"]) == ("transformers", "text-generation")
    assert f"| bits per byte | {done.bits_per_byte:.4f} |" in text
    noted = read_progress(load(str(run)).folder)["corpora"]
    for one in noted:
        assert f"| {one['documents']} | {one['tokens']} | `{one['fingerprint']}` |" in text
    assert str(place) not in card
    assert "$ thetahat score causal\n" in text
    assert 'train = "TRAIN"' in text


def test_rounded_parameters_are_what_the_card_is_of(place, tmp_path):
    run = trained(place, "causal")
    done = export(str(run), tmp_path / "out", ExportConfig(dtype="bfloat16"))
    whole = export(str(run), tmp_path / "whole")
    assert (done.dtype, whole.dtype) == ("bfloat16", "float32")
    assert done.bits_per_byte != whole.bits_per_byte
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}


def test_a_dialogue_is_read_and_ended_as_in_training(place, tmp_path):
    config = dialogues(place, str(trained(place, "causal")), dtype="float32")
    (tmp_path / "mine.jinja").write_text(MINE)
    chat = ChatConfig(
        template=str(tmp_path / "mine.jinja"),
        special_tokens=("<|turn|>",),
        bos_token="<|turn|>",
        variables={"mood": "calm"},
    )
    ran(replace(config, data=replace(config.data, chat=chat), max_steps=1), tmp_path / "talk")
    export(str(tmp_path / "talk"), tmp_path / "out", ExportConfig(measures=False))
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    messages = [{"role": "user", "content": "say x"}]
    read = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    loaded = load(str(tmp_path / "talk"))
    (prompt,) = dialogue_prompts(loaded, [(unanswered({"messages": messages}, "here"), "here")])
    assert read == prompt.tokens
    ends = json.loads((tmp_path / "out" / "generation_config.json").read_text())["eos_token_id"]
    assert set(ends) == prompt.end_tokens | {loaded.tokenizer.roles.eos[0]}


def test_what_no_family_of_others_computes_is_refused_by_name(place, tmp_path):
    for model, factorization, said in (
        (DECODER, Prefix(), "is a prefix language model"),
        (replace(DECODER, placement="parallel"), None, "no family that transformers knows has this shape"),
    ):
        data = DataConfig(train=str(place / "pairs.jsonl"), held_out="none", context=64, vocab_size=300)
        objective = ObjectiveConfig(factorization=factorization) if factorization else ObjectiveConfig()
        run = place / ("prefix" if factorization else "parallel")
        ran(replace(run_config(model, data=data, max_steps=1, objective=objective), dtype="float32"), run)
        with pytest.raises(ModelError, match=said):
            export(str(run), tmp_path / "out")
    with pytest.raises(FolderError, match="nothing is written over"):
        export(str(trained(place, "causal")), place)
    assert not (tmp_path / "out").exists()
