"""What the field argues about: each choice against an oracle, packed or not, read at once or token by token."""

from itertools import pairwise
from typing import Any

import pytest
import torch

from tests.examples import TINY, lively, shape_of
from tests.model.test_composed import VOCABULARY, hold_logits, inputs_of
from thetahat.core.batch import Inputs
from thetahat.core.config import override
from thetahat.core.errors import ConfigError
from thetahat.core.visibility import Visibility
from thetahat.model.attention.cache import Cache
from thetahat.model.build import LanguageModel, build_model
from thetahat.model.config import DecoderConfig, EncoderConfig, EncoderDecoderConfig, ModelConfig
from thetahat.model.cost import parameters_by_part
from thetahat.model.init import initialize
from thetahat.model.law import laws_of
from thetahat.model.size import num_parameters

ALIBI = "{positions={kind='alibi'}}"
NEAR = "{positions={kind='alibi'}, distance=2}"
VALUES = "value_embeddings.every=1"
SINKS = "attention.sinks=learned"
GLOBAL = "{distance=1, num_global=2}"
CHOICES = {
    "global positions": [f"layers=[{GLOBAL}, {{}}]"],
    "global positions of several windows": [f"layers=[{GLOBAL}, {{distance=3, num_global=1}}]", "attention.cap=1.5"],
    "global positions, alibi, sinks": ["layers=[{positions={kind='alibi'}, distance=1, num_global=3}]", SINKS],
    "latent": ["layers=[{kind='latent', latent_width=6, rotary_width=4, norm_epsilon=0.1}]"],
    "latent queries and windows": [
        "layers=[{kind='latent', latent_width=6, query_width=5, rotary_width=2, distance=2, num_global=1}, {}]",
        "attention.has_output_bias=true",
    ],
    "latent, sinks and scale": ["layers=[{kind='latent', latent_width=3}]", SINKS, "attention.scale=0.7"],
    "latent between attentions with shared keys": [
        "attention.sharing=2",
        "num_layers=3",
        "layers=[{}, {kind='latent', latent_width=5}, {}]",
    ],
    "latent and alibi": ["layers=[{kind='latent', latent_width=5, positions={kind='alibi'}, distance=3}]"],
    "sinks": [SINKS],
    "softmax off by one": ["attention.sinks=zero", "num_kv_heads=4"],
    "sinks and windows": [SINKS, "layers=[{distance=2}, {}]"],
    "sinks and alibi": [SINKS, f"layers=[{ALIBI}]"],
    "sinks, cap and relative": [SINKS, "attention.cap=1.5", "attention.relative={num_buckets=8, max_distance=6}"],
    "sinks and relative": [SINKS, "attention.relative={num_buckets=8, max_distance=6}"],
    "value embeddings": [VALUES],
    "value embeddings of every second layer": ["value_embeddings.gate_width=3", "num_layers=3", "num_kv_heads=4"],
    "value embeddings and windows": [VALUES, "layers=[{distance=2}, {}]"],
    "smear": ["embedding.smear={}"],
    "smear of few numbers, norms and positions": [
        *("embedding.smear.gate_width=2", "embedding.has_norm=true", "embedding.positions={kind='sinusoidal'}"),
    ],
    "shared keys": ["attention.sharing=2"],
    "shared keys of three, one group not whole": ["attention.sharing=3", "num_layers=5", "attention.has_bias=true"],
    "shared keys, joined norms": ["attention.sharing=2", "attention.query_key_norm=joined", "num_layers=3"],
    "shared keys, windows and sinks": [
        *("attention.sharing=2", SINKS, "num_layers=4", "layers=[{distance=2}, {distance=2}, {}, {}]"),
    ],
    "shared keys, value embeddings and smear": [
        *("attention.sharing=2", VALUES, "embedding.smear={}", "num_layers=3", f"layers=[{ALIBI}]"),
    ],
    "squared relu": ["mlp.activation=relu2"],
    "squared relu without a gate": ["mlp.activation=relu2", "mlp.is_gated=false"],
    "alibi": [f"layers=[{ALIBI}]"],
    "alibi, no power of two": [f"layers=[{ALIBI}]", "num_heads=6", "num_kv_heads=3"],
    "alibi, windows and rotary positions in turn": [f"layers=[{NEAR}, {{}}, {ALIBI}]", "num_layers=3"],
    "alibi, cap and window": [f"layers=[{NEAR}, {ALIBI}]", "attention.cap=1.5"],
    "alibi and relative": [f"layers=[{ALIBI}, {{}}]", "attention.relative={num_buckets=8, max_distance=6}"],
    "scaled branches": ["residual.scale=0.3"],
    "scaled branches side by side": ["residual.scale=0.3", "placement=parallel"],
    "deepnorm": ["residual.kind=deepnorm", "placement=post"],
    "learned scales": ["residual.kind=learned", "residual.begins=0.7"],
    "learned scales of branches behind norms": [
        *("residual.kind=learned", "residual.begins=0.7", "residual.per=branch", "placement=sandwich"),
    ],
}
SHAPE: dict[str, Any] = shape_of(TINY) | {"num_layers": 2}
KINDS: dict[str, ModelConfig] = {
    "decoder": DecoderConfig(**SHAPE),
    "encoder": EncoderConfig(**SHAPE),
    "encoder-decoder": EncoderDecoderConfig(**SHAPE, num_encoder_layers=3),
}


def model_of(kind: str, choice: str) -> LanguageModel:
    return lively(build_model(override(KINDS[kind], CHOICES[choice]), VOCABULARY))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("choice", CHOICES)
def test_logits_of_packed_and_of_padded_rows_are_those_of_the_oracle(kind: str, choice: str):
    hold_logits(kind, model_of(kind, choice))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("choice", CHOICES)
def test_every_parameter_is_counted_and_named_has_a_law_and_its_gradient(kind: str, choice: str):
    """The derivative along one direction in all of them, by central differences."""
    model = model_of(kind, choice)
    parameters = dict(model.named_parameters())
    assert laws_of(model).keys() == parameters.keys()
    assert num_parameters(model.config, VOCABULARY) == sum(one.numel() for one in parameters.values())
    assert "other" not in parameters_by_part(model)
    inputs, _ = inputs_of(kind, [0, 0, 1])
    torch.manual_seed(0)
    weights = torch.randn(*inputs.tokens.shape, VOCABULARY, dtype=torch.float64)

    def value() -> torch.Tensor:
        return (model.head(model.hidden(inputs)) * weights).sum()

    value().backward()
    step, along = 1e-6, {name: torch.randn_like(one) for name, one in parameters.items()}
    for name, parameter in parameters.items():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.any()), name
    slope = sum(float((one.grad * along[name]).sum()) for name, one in parameters.items() if one.grad is not None)
    ends: list[float] = []
    with torch.no_grad():
        for sign in (1, -2):
            for name, parameter in parameters.items():
                parameter.add_(along[name], alpha=sign * step)
            ends.append(float(value()))
    assert slope == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-6)


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("num_padding", [0, 3])
def test_what_is_read_token_by_token_is_what_is_read_at_once(choice: str, num_padding: int):
    """Two rows, one of them padded on its left, some tokens together and the others one at a time."""
    model: Any = model_of("decoder", choice)
    text = torch.randint(VOCABULARY, (2, 12), generator=torch.Generator().manual_seed(0))
    padding = torch.tensor([[0], [num_padding]])
    place = torch.arange(12)[None]
    piece, position = torch.where(place < padding, -1, 0), (place - padding).clamp(min=0)
    with torch.no_grad():
        whole = model.hidden(Inputs(text, position, Visibility(piece)))
        cache = Cache(model.config, 2, 12, model.head.weight, piece if num_padding else None)
        found: list[torch.Tensor] = []
        for first, last in pairwise([0, 4, 7, *range(8, 13)]):
            one = slice(first, last)
            visibility = Visibility(piece[:, one], is_causal=True, is_plain=not num_padding)
            found.append(model.hidden(Inputs(text[:, one], position[:, one], visibility), cache))
    torch.testing.assert_close(torch.cat(found, 1)[piece >= 0], whole[piece >= 0], rtol=1e-11, atol=1e-12)


def begun(kind: str, *pairs: str) -> Any:
    config = override(KINDS[kind], ["width=128", "inner_width=160", "head_width=32", *pairs])
    model = build_model(config, VOCABULARY)
    initialize(model, 0)
    return model


@pytest.mark.parametrize(
    ("kind", "beta", "beta_of_encoder"),
    [
        ("decoder", 16**-0.25, None),
        ("encoder", 16**-0.25, None),
        ("encoder-decoder", 24**-0.25, 0.87 * (3**4 * 2) ** -0.0625),
    ],
)
def test_deepnorm_begins_with_the_published_gains(kind: str, beta: float, beta_of_encoder: float | None):
    model = begun(kind, "residual.kind=deepnorm", "placement=post")
    stacks = [(model, beta)] + ([(model.encoder, beta_of_encoder)] if beta_of_encoder else [])
    for stack, gain in stacks:
        attention, network = stack.blocks[1].attention, stack.blocks[1].mlp
        for matrix in (attention.value, attention.output, network.up, network.down):
            assert matrix.weight.std().item() == pytest.approx(gain * matrix.in_features**-0.5, rel=0.05)
        for matrix in (attention.query, attention.key, network.gate):
            assert matrix.weight.std().item() == pytest.approx(matrix.in_features**-0.5, rel=0.05)


@pytest.mark.parametrize("residual", ["sum", "learned"])
def test_writers_begin_as_they_are_told(residual: str):
    even = begun("decoder", f"residual={{kind={residual!r}, writers='even'}}").blocks[0].mlp.down.weight
    assert even.std().item() == pytest.approx(160**-0.5, rel=0.05)
    shrunk = begun("decoder", f"residual={{kind={residual!r}}}").blocks[0].mlp.down.weight
    assert shrunk.std().item() == pytest.approx((4 * 160) ** -0.5, rel=0.05)


def test_blocks_whose_writers_begin_at_zero_add_nothing_and_learn():
    model = begun("encoder-decoder", "residual.writers=zero")
    inputs, _ = inputs_of("encoder-decoder", [0, 0, 1])
    states = model.hidden(inputs)
    assert torch.equal(states, model.norm(model.embedding(inputs.tokens)))
    weights = torch.randn(*inputs.tokens.shape, VOCABULARY, generator=torch.Generator().manual_seed(0))
    (model.head(states) * weights).sum().backward()
    for name, parameter in model.named_parameters():
        if name.startswith("blocks."):
            is_writer = name.endswith(("output.weight", "down.weight"))
            assert is_writer == bool(parameter.grad.any()), name


@pytest.mark.parametrize(
    ("layers", "every", "have"), [(5, 2, [0, 2, 4]), (4, 2, [1, 3]), (4, 3, [0, 3]), (3, 1, [0, 1, 2])]
)
def test_value_embeddings_are_counted_from_the_last_layer_and_begin_with_open_gates(
    layers: int, every: int, have: list[int]
):
    model = begun("decoder", f"num_layers={layers}", f"value_embeddings.every={every}")
    tables = {number: block.attention.value_embedding for number, block in enumerate(model.blocks)}
    assert [number for number, one in tables.items() if one is not None] == have
    assert tables[have[-1]].weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not model.blocks[have[0]].attention.value_gate.weight.any()
    groups = {name: law.group for name, law in laws_of(model).items() if "value_" in name}
    assert groups == {
        f"blocks.{number}.attention.value_{what}.weight": group
        for number in have
        for what, group in {"embedding": "embeddings", "gate": "matrices"}.items()
    }


def test_value_embeddings_are_counted_over_attentions_alone():
    config = override(TINY, ["layers=2x linear, 1x attention", "num_layers=10", "value_embeddings.every=2"])
    assert config.value_layers == [2, 8]


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        (["value_embeddings.every=1", "shares_layers=true"], "shares_layers=false"),
        (["value_embeddings.every=1", "layers=linear"], "has linear alone"),
        (["residual.kind=deepnorm"], "placement=post"),
        (["residual={kind='learned', begins=0.0, writers='zero'}"], "writers=shrunk"),
    ],
)
def test_choices_that_do_not_go_together_are_refused_with_a_cure(pairs: list[str], said: str):
    with pytest.raises(ConfigError, match=said):
        override(TINY, pairs)
