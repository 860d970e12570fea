"""Encoder and encoder-decoder against their oracles; what the decoder shares with them is tested in test_decoder."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from tests.examples import TINY, lively, shape_of
from tests.oracles import encoder as encoder_oracle, encoder_decoder as pair_oracle
from tests.oracles.decoder import Settings, one_copy, value_and_gradient
from thetahat.core.batch import Inputs, Source
from thetahat.core.config import Config, from_toml, override, to_toml
from thetahat.core.errors import ConfigError, ModelError
from thetahat.core.schema import fields
from thetahat.core.visibility import visibility_of
from thetahat.model.attention.choice import compile_visibility, runs_of
from thetahat.model.attention.kernels import attend_apart, attend_under
from thetahat.model.build import build_model
from thetahat.model.config import DecoderConfig, EncoderConfig, EncoderDecoderConfig, ModelConfig

SHAPE = shape_of(TINY)
NAMES = ("num_layers", "num_heads", "num_kv_heads", "head_width", "rope_base", "norm_epsilon", "ties_embeddings")
SOURCES, TARGETS = [[3, 1, 4, 1, 5], [9, 2, 6]], [[0, 5, 3, 5], [0, 8, 9, 7, 9, 1]]
PLACES = {"a row each": [0, 1], "one row": [0, 0]}


def settings_of(config):
    return Settings(**{name: getattr(config, name) for name in NAMES})


def arrays_of(model):
    return {name: parameter.detach().double().numpy() for name, parameter in model.named_parameters()}


def laid(texts, rows, *, is_causal):
    """Texts one after the other in their rows, padded at the end; where each lies."""
    places, columns = [], [0] * (max(rows) + 1)
    for row, text in zip(rows, texts, strict=True):
        places.append((row, slice(columns[row], columns[row] + len(text))))
        columns[row] += len(text)
    tokens, position = torch.zeros(2, len(columns), max(columns) + 1, dtype=torch.int64)
    piece = torch.full_like(tokens, -1)
    for number, (place, text) in enumerate(zip(places, texts, strict=True)):
        tokens[place], position[place], piece[place] = torch.tensor(text), torch.arange(len(text)), number
    is_plain = len(columns) == len(texts)
    return Inputs(tokens, position, visibility_of(piece, is_causal=is_causal, is_plain=is_plain)), places


def pairs(sources, targets, rows):
    source, _ = laid(sources, rows, is_causal=False)
    inputs, places = laid([target[:-1] for target in targets], rows, is_causal=True)
    return Inputs(inputs.tokens, inputs.position, inputs.visibility, Source(source, inputs.visibility.piece)), places


def log_probs(model, inputs, places, targets):
    logits = model.head(model.hidden(inputs).flatten(0, 1)).unflatten(0, inputs.tokens.shape).log_softmax(-1)
    return [logits[place].gather(-1, torch.tensor(t)[:, None])[:, 0] for place, t in zip(places, targets, strict=True)]


def check_gradient(model, values, oracle):
    """The value and every derivative of the sum of all log-probabilities."""
    total = sum(value.sum() for value in values)
    total.backward()
    value, gradient = value_and_gradient(arrays_of(model), oracle)
    assert total.item() == pytest.approx(value, rel=1e-12)
    for name, parameter in model.named_parameters():
        np.testing.assert_allclose(parameter.grad, gradient[name], rtol=1e-9, atol=1e-11, err_msg=name)


@pytest.mark.parametrize("rows", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize(("ties", "num_labels"), [(False, 0), (True, 0), (True, 3)])
def test_the_encoder_and_its_gradient_are_those_of_the_oracle(rows, ties, num_labels):
    config = EncoderConfig(**SHAPE | {"ties_embeddings": ties})
    model, settings = lively(build_model(config, 11, num_labels)), settings_of(config)
    targets = [[token % (num_labels or 11) for token in reversed(text)] for text in SOURCES]
    assert model.head.weight.shape[0] == (num_labels or 11)
    values = log_probs(model, *laid(SOURCES, rows, is_causal=False), targets)
    for text, target, found in zip(SOURCES, targets, values, strict=True):
        expected = encoder_oracle.log_probs(one_copy(arrays_of(model)), settings, text, target)[0]
        np.testing.assert_allclose(found.detach(), expected, rtol=1e-12, atol=1e-13)
    check_gradient(
        model,
        values,
        lambda p: sum(
            encoder_oracle.log_probs(p, settings, *pair).sum(axis=1) for pair in zip(SOURCES, targets, strict=True)
        ),
    )


@pytest.mark.parametrize("rows", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("ties", [False, True])
def test_the_encoder_decoder_and_its_gradient_are_those_of_the_oracle(rows, ties):
    config = EncoderDecoderConfig(**SHAPE | {"num_layers": 1, "ties_embeddings": ties}, num_encoder_layers=2)
    model, settings = lively(build_model(config, 11)), settings_of(config)
    values = log_probs(model, *pairs(SOURCES, TARGETS, rows), [target[1:] for target in TARGETS])
    for source, target, found in zip(SOURCES, TARGETS, values, strict=True):
        expected = pair_oracle.log_probs(one_copy(arrays_of(model)), settings, 2, source, target)[0]
        np.testing.assert_allclose(found.detach(), expected, rtol=1e-12, atol=1e-13)
    check_gradient(
        model,
        values,
        lambda p: sum(
            pair_oracle.log_probs(p, settings, 2, *pair).sum(axis=1) for pair in zip(SOURCES, TARGETS, strict=True)
        ),
    )


def test_a_text_changes_no_bit_of_its_row_mates_in_an_encoder():
    model = lively(build_model(EncoderConfig(**SHAPE), 11), torch.float32)
    (one, places), (other, _) = (laid([[1, 2, 3], t, [6, 7]], [0, 0, 0], is_causal=False) for t in ([4, 5], [8, 9]))
    a, b = model.hidden(one), model.hidden(other)
    assert torch.equal(a[places[0]], b[places[0]])
    assert torch.equal(a[places[2]], b[places[2]])
    assert not torch.equal(a[places[1]], b[places[1]])


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_pair_changes_no_bit_of_its_row_mates_on_either_side(side):
    model = lively(build_model(EncoderDecoderConfig(**SHAPE), 11), torch.float32)
    texts = {"source": [[1, 2, 3], [4, 5], [6, 7, 8, 9]], "target": [[0, 1, 2], [0, 3, 4, 5], [0, 6, 7]]}
    changed = texts | {side: [texts[side][0], [10] * len(texts[side][1]), texts[side][2]]}
    (one, places), (other, _) = (pairs(t["source"], t["target"], [0, 0, 0]) for t in (texts, changed))
    a, b = model.hidden(one), model.hidden(other)
    assert torch.equal(a[places[0]], b[places[0]])
    assert torch.equal(a[places[2]], b[places[2]])
    assert not torch.equal(a[places[1]], b[places[1]])


def test_an_encoder_reads_both_ways():
    model = lively(build_model(EncoderConfig(**SHAPE), 11), torch.float32)
    a, b = (model.hidden(laid([text], [0], is_causal=False)[0])[0] for text in ([1, 2, 3], [1, 2, 4]))
    assert not torch.equal(a[0], b[0])


@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize("num_padding", [0, 2])
@pytest.mark.parametrize("num_open", [0, 3])
def test_attention_without_a_mask_is_attention_under_the_mask(is_causal, num_padding, num_open):
    piece = torch.tensor([[0] * 6, [1] * (6 - num_padding) + [-1] * num_padding])
    is_open = torch.arange(6).expand(2, 6) < num_open if num_open else None
    plain = replace(visibility_of(piece, is_causal=is_causal, is_plain=True), is_open=is_open)
    q, k, v = torch.randn(3, 2, 4, 6, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    scores = (q @ k.transpose(-1, -2) / 8**0.5).masked_fill(~plain.mask()[:, None], -torch.inf)
    found, expected = compile_visibility(plain, 8, q.dtype)(q, k, v), scores.softmax(-1) @ v
    is_text = (piece >= 0)[:, None, :, None].expand_as(found)
    torch.testing.assert_close(found[is_text], expected[is_text], rtol=1e-12, atol=1e-13)


@given(
    st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=9), min_size=1, max_size=3),
    st.booleans(),
    st.integers(0, 99),
)
def test_attention_apart_is_attention_under_the_mask(lengths, is_causal, seed):
    """Rows of pieces, neighbours of one length or not, padded at their end: values and gradients."""
    total = max(map(sum, lengths))
    names = iter(range(99))
    rows = [[next(names) for _ in row] for row in lengths]
    piece = torch.tensor(
        [
            [name for name, size in zip(of_row, row, strict=True) for _ in range(size)] + [-1] * (total - sum(row))
            for of_row, row in zip(rows, lengths, strict=True)
        ]
    )
    packed = visibility_of(piece, is_causal=is_causal)
    draw = torch.Generator().manual_seed(seed)
    q = torch.randn(len(rows), 4, total, 8, dtype=torch.float64, generator=draw, requires_grad=True)
    k, v = (torch.randn(len(rows), 2, total, 8, dtype=torch.float64, generator=draw, requires_grad=True) for _ in "kv")
    found, expected = (
        attend(q.transpose(1, 2).contiguous().transpose(1, 2), k, v)
        for attend in (attend_apart(runs_of(packed, packed.lengths)), attend_under(packed.mask()))
    )
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)
    pull = torch.randn(found.shape, dtype=torch.float64, generator=draw)
    for ours, theirs in zip(*(torch.autograd.grad(x, (q, k, v), pull) for x in (found, expected)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)


def test_a_row_of_a_few_long_pieces_needs_no_mask_and_one_of_many_short_ones_does():
    sizes = {"long": [40, 40, 70, 42], "alike": [3] * 64, "short": [1, 2] * 30}
    rows = {name: torch.repeat_interleave(torch.arange(len(n)), torch.tensor(n))[None] for name, n in sizes.items()}
    made = {name: compile_visibility(visibility_of(row), 8, torch.float32) for name, row in rows.items()}
    kinds = {name: isinstance(attend, partial) for name, attend in made.items()}  # with a mask as its argument
    assert kinds == {"long": False, "alike": False, "short": True}


def test_an_encoder_decoder_without_a_source_says_what_is_missing():
    with pytest.raises(ModelError, match="no source"):
        build_model(EncoderDecoderConfig(**SHAPE), 11).hidden(laid([[1, 2]], [0], is_causal=True)[0])


def test_only_an_encoder_has_labels():
    with pytest.raises(ConfigError, match=r"model\.kind=encoder"):
        build_model(TINY, 11, num_labels=2)


class Root(Config, kw_only=True):
    model: ModelConfig = DecoderConfig()


@pytest.mark.parametrize("kind", ["decoder", "encoder", "encoder-decoder"])
def test_every_kind_is_chosen_by_its_name_and_read_back(kind):
    root = override(Root(), [f"model.kind={kind}", "model.width=8"])
    assert from_toml(to_toml(root), Root) == root
    assert (root.model.__struct_config__.tag, root.model.width) == (kind, 8)


def test_the_schema_knows_all_kinds_and_a_key_of_another_kind_is_refused():
    assert set(fields(ModelConfig)["kind"].__args__) == {"decoder", "encoder", "encoder-decoder"}
    assert "num_encoder_layers" in fields(ModelConfig)
    assert override(Root(), ["model.kind=encoder-decoder", "model.num_encoder_layers=2"]).model.num_encoder_layers == 2
    with pytest.raises(ConfigError, match="kind=encoder-decoder, which has it"):
        override(Root(), ["model.num_encoder_layers=2"])
