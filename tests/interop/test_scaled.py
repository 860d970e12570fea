"""Families whose branches are scaled or whose scores fall with the distance: Granite and BLOOM."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.interop import test_families as families, tiny
from thetahat.interop.config import family_for, read_config, write_config
from thetahat.interop.fields import inverse
from thetahat.model.config import AttentionConfig, DecoderConfig, HeadConfig, SumConfig

GRANITE: dict[str, Any] = {
    **tiny.GROUPED,
    "embedding_multiplier": 12.0,
    "logits_scaling": 8.0,
    "residual_multiplier": 0.22,
    "attention_multiplier": 0.125,
}
BLOOM: dict[str, Any] = {"vocab_size": tiny.V, "hidden_size": 48, "n_layer": 3, "n_head": 6, "pad_token_id": 0}
MODELS = {
    "granite": ("GraniteForCausalLM", "GraniteConfig", GRANITE),
    "granite_biases": (
        "GraniteForCausalLM",
        "GraniteConfig",
        {**GRANITE, "attention_bias": True, "mlp_bias": True, "logits_scaling": 49.0, "tie_word_embeddings": True},
    ),
    "bloom": ("BloomForCausalLM", "BloomConfig", BLOOM),
    "bloom_of_eight_heads": ("BloomForCausalLM", "BloomConfig", {**BLOOM, "n_head": 8}),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, model in MODELS.items():
        monkeypatch.setitem(tiny.MODELS, name, model)


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_transformers(name: str, root: Path):
    families.test_logits_are_those_of_transformers(name, root)


@pytest.mark.parametrize("name", MODELS)
def test_every_tensor_comes_back_bit_for_bit_and_transformers_reads_it(name: str, root: Path, tmp_path: Path):
    families.test_every_tensor_comes_back_bit_for_bit_and_transformers_reads_it(name, root, tmp_path)


@pytest.mark.parametrize("name", MODELS)
def test_in_float64_nothing_but_their_casts_differs(name: str, root: Path, monkeypatch: pytest.MonkeyPatch):
    """BLOOM's own sqrt(2 / pi) has eight digits."""
    from transformers.models.bloom import modeling_bloom

    exact = torch.nn.GELU("tanh")
    monkeypatch.setattr(modeling_bloom, "bloom_gelu_forward", exact)
    families.test_in_float64_nothing_but_their_casts_differs(name, root, monkeypatch)


@pytest.mark.parametrize("name", MODELS)
def test_packed_rows_and_padding_change_nothing(name: str, root: Path):
    families.test_packed_rows_and_padding_change_nothing(name, root)


@pytest.mark.parametrize("divisor", [1.0, 3.0, 6.0, 8.0, 16.0, 49.0, 98.0, 0.1, 1 / 3])
def test_a_divisor_comes_back(divisor: float):
    assert 1 / inverse(1 / divisor) == 1 / divisor
    assert inverse(1 / divisor) == pytest.approx(divisor, rel=1e-15)


def test_scaled_branches_are_granite_s_and_nothing_else_s():
    plain = DecoderConfig(num_kv_heads=1, attention=AttentionConfig(query_key_norm="none"))
    assert family_for(plain).model_type == "llama"
    scaled = DecoderConfig(
        num_kv_heads=1,
        attention=AttentionConfig(query_key_norm="none", scale=0.4),
        residual=SumConfig(scale=0.1),
        head=HeadConfig(scale=1 / 7),
    )
    assert (family := family_for(scaled)).model_type == "granite"
    assert write_config(family, scaled)["logits_scaling"] == 7.0


def test_older_names_of_bloom_s_sizes_are_read():
    older = {"model_type": "bloom", "n_embed": 64, "num_attention_heads": 8, "n_layer": 2, "n_inner": None}
    newer = {"model_type": "bloom", "hidden_size": 64, "n_head": 8, "n_layer": 2}
    assert read_config(older) == read_config(newer)


def test_files_have_the_names_of_bloom(root: Path):
    path = tiny.saved("bloom", root)[1]
    assert "transformer.h.0.self_attention.query_key_value.weight" in load_file(path / "model.safetensors")
