"""Every choice of the Block against an oracle that reads the config as data and loops over positions."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from msgspec.structs import replace

from tests.examples import TINY, lively, shape_of
from tests.model.test_families import arrays_of, laid, pairs
from tests.oracles.composed import Composed, bucket
from thetahat.core.batch import Inputs
from thetahat.core.config import to_plain
from thetahat.core.visibility import Visibility
from thetahat.model.attention.cache import Cache, LayerCache
from thetahat.model.build import build_model
from thetahat.model.config import (
    AttentionConfig,
    AttentionMixer,
    DecoderConfig,
    EmbeddingConfig,
    EncoderConfig,
    EncoderDecoderConfig,
    ExpertsConfig,
    HeadConfig,
    LayerNormConfig,
    LearnedPositions,
    LinearScaling,
    Llama3Scaling,
    MLPConfig,
    RelativeConfig,
    RMSNormConfig,
    Rotary,
    SinusoidalPositions,
    SmearConfig,
    TransformConfig,
    Unrotated,
    YarnScaling,
)
from thetahat.model.law import laws_of
from thetahat.model.layers.positions import distance_bucket

VOCABULARY = 11
TEXTS = [[3, 1, 4, 1, 5, 9, 2, 6, 5], [8, 9, 7, 9], [2, 7, 1, 8, 2, 8]]
SOURCES = [[3, 1, 4, 1, 5], [9, 2, 6], [5, 3]]
FULL = AttentionMixer()
NEAR = AttentionMixer(distance=2)
LLAMA3 = Llama3Scaling(factor=4.0, low_frequency_factor=1.0, high_frequency_factor=4.0, context=8)
EXPERTS = {
    "experts": {},
    "experts of softmax": {"scores": "softmax", "has_bias": False, "scale": 1.5},
    "one expert of its own scores": {"num_chosen": 1, "normalizes": False, "inner_width": 7},
    "all experts, and a shared one": {"num_chosen": 3, "shared_width": 4},
    "groups of experts": {"num_experts": 8, "num_groups": 4, "num_chosen_groups": 2, "num_chosen": 3},
    "groups of experts by their best": {
        **{"num_experts": 6, "num_groups": 3, "num_chosen_groups": 2, "num_chosen": 3, "group_score": "best"},
        **{"scores": "softmax", "has_bias": False, "normalizes": False},
    },
    "experts behind a dense layer": {"num_dense": 1, "scores": "softmax", "normalizes": False},
}
CHOICES = {
    "layer norm": {"norm": LayerNormConfig()},
    "layer norm without bias": {"norm": LayerNormConfig(has_bias=False)},
    "gain around one": {"norm": RMSNormConfig(adds_one=True)},
    **{f"norms {place}": {"placement": place} for place in ("post", "sandwich", "branch", "parallel", "none")},
    "no first norm": {"skips_first_norm": True},
    "shared layers": {"shares_layers": True},
    "window": {"layers": (NEAR,)},
    "windows in turn": {"layers": (AttentionMixer(distance=1), FULL)},
    "no positions in turn": {"layers": (FULL, AttentionMixer(positions=Unrotated()))},
    "bases in turn": {"layers": (AttentionMixer(positions=Rotary(base=50.0), distance=3), FULL)},
    "rotary share": {"layers": (AttentionMixer(positions=Rotary(share=0.5)),)},
    "linear": {"layers": (AttentionMixer(positions=Rotary(scaling=LinearScaling(factor=3.0))),)},
    "llama3": {"head_width": 8, "layers": (AttentionMixer(positions=Rotary(base=20.0, scaling=LLAMA3)),)},
    "yarn": {
        "head_width": 16,
        "layers": (AttentionMixer(positions=Rotary(base=50.0, scaling=YarnScaling(factor=4.0, context=64))),),
    },
    "yarn beyond its base": {
        "head_width": 8,
        "layers": (
            AttentionMixer(positions=Rotary(base=4.0, scaling=YarnScaling(factor=2.0, context=4096, beta_fast=400.0))),
        ),
    },
    "yarn with its own length": {
        "head_width": 16,
        "layers": (
            AttentionMixer(
                positions=Rotary(
                    base=50.0,
                    scaling=YarnScaling(factor=4.0, context=64, attention_factor=0.7, truncates=False, beta_fast=8.0),
                )
            ),
        ),
    },
    "no query-key norm": {"attention": AttentionConfig(query_key_norm="none")},
    "whole query-key norm": {"attention": AttentionConfig(query_key_norm="joined")},
    "biases": {"attention": AttentionConfig(has_bias=True, has_output_bias=True), "mlp": MLPConfig(has_bias=True)},
    "scale": {"attention": AttentionConfig(scale=0.9)},
    "cap": {"attention": AttentionConfig(cap=1.5)},
    "cap and window": {"attention": AttentionConfig(cap=1.5), "layers": (FULL, NEAR)},
    "relative": {
        "attention": AttentionConfig(relative=RelativeConfig(num_buckets=8, max_distance=6), query_key_norm="none"),
        "layers": (AttentionMixer(positions=Unrotated()),),
    },
    "relative, cap and window": {
        "attention": AttentionConfig(relative=RelativeConfig(num_buckets=6, max_distance=5), cap=2.0),
        "layers": (NEAR, FULL),
    },
    **{f"{name} ungated": {"mlp": MLPConfig(is_gated=False, activation=name)} for name in ("relu", "gelu")},
    "gelu_tanh gated": {"mlp": MLPConfig(activation="gelu_tanh")},
    **{name: {"experts": ExpertsConfig(**{"num_experts": 3} | one)} for name, one in EXPERTS.items()},
    "learned positions": {"embedding": EmbeddingConfig(positions=LearnedPositions(number=12))},
    "offset positions": {"embedding": EmbeddingConfig(positions=LearnedPositions(number=12, offset=2))},
    "sinusoidal positions": {"embedding": EmbeddingConfig(positions=SinusoidalPositions())},
    "types, scale and norm": {"embedding": EmbeddingConfig(num_types=2, scale=2.5, has_norm=True)},
    "narrow embeddings": {"embedding": EmbeddingConfig(width=4), "head": HeadConfig(transform=TransformConfig())},
    "smear of narrow embeddings": {
        "embedding": EmbeddingConfig(width=4, smear=SmearConfig()),
        "head": HeadConfig(transform=TransformConfig()),
    },
    "transform": {"head": HeadConfig(transform=TransformConfig(has_bias=False, has_norm=False))},
    "head": {"head": HeadConfig(has_bias=True, scale=0.3, cap=0.5), "ties_embeddings": True},
}
KINDS = {"decoder": DecoderConfig, "encoder": EncoderConfig, "encoder-decoder": EncoderDecoderConfig}


def model_of(kind, choice):
    shape = shape_of(TINY) | {"num_layers": 2} | CHOICES[choice]
    config = KINDS[kind](**shape, **({"num_encoder_layers": 2} if kind == "encoder-decoder" else {}))
    return lively(build_model(config, VOCABULARY))


def inputs_of(kind, rows):
    if kind == "encoder-decoder":
        return pairs(SOURCES, [[*text, 0] for text in TEXTS], rows)
    return laid(TEXTS, rows, is_causal=kind == "decoder")


def hold_logits(kind, model):
    """Those of packed and of padded rows against the oracle's."""
    oracle = Composed(to_plain(model.config), arrays_of(model))
    sources = SOURCES if kind == "encoder-decoder" else [None] * len(TEXTS)
    expected = [oracle.logits(text, source) for text, source in zip(TEXTS, sources, strict=True)]
    for rows in ([0, 1, 2], [0, 0, 1], [0, 0, 0]):
        inputs, places = inputs_of(kind, rows)
        with torch.no_grad():
            found = model.head(model.hidden(inputs))
        for place, logits in zip(places, expected, strict=True):
            np.testing.assert_allclose(found[place], logits, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("choice", CHOICES)
def test_logits_of_packed_and_of_padded_rows_are_those_of_the_oracle(kind, choice):
    hold_logits(kind, model_of(kind, choice))


@pytest.mark.parametrize("choice", CHOICES)
def test_every_parameter_of_every_choice_has_a_law_and_a_gradient(choice):
    model = model_of("decoder", choice)
    assert laws_of(model).keys() == dict(model.named_parameters()).keys()
    inputs, _ = inputs_of("decoder", [0, 0, 1])
    model.head(model.hidden(inputs)).square().sum().backward()
    for name, parameter in model.named_parameters():
        if name.endswith("router.bias"):  # only compared
            assert parameter.grad is None
            continue
        assert parameter.grad is not None, name
        assert bool(parameter.grad.any()), name


@pytest.mark.parametrize(
    "choice", ["window", "windows in turn", "cap and window", "relative", "learned positions", *EXPERTS]
)
@pytest.mark.parametrize("num_padding", [0, 3])
def test_what_is_read_token_by_token_is_what_is_read_at_once(choice, num_padding):
    """Two rows, one of them padded on its left, some tokens together and the others one at a time."""
    model = model_of("decoder", choice)
    text = torch.randint(VOCABULARY, (2, 12), generator=torch.Generator().manual_seed(0))
    padding = torch.tensor([[0], [num_padding]])
    place = torch.arange(12)[None]
    piece, position = torch.where(place < padding, -1, 0), (place - padding).clamp(min=0)
    with torch.no_grad():
        whole = model.hidden(Inputs(text, position, Visibility(piece)))
        cache = Cache(model.config, 2, 12, model.head.weight, piece if num_padding else None)
        found = []
        for first, last in pairwise([0, 4, 7, *range(8, 13)]):
            one = slice(first, last)
            visibility = Visibility(piece[:, one], is_causal=True, is_plain=not num_padding)
            found.append(model.hidden(Inputs(text[:, one], position[:, one], visibility), cache))
    torch.testing.assert_close(torch.cat(found, 1)[piece >= 0], whole[piece >= 0], rtol=1e-11, atol=1e-12)


def test_a_cache_keeps_no_more_than_a_window_needs():
    config = replace(TINY, num_layers=4, layers=(AttentionMixer(distance=3), FULL))
    cache = Cache(config, 1, 50, torch.zeros(1))
    assert [layer.room for layer in cache.layers] == [3, 50, 3, 50]
    layer = LayerCache(torch.zeros(1, 1, 0, 2), 50, 3)
    for step in range(10):
        keys, values = layer.append(torch.full((1, 1, 1, 2), float(step)), torch.full((1, 1, 1, 2), -float(step)))
        seen = list(range(max(step - 3, 0), step + 1))
        assert keys[0, 0, :, 0].tolist() == seen
        assert values[0, 0, :, 0].tolist() == [-each for each in seen]
    assert layer.keys.shape == layer.values.shape == (1, 1, 3, 2)


def test_a_window_that_reaches_everything_costs_nothing():
    piece = torch.zeros(1, 8, dtype=torch.int64)
    visibility, position = Visibility(piece, is_plain=True), torch.arange(8)[None]
    assert visibility.within(7, position) is visibility
    assert visibility.within(6, position).mask().sum() == 8 * 9 // 2 - 1


@pytest.mark.parametrize("both_ways", [True, False])
@pytest.mark.parametrize(("num_buckets", "max_distance"), [(32, 128), (8, 6), (6, 5)])
def test_buckets_are_the_published_rule_s(both_ways, num_buckets, max_distance):
    config = RelativeConfig(num_buckets=num_buckets, max_distance=max_distance)
    delta = torch.arange(-400, 401)
    expected = [bucket(each, to_plain(config), both_ways=both_ways) for each in delta.tolist()]
    assert distance_bucket(delta, config, both_ways=both_ways).tolist() == expected
