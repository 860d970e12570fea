"""Layers with a state against the plain recurrence in float64: packed, in trees, from a cache, and their gradients."""

import pytest
import torch
from hypothesis import given, settings, strategies as st
from msgspec.structs import replace

from tests.examples import TINY, lively, run_config
from tests.oracles import recurrence as oracle
from thetahat.core.batch import Inputs
from thetahat.core.config import override
from thetahat.core.errors import ConfigError
from thetahat.core.visibility import visibility_of
from thetahat.generation.rows import begin_decoding
from thetahat.model.build import build_model
from thetahat.model.config import (
    AttentionMixer,
    DecoderConfig,
    DeltaMixer,
    EncoderConfig,
    EncoderDecoderConfig,
    LinearMixer,
    StateSpaceMixer,
)
from thetahat.model.init import initialize
from thetahat.model.recurrence.chunks import chunks_of
from thetahat.model.recurrence.count import CHUNK, recurrent_numbers, sizes_of, state_numbers
from thetahat.model.recurrence.scan import decayed_sum, delta_rule
from thetahat.objective.config import Prefix

VOCABULARY = 11
MIXERS = {
    "linear": LinearMixer(),
    "linear, fixed decay": LinearMixer(decay="fixed"),
    "linear, learned decay": LinearMixer(decay="learned"),
    "delta": DeltaMixer(),
    "delta without decay": DeltaMixer(has_decay=False, value_width=5, conv=1),
    "state space": StateSpaceMixer(expansion=2, state_width=3),
    "state space, wide convolution": StateSpaceMixer(expansion=4, state_width=2, conv=7),
}
each_mixer = pytest.mark.parametrize("mixer", MIXERS.values(), ids=MIXERS)


def model_of(*mixers):
    return lively(build_model(replace(TINY, layers=mixers), VOCABULARY))


def layer_of(mixer):
    """A layer with lively parameters and what it reads of a convolution."""
    layer = model_of(mixer).block(0).attention
    return layer, sizes_of(TINY, mixer).reach


def tree(lengths, parents):
    """All pieces in one row with some padding behind them."""
    piece = torch.cat([torch.full((length,), number) for number, length in enumerate(lengths)] + [torch.full((3,), -1)])
    return visibility_of(piece[None], torch.tensor(parents))


def draws(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@st.composite
def forests(draw):
    """Pieces of lengths around that of a chunk, each alone or behind one that stands before it."""
    sizes = st.sampled_from([1, 2, 3, 5, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK])
    lengths = draw(st.lists(sizes, min_size=1, max_size=4))
    return lengths, [draw(st.integers(-1, number - 1)) for number in range(len(lengths))]


@each_mixer
@settings(max_examples=8, deadline=None)
@given(forest=forests(), seed=st.integers(0, 99))
def test_pieces_and_trees_are_read_as_texts_of_their_own(mixer, forest, seed):
    lengths, parents = forest
    (layer, reach), seen = layer_of(mixer), tree(*forest)
    x = draws(*seen.piece.shape, TINY.width, seed=seed)
    with torch.no_grad():
        found = layer(x, chunks_of(seen, reach))[0]
    parts = x[0].split([*lengths, 3])
    texts = []
    for number, parent in enumerate(parents):
        texts.append(torch.cat([*texts[parent : parent + 1], parts[number]]) if parent >= 0 else parts[number])
        here = slice(sum(lengths[:number]), sum(lengths[: number + 1]))
        wanted = oracle.apply(layer, texts[number])[-lengths[number] :]
        torch.testing.assert_close(found[here], wanted, rtol=1e-11, atol=1e-12)
    assert torch.equal(found[-3:], torch.zeros_like(found[-3:]))


@each_mixer
def test_packed_texts_have_the_same_bits_whatever_stands_beside_them(mixer):
    """Of the layer beside its maps. Alone a text may meet another kernel, whose sums go in another order."""
    (_, reach), lengths = layer_of(mixer), [70, 5, 128, 64, 1, 33]
    sizes = sizes_of(TINY, mixer)
    x = draws(1, sum(lengths) + 3, 3 * sizes.heads * sizes.key, seed=1).float()
    way = chunks_of(tree(lengths, [-1] * len(lengths)), reach)

    def mixed(x):
        q, k, v = way.lay_windows(x)[:, reach:].unflatten(-1, (sizes.heads, -1)).chunk(3, -1)
        rate = way.lay(x[..., : sizes.heads].sigmoid())
        if isinstance(mixer, StateSpaceMixer):
            q, k = q[:, :, :1], k[:, :, :1]
        if isinstance(mixer, DeltaMixer):
            return way.restore(delta_rule(q, k, v, (rate, -rate), way.rounds)[0].flatten(2))
        return way.restore(decayed_sum(q, k, v, -rate, way.rounds)[0].flatten(2))

    found = mixed(x)[0].split([*lengths, 3])
    for number in range(len(lengths)):
        others = [one if place == number else -one for place, one in enumerate(x[0].split([*lengths, 3]))]
        changed = mixed(torch.cat(others)[None])[0].split([*lengths, 3])
        assert torch.equal(found[number], changed[number])
        beside = (number + 1) % len(lengths)
        assert not torch.equal(found[beside], changed[beside])


@each_mixer
@pytest.mark.parametrize("behind", [(), (AttentionMixer(),)], ids=["alone", "with attention"])
def test_texts_of_several_lengths_are_continued_as_if_each_were_read_whole(mixer, behind):
    model = model_of(mixer, *behind)
    chance = torch.Generator().manual_seed(2)
    texts = [torch.randint(VOCABULARY, (length,), generator=chance).tolist() for length in (70, 3, 131)]
    rows = begin_decoding(model, texts, context=140, max_tokens=9)
    with torch.no_grad():
        for turn in range(5):
            read = rows.read()
            for text, logits in zip(texts, read, strict=True):
                torch.testing.assert_close(logits, alone(model, text), rtol=1e-10, atol=1e-11)
            if turn == 2:
                rows.select([2, 0, 2])
                texts = [list(texts[row]) for row in (2, 0, 2)]
            for text in texts:
                text.append((3 * turn + len(text)) % VOCABULARY)
            rows.append([text[-1] for text in texts])


def alone(model, text):
    tokens = torch.tensor([text])
    place = torch.arange(len(text))[None]
    return model.head(model.hidden(Inputs(tokens, place, visibility_of(torch.zeros_like(tokens))))[0, -1])


@each_mixer
def test_gradients_are_finite_differences(mixer):
    layer, reach = layer_of(mixer)
    way = chunks_of(tree([3, 2, CHUNK + 1, 2], [-1, 0, 0, -1]), reach)
    x = draws(1, 3 + 2 + CHUNK + 1 + 2 + 3, TINY.width, seed=3).requires_grad_()
    parameters = dict(layer.named_parameters())

    def value(x, *values):
        out = torch.func.functional_call(layer, dict(zip(parameters, values, strict=True)), (x, way))
        return (out * draws(*out.shape, seed=4)).sum()

    inputs = (x, *(one.detach().requires_grad_() for one in parameters.values()))
    assert torch.autograd.gradcheck(value, inputs, fast_mode=True)


@each_mixer
@pytest.mark.parametrize(("dtype", "bound"), [("float32", 2e-5), ("bfloat16", 6e-2)])
def test_less_precise_numbers_are_near(mixer, dtype, bound):
    model = model_of(mixer)
    tokens = torch.randint(VOCABULARY, (1, 300), generator=torch.Generator().manual_seed(5))
    inputs = Inputs(tokens, torch.arange(300)[None], visibility_of(torch.zeros_like(tokens)))
    with torch.no_grad():
        exact = model.hidden(inputs)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            near = model.float().hidden(inputs)
    assert (near - exact).norm() / exact.norm() < bound


@each_mixer
def test_what_is_counted_is_what_there_is(mixer):
    model = model_of(mixer)
    rows = begin_decoding(model, [[1, 2, 3]], context=9, max_tokens=1)
    with torch.no_grad():
        rows.read()
    kept = rows._cache.layers[0]
    held = sum(one.numel() for one in (kept.state, kept.tail) if one is not None)
    assert held == state_numbers(TINY, mixer)


@each_mixer
def test_what_is_kept_for_the_backward_pass_is_what_is_counted(mixer):
    layer, reach = layer_of(mixer)
    length, kept = 16 * CHUNK, dict[int, int]()
    x = draws(1, length, TINY.width).requires_grad_()

    def note(tensor):
        storage = tensor.untyped_storage()
        if tensor.is_floating_point():
            kept[storage._cdata] = storage.nbytes() // tensor.element_size()
        return tensor

    way = chunks_of(visibility_of(torch.zeros(1, length, dtype=torch.int64)), reach)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        read = layer(x, way)
    for known in (x, *layer.parameters()):
        kept.pop(known.untyped_storage()._cdata, None)
    assert read.requires_grad
    assert sum(kept.values()) == pytest.approx(length * recurrent_numbers(TINY, mixer), rel=0.02)


def test_rates_begin_as_they_are_declared():
    layer = build_model(replace(TINY, width=64, num_heads=16, num_kv_heads=16, layers=(DeltaMixer(),)), 3)
    initialize(layer, 0)
    inside = layer.block(0).attention
    assert inside.log_rate.exp().min() >= 1
    assert 4 < inside.log_rate.exp().mean() < 13 < inside.log_rate.exp().max() <= 16
    steps = torch.nn.functional.softplus(inside.step_bias)
    assert 0.00099 < steps.min() < 0.005
    assert 0.02 < steps.max() < 0.101


@pytest.mark.parametrize(
    ("kind", "keys", "what"),
    [
        (EncoderConfig, ["layers=delta"], "it reads from left to right alone"),
        (EncoderDecoderConfig, ["layers=state-space"], "it reads from left to right alone"),
        (
            DecoderConfig,
            ["layers=3x mamba"],
            "'3x mamba' does not fit.*attention, linear, delta, state-space, latent, or",
        ),
        (DecoderConfig, ["layers=delta,attention", "shares_layers=true"], "not all alike: delta and attention"),
        (
            DecoderConfig,
            ["layers=[{kind='delta'},{kind='delta',conv=2}]", "shares_layers=true"],
            r"not all alike: delta \(conv: 4 -> 2\)",
        ),
        (DecoderConfig, ["layers=state-space", "head_width=64", "width=80"], "does not divide the width of a state"),
    ],
)
def test_what_cannot_be_is_refused(kind, keys, what):
    with pytest.raises(ConfigError, match=f"(?s){what}"):
        override(kind(), keys)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("2x,delta", "layers='2x delta'"),
        ("3 delta; Linear", "layers='3x delta, linear'"),
        ("2x delta, state_space", "layers='2x delta, state-space'"),
        ("0x delta", "layers=delta"),
        ("99999999x delta", ""),
        ("1.5x delta", ""),
        ("3x mamba", ""),
        ("[]", ""),
    ],
)
def test_a_pattern_that_is_none_is_answered_with_the_nearest(typed, meant):
    with pytest.raises(ConfigError) as raised:
        override(DecoderConfig(), [f"layers={typed}"])
    assert "attention, linear, delta, state-space, latent, or several of them as in '3x " in str(raised.value)
    assert raised.value.cure == meant


def test_a_prefix_is_read_both_ways_and_refused():
    config = run_config(replace(TINY, layers=(DeltaMixer(), AttentionMixer())))
    with pytest.raises(ConfigError, match="reads prompts both ways"):
        replace(config, objective=replace(config.objective, factorization=Prefix()))


def test_a_pattern_is_typed_by_kinds():
    model = override(DecoderConfig(), ["layers=3x delta, 1x attention"])
    assert model.layers == (DeltaMixer(),) * 3 + (AttentionMixer(),)
    assert override(DecoderConfig(), ["layers=linear"]).layers == (LinearMixer(),)
    assert override(DecoderConfig(), ["layers=[delta,2x linear]"]).layers == (
        DeltaMixer(),
        LinearMixer(),
        LinearMixer(),
    )
