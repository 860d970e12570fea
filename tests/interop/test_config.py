"""config.json as a config of ours, and back."""

import ast
import math
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st
from msgspec.structs import replace

import thetahat
from tests.interop.hub import CONFIGS
from thetahat.core.errors import ModelError
from thetahat.interop.config import canonical, family_for, family_of, read_config, write_config
from thetahat.interop.families import FAMILIES
from thetahat.model.config import (
    AttentionConfig,
    AttentionMixer,
    DecoderConfig,
    ExpertsConfig,
    LayerNormConfig,
    Llama3Scaling,
    Rotary,
    Unrotated,
    YarnScaling,
)

NEW = {  # the same models, as transformers 5 says their rotary positions
    "smollm2": {"rope_parameters": {"rope_type": "default", "rope_theta": 100000.0}},
    "llama3.2": {
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 32.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        }
    },
    "qwen2.5": {
        "layer_types": ["full_attention"] * 24,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 1000000.0,
            "factor": 4.0,
            "original_max_position_embeddings": 32768,
        },
    },
    "pythia": {"rope_parameters": {"rope_type": "default", "rope_theta": 10000, "partial_rotary_factor": 0.25}},
    "gemma2": {
        "layer_types": ["sliding_attention", "full_attention"] * 13,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    },
    "gemma3": {
        "_sliding_window_pattern": 6,
        "layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * 4 + ["sliding_attention"] * 2,
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        },
    },
    "modernbert": {
        "layer_types": ["full_attention", *["sliding_attention", "sliding_attention", "full_attention"] * 7],
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 160000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        },
    },
}
OLD = {
    *("rope_theta", "rope_scaling", "rope_local_base_freq", "sliding_window_pattern", "rotary_pct", "rotary_emb_base"),
    *("global_rope_theta", "local_rope_theta", "global_attn_every_n_layers"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_of_the_hub_is_what_its_family_reads_from_what_it_writes(name):
    config = read_config(CONFIGS[name])
    family = family_for(config, CONFIGS[name]["model_type"])
    assert family.model_type == CONFIGS[name]["model_type"]
    assert read_config(write_config(family, config)) == config


@pytest.mark.parametrize("name", NEW)
def test_both_dialects_of_a_config_are_one_config(name):
    old = CONFIGS[name]
    new = {field: value for field, value in old.items() if field not in OLD} | NEW[name]
    assert read_config(new) == read_config(old)
    assert read_config({**old, **NEW[name]}) == read_config(old)  # both in one file


def test_what_later_versions_repeat_is_understood():
    repeated = {"partial_rotary_factor": 0.25, "rope_theta": 10000}
    assert read_config({**CONFIGS["pythia"], **repeated}) == read_config(CONFIGS["pythia"])


@pytest.mark.parametrize(
    ("name", "older"),
    [
        ("gpt2", {"_num_labels": 1, "n_special": 0, "predict_special_tokens": True, "xla_device": None}),
        (
            "bart",
            {"student_encoder_layers": None, "replacing_rate": 0, "prefix": " ", "static_position_embeddings": False},
        ),
        ("llama3.2", {"transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16"}}, "unsloth_fixed": True}),
    ],
)
def test_fields_that_say_nothing_of_the_model_are_passed_over(name, older):
    assert read_config({**CONFIGS[name], **older}) == read_config(CONFIGS[name])


def test_layers_are_the_shortest_pattern():
    gemma = read_config(CONFIGS["gemma3"])
    assert [mixer.distance for mixer in gemma.layers] == [511, 511, 511, 511, 511, None]
    assert {mixer.positions.base for mixer in gemma.layers} == {None, 10_000.0}
    assert gemma.rope_base == 1_000_000
    smollm = read_config(CONFIGS["smollm3"])
    assert [isinstance(mixer.positions, Unrotated) for mixer in smollm.layers] == [False, False, False, True]
    modern = read_config(CONFIGS["modernbert"])
    assert [mixer.distance for mixer in modern.layers] == [None, 64, 64]
    assert read_config(CONFIGS["mistral-0.1"]).layers == (AttentionMixer(distance=4095),)


def test_the_head_of_t5_is_scaled_and_that_of_its_successor_is_not():
    assert read_config(CONFIGS["t5"]).head.scale == 512**-0.5
    assert read_config(CONFIGS["flan-t5"]).head.scale == read_config(CONFIGS["mt5"]).head.scale == 1
    saved = {**CONFIGS["flan-t5"], "tie_word_embeddings": True, "scale_decoder_outputs": False}
    assert read_config(saved).head.scale == 1  # as transformers 5 writes it


def test_positions_of_roberta_begin_behind_those_of_padding():
    positions = read_config(CONFIGS["xlm-roberta"]).embedding.positions
    assert (positions.number, positions.offset) == (512, 2)


def test_a_new_decoder_is_exported_as_qwen_3():
    config = DecoderConfig()
    family = family_for(config)
    assert family.model_type == "qwen3"
    assert read_config(write_config(family, config)) == config


def test_a_config_without_qwens_norms_is_exported_as_llama():
    config = DecoderConfig(attention=AttentionConfig(query_key_norm="none"))
    assert family_for(config).model_type == "llama"
    assert family_for(config, "mistral").model_type == "mistral"
    with pytest.raises(ModelError, match=r"gpt2 does not have this shape: there is no embedding\.positions"):
        family_for(config, "gpt2")
    with pytest.raises(ModelError, match="mixtral does not have this shape: there are no experts"):
        family_for(config, "mixtral")
    with pytest.raises(ModelError, match="'xlnet' is no family"):
        family_for(config, "xlnet")
    with pytest.raises(ModelError, match="bert is no decoder"):
        family_for(config, "bert")
    assert family_for(replace(config, layers=(AttentionMixer(distance=7),))).model_type == "mistral"


def test_a_new_decoder_with_experts_is_exported_by_its_scores():
    experts = ExpertsConfig(num_dense=1, shared_width=DecoderConfig().inner_width)
    plain = DecoderConfig(experts=experts, attention=AttentionConfig(query_key_norm="none"))
    assert family_for(plain).model_type == "glm4_moe"
    assert family_for(replace(plain, attention=AttentionConfig())).model_type == "glm4_moe"
    softmax = replace(plain, experts=ExpertsConfig(scores="softmax", has_bias=False))
    assert family_for(softmax).model_type == "mixtral"
    assert family_for(replace(softmax, attention=AttentionConfig())).model_type == "qwen3_moe"
    with pytest.raises(ModelError, match=r"experts\.has_bias: True -> False"):
        family_for(replace(softmax, experts=ExpertsConfig(scores="softmax")), "mixtral")


def test_one_model_said_in_two_ways_is_one():
    said = DecoderConfig(
        attention=AttentionConfig(scale=32**-0.5),
        layers=(AttentionMixer(positions=Rotary(base=5e5)),) * 4,
        dropout=0.1,
    )
    assert canonical(said) == DecoderConfig(rope_base=5e5)
    factor = 0.1 * math.log(4) + 1
    yarn = [YarnScaling(factor=4.0, context=64, attention_factor=given) for given in (None, factor)]
    mixers = [(AttentionMixer(positions=Rotary(scaling=scaling)),) for scaling in yarn]
    assert canonical(DecoderConfig(layers=mixers[1])) == DecoderConfig(layers=mixers[0])


def test_a_scaling_keeps_its_numbers_in_every_spelling():
    scaling = Llama3Scaling(factor=8.0, low_frequency_factor=1.0, high_frequency_factor=4.0, context=64)
    config = DecoderConfig(layers=(AttentionMixer(positions=Rotary(scaling=scaling)),), rope_base=5e5)
    written = write_config(family_for(config), config)
    assert written["rope_theta"] == written["rope_parameters"]["rope_theta"] == 5e5
    assert written["rope_scaling"]["rope_type"] == written["rope_parameters"]["rope_type"] == "llama3"
    for spelling in ("rope_parameters", "rope_scaling"):
        assert read_config({name: value for name, value in written.items() if name != spelling}) == config


def test_what_no_family_has_is_said():
    strange = DecoderConfig(norm=LayerNormConfig(has_bias=False))
    with pytest.raises(ModelError, match=r"nearest, but for norm\.kind: layer -> rms"):
        family_for(strange)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_assumed_field_of_another_value_is_refused_by_name(name):
    for field, value in family_of(CONFIGS[name]).assumed.items():
        other = "relative_key" if isinstance(value, str) else 7 if value is None else not value
        with pytest.raises(ModelError, match=rf"config.json: {field}=.* is not supported"):
            read_config(CONFIGS[name] | {field: other})


def changed(name, **fields):
    return {**CONFIGS[name], **fields}


REFUSED = {
    "an architecture of another kind": (changed("bert", architectures=["BertForQuestionAnswering"]), "BertForMaskedLM"),
    "a model of a type that is not known": (changed("t5", model_type="xlnet"), "'xlnet'.*unsupported"),
    "no type": ({"architectures": ["LlamaForCausalLM"]}, "no model_type"),
    "an unknown field": (changed("llama3.2", residual_multiplier=0.2), "'residual_multiplier'.*=0.2"),
    "an unknown activation": (changed("bert", hidden_act="quick_gelu"), "hidden_act='quick_gelu'"),
    "a missing size": ({k: v for k, v in CONFIGS["gpt2"].items() if k != "n_embd"}, "no n_embd"),
    "a size that is text": (changed("smollm2", num_attention_heads="nine"), "num_attention_heads='nine'"),
    "heads that do not divide": (changed("smollm2", num_key_value_heads=2), "does not divide"),
    "dynamic rope": (changed("smollm2", rope_scaling={"type": "dynamic", "factor": 2.0}), "'dynamic'"),
    "long rope": (
        changed("phi3", rope_scaling={"type": "longrope", "short_factor": [1.0], "long_factor": [2.0]}),
        "'longrope'",
    ),
    "a scaling with an unknown number": (
        changed("smollm2", rope_scaling={"type": "linear", "factor": 2.0, "finetuned": True}),
        "finetuned=True is unknown",
    ),
    "a scaling without its factor": (changed("smollm2", rope_scaling={"rope_type": "yarn"}), "no factor"),
    "two spellings that contradict each other": (
        changed("smollm2", rope_parameters={"rope_type": "default", "rope_theta": 10000.0}),
        "rope_parameters and rope_theta describe different",
    ),
    "layers of an unknown type": (changed("gemma2", layer_types=["linear_attention"] * 26), "layer_types"),
    "too few types of layers": (changed("gemma2", layer_types=["full_attention"]), "26 times"),
    "a decoder inside an encoder": (changed("bert", is_decoder=True), "is_decoder=true"),
    "relative positions in BERT": (changed("bert", position_embedding_type="relative_key"), "'relative_key'"),
    "interleaved rotary pairs": (changed("smollm2", rope_interleaved=True), "rope_interleaved=true"),
    "a share of a head said twice, and not alike": (
        changed("pythia", partial_rotary_factor=0.5),
        "0.25, which is rotary_pct",
    ),
    "experts in every second layer": (changed("qwen3-30b-a3b", decoder_sparse_step=2), "decoder_sparse_step=2"),
    "experts in some layers": (changed("qwen3-30b-a3b", mlp_only_layers=[3, 7]), r"mlp_only_layers=\[3, 7\]"),
    "experts of two numbers": (
        changed("olmoe-1b-7b", num_local_experts=8),
        "num_local_experts=8 is not supported\n  allowed: 64",
    ),
    "more experts chosen than there are": (changed("mixtral-8x7b", num_experts_per_tok=9), "num_chosen=9 is more"),
    "groups of experts": (changed("glm-4.5-air", n_group=8), "n_group=8"),
    "heads of two numbers": (changed("bart", encoder_attention_heads=6), "encoder_attention_heads=6"),
    "a projection of an unknown kind": (changed("t5", feed_forward_proj="gated-swish"), "'gated-swish'"),
}


@pytest.mark.parametrize(("plain", "said"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_supported_is_refused_by_name(plain, said):
    with pytest.raises(ModelError, match=said):
        read_config(plain)


NUMBERS = st.integers(-3, 40) | st.integers(2**40, 2**70) | st.floats(allow_nan=True)
SIMPLE = st.none() | st.booleans() | NUMBERS | st.sampled_from(["", "gelu", "yarn", "full_attention", "7"])
TABLES = st.dictionaries(
    st.sampled_from(["rope_type", "type", "factor", "rope_theta", "full_attention", "sliding_attention", "mscale"]),
    SIMPLE | st.dictionaries(st.sampled_from(["rope_type", "rope_theta", "factor"]), SIMPLE, max_size=3),
    max_size=4,
)
FURTHER = (
    *("rope_parameters", "rope_scaling", "rope_theta", "layer_types", "head_dim", "sliding_window", "no_rope_layers"),
    *("architectures", "pad_token_id", "use_sliding_window", "embedding_size", "n_inner", "partial_rotary_factor"),
)


@given(st.data())
@settings(max_examples=60)
def test_whatever_a_field_says_is_read_or_refused(data):
    plain = dict(CONFIGS[data.draw(st.sampled_from(sorted(CONFIGS)))])
    field = data.draw(st.sampled_from(sorted({*plain, *FURTHER})))
    plain[field] = data.draw(SIMPLE | TABLES | st.lists(SIMPLE, max_size=3))
    try:
        config = read_config(plain)
    except ModelError as error:
        told = str(error)
        assert "config.json" in told
    else:
        assert canonical(config) == config
        assert family_for(config, plain["model_type"]).model_type == plain["model_type"]


def test_a_model_knows_no_family():
    """It is composed of choices; the families that have them are data."""
    source = Path(thetahat.__file__).parent / "model"
    names = {family.model_type for family in FAMILIES}
    named = [
        f"{path.relative_to(source)}: {node.value}"
        for path in source.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in names
    ]
    assert named == []
