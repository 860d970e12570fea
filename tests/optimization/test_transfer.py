"""Learning rates of a small model on a wider and deeper one: the form of the paper, and its coordinate check."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from msgspec.structs import replace

from tests.examples import packed_of, run_config
from thetahat.core.config import override
from thetahat.core.errors import ConfigError
from thetahat.model.build import build_model
from thetahat.model.config import (
    AttentionMixer,
    DecoderConfig,
    EmbeddingConfig,
    EncoderDecoderConfig,
    HeadConfig,
    LayerNormConfig,
    LearnedScaleConfig,
    LinearMixer,
    MLPConfig,
    TransformConfig,
)
from thetahat.model.init import initialize
from thetahat.model.law import BIAS, GAIN, HEAD, MATRIX, TABLE, WRITER, laws_of
from thetahat.model.transfer.config import TransferConfig
from thetahat.model.transfer.rule import SAME, Factors, Growth, factors, fitted, growth_of
from thetahat.objective.factorization import causal
from thetahat.objective.log_prob import reference
from thetahat.optimization.config import AdamW, Muon, OptimizationConfig
from thetahat.optimization.muon import Muon as MuonOptimizer
from thetahat.optimization.optimizer import build_optimizer
from thetahat.run.base import resolved
from thetahat.run.config import is_fixed
from thetahat.run.state import first_model, state_with

VOCABULARY = 11
BASE = TransferConfig(width=8, num_layers=2)
MATRICES = {
    "adamw": AdamW(learning_rate=0.02, weight_decay=0.3, epsilon=1e-2),
    "shape": Muon(learning_rate=0.02, weight_decay=0.3),
    "rms": Muon(learning_rate=0.02, weight_decay=0.3, scale="rms"),
}
TABLES = AdamW(learning_rate=0.01, weight_decay=0.2, epsilon=1e-2)
VECTORS = AdamW(learning_rate=0.01, weight_decay=0.1, epsilon=1e-2)


def shape(width: int, depth: int, **choices) -> DecoderConfig:
    heads = width // 4
    plain = dict(
        num_layers=depth, width=width, num_heads=heads, num_kv_heads=heads, head_width=4, inner_width=2 * width
    )
    return DecoderConfig(**(plain | {"embedding": EmbeddingConfig(has_norm=True)} | choices))


def with_biases(width: int, depth: int) -> DecoderConfig:
    config = shape(width, depth, norm=LayerNormConfig(), mlp=MLPConfig(has_bias=True), head=HeadConfig(has_bias=True))
    return override(config, ["attention.has_bias=true", "attention.has_output_bias=true"])


def rules(name: str) -> OptimizationConfig:
    return OptimizationConfig(matrices=MATRICES[name], embeddings=TABLES, vectors=VECTORS)


def a_batch(seed: int):
    tokens = np.random.default_rng(seed).integers(0, VOCABULARY, size=(4, 9)).tolist()
    return causal(packed_of(tokens, [[1.0] * 8] * 4))


def log_probs(model, batch):
    return reference(model.hidden(batch.inputs).flatten(0, 1), model.head, batch.targets.flatten()).log_prob


def descend(model, step, batches):
    for batch in batches:
        model.zero_grad()
        (-log_probs(model, batch).mean()).backward()
        step()


def begun(config: DecoderConfig, growth: Growth):
    model = build_model(config, VOCABULARY)
    initialize(model, 0, growth=growth)
    return model.double()


WRITES = r"(attention\.output|mlp\.down)\.(weight|bias)$"


def as_published(config: DecoderConfig, growth: Growth):
    """The same model with the multipliers of the paper, and so with parameters that are as many times larger."""
    model, m, l = begun(config, growth), growth.width, growth.depth  # noqa: E741
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if re.search(WRITES, name):
                parameter.mul_(l)
        model.head.weight.mul_(m)
    for block in model.blocks:
        for branch in (block.attention, block.mlp):
            branch.register_forward_hook(lambda module, inputs, output: output / l)
    model.head.register_forward_pre_hook(lambda module, inputs: (inputs[0] / m, *inputs[1:]))
    return model


def published_step(model, growth: Growth, matrices: AdamW | Muon):
    """Table 1 of CompleteP with α = 1; matrices of blocks by Muon have the spectral rule in its place."""
    m, l = growth.width, growth.depth  # noqa: E741
    groups, stacked = [], []
    for name, parameter in model.named_parameters():
        inside = "blocks." in name
        if inside and parameter.ndim == 2:
            if isinstance(matrices, Muon):
                stacked.append(parameter)
                continue
            rule, rate, decay, epsilon = matrices, 1 / m, m, 1 / (m * l)
        elif name in ("embedding.weight", "head.weight"):
            rule, rate, decay, epsilon = TABLES, 1, 1, 1 / m
        else:
            rule, rate, decay = VECTORS, 1, 1
            epsilon = 1 / (m * l) if inside else 1.0 if name == "head.bias" else 1 / m
        groups.append(
            {
                "params": [parameter],
                "lr": rule.learning_rate * rate,
                "weight_decay": rule.weight_decay * decay,
                "eps": rule.epsilon * epsilon,
            }
        )
    adam = torch.optim.AdamW(groups, betas=(TABLES.beta1, TABLES.beta2))
    if not isinstance(matrices, Muon):
        return adam.step
    rate = 1.0 if matrices.scale == "shape" else m**-0.5
    decay = matrices.weight_decay / rate
    muon = MuonOptimizer(stacked, replace(matrices, learning_rate=matrices.learning_rate * rate, weight_decay=decay))
    return lambda: (adam.step(), muon.step())


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("growth", [Growth(4.0, 1.0), Growth(1.0, 3.0), Growth(2.0, 2.0)])
def test_updates_are_those_of_the_paper_whose_multipliers_are_in_the_parameters(name, growth):
    config = with_biases(int(8 * growth.width), int(2 * growth.depth))
    ours, theirs = begun(config, growth), as_published(config, growth)
    probe = a_batch(99)
    torch.testing.assert_close(log_probs(ours, probe), log_probs(theirs, probe), rtol=1e-12, atol=1e-12)
    before = log_probs(ours, probe).detach()
    optimizer = build_optimizer(ours, rules(name), growth)
    descend(ours, lambda: optimizer.step(1.0), map(a_batch, range(4)))
    descend(theirs, published_step(theirs, growth, MATRICES[name]), map(a_batch, range(4)))
    assert (log_probs(ours, probe) - before).abs().max() > 0.01
    torch.testing.assert_close(log_probs(ours, probe), log_probs(theirs, probe), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("depth", [2, 6])
def test_a_branch_begins_as_at_the_shape_itself_times_its_share_of_the_depth(depth):
    model = begun(shape(64, depth), Growth(8.0, depth / 2))
    for name, parameter in model.named_parameters():
        if re.search(WRITES, name):
            expected = (parameter.shape[1] * 4) ** -0.5 / (depth / 2)  # 2L of the shape itself is 4
            assert parameter.std().item() == pytest.approx(expected, rel=0.1)


@given(st.floats(0.1, 100), st.floats(0.1, 100), st.sampled_from([MATRIX, WRITER, TABLE, HEAD, GAIN, BIAS]))
def test_two_growths_one_after_the_other_are_one(width, depth, law):
    for steps in ("adamw", "shape", "rms"):
        for name in ("blocks.0.x", "y"):
            one, other = (factors(name, law, growth, steps) for growth in (Growth(width, 1.0), Growth(1.0, depth)))
            both = factors(name, law, Growth(width, depth), steps)
            product = Factors(one.start * other.start, one.rate * other.rate, one.epsilon * other.epsilon)
            for got, expected in zip((both.start, both.rate, both.epsilon), vars_of(product), strict=True):
                assert got == pytest.approx(expected, rel=1e-12)
            assert factors(name, law, SAME, steps) == Factors(1.0, 1.0, 1.0)


def vars_of(one: Factors):
    return one.start, one.rate, one.epsilon


@pytest.mark.parametrize("name", MATRICES)
def test_at_the_shape_itself_a_run_is_what_it_is_without(name):
    plain = run_config(shape(8, 2), optimization=rules(name))
    finals = []
    for config in (plain, replace(plain, transfer=BASE)):
        model = first_model(config, VOCABULARY)
        state = state_with(model, config, 4, torch.device("cpu"))
        descend(model, lambda state=state: state.optimizer.step(1.0), map(a_batch, range(3)))
        finals.append(list(model.parameters()))
        assert len(state.optimizer.rules) == 3
    assert all(torch.equal(a, b) for a, b in zip(*finals, strict=True))


FAST = {
    "adamw": AdamW(learning_rate=0.05),
    "shape": Muon(learning_rate=0.15),
    "rms": Muon(learning_rate=0.15, scale="rms"),
}


def movement(width: int, depth: int, name: str, transfer: TransferConfig | None) -> dict[str, float]:
    """How far the stream, the inside of a network and the logits move in six steps on one batch, root mean square."""
    rate = AdamW(learning_rate=0.02)
    rules = OptimizationConfig(matrices=FAST[name], embeddings=rate, vectors=rate)
    config = run_config(shape(width, depth), optimization=rules, transfer=transfer)
    model, batch = first_model(config, VOCABULARY), a_batch(0)
    optimizer = state_with(model, config, 6, torch.device("cpu")).optimizer

    @torch.no_grad()
    def activations():
        found = {}
        block = model.block(depth - 1)
        hooks = [
            block.register_forward_hook(lambda m, i, output: found.update(stream=output)),
            block.mlp.up.register_forward_hook(lambda m, i, output: found.update(inner=output)),
        ]
        found["logits"] = model.head(model.hidden(batch.inputs))
        for hook in hooks:
            hook.remove()
        return found

    before = activations()
    descend(model, lambda: optimizer.step(1.0), [batch] * 6)
    after = activations()
    return {key: (after[key] - before[key]).square().mean().sqrt().item() for key in before}


def exponents(sizes, moved):
    return {
        key: float(np.polyfit(np.log(sizes), np.log([one[key] for one in moved]), 1)[0])
        for key in ("stream", "inner", "logits")
    }


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("shapes", [[(16, 2), (32, 2), (64, 2)], [(16, 2), (16, 4), (16, 8)]], ids=["width", "depth"])
def test_activations_move_as_far_at_every_width_and_depth(name, shapes):
    """The coordinate check of µP, in small: exponents of growth near 0 with the rule, and one far from it without."""
    sizes = [width * depth for width, depth in shapes]
    held = exponents(sizes, [movement(*one, name, TransferConfig(width=16, num_layers=2)) for one in shapes])
    free = exponents(sizes, [movement(*one, name, None) for one in shapes])
    assert max(map(abs, held.values())) < 0.35
    assert max(free.values()) > 0.55


def test_what_no_start_can_stand_for_is_a_multiplier_of_the_model():
    tied = fitted(shape(32, 2, ties_embeddings=True), BASE)
    assert tied.head.scale == 0.25
    assert fitted(tied, BASE) == tied
    assert fitted(shape(32, 2, ties_embeddings=True), BASE, has_labels=True).head.scale == 1
    wide = fitted(shape(32, 2), replace(BASE, head_width=2))
    assert wide.attention.scale == pytest.approx(2**0.5 / 4)
    assert fitted(shape(32, 2), BASE) == shape(32, 2)
    config = replace(run_config(shape(32, 2, ties_embeddings=True)), transfer=BASE)
    assert resolved(config).model.head.scale == 0.25
    with pytest.raises(ConfigError, match=r"model\.head\.scale=0\.5 beside transfer, which makes it 0\.25"):
        fitted(shape(32, 2, ties_embeddings=True, head=HeadConfig(scale=0.5)), BASE)


@pytest.mark.parametrize(
    ("choices", "key"),
    [
        ({"placement": "post"}, "model.placement=post"),
        ({"placement": "sandwich"}, "model.placement=sandwich"),
        ({"residual": LearnedScaleConfig()}, "model.residual.kind=learned"),
        ({"layers": (AttentionMixer(), LinearMixer())}, "model.layers=linear"),
        ({"shares_layers": True}, "model.shares_layers=true"),
        ({"embedding": EmbeddingConfig()}, "model.embedding.has_norm=false"),
        ({"embedding": EmbeddingConfig(width=4, has_norm=True)}, "model.embedding.width=4"),
    ],
)
def test_what_the_rule_says_nothing_of_is_refused(choices, key):
    with pytest.raises(ConfigError, match=f"does not know how rates carry over with {re.escape(key)}") as error:
        fitted(shape(16, 4, **choices), BASE)
    assert "transfer.width=16 transfer.num_layers=4" in str(error.value)
    assert fitted(shape(16, 4, **choices), TransferConfig(width=16, num_layers=4))


def test_a_matrix_of_which_an_axis_does_not_grow_is_refused():
    model = shape(16, 2, head=HeadConfig(transform=TransformConfig()))
    assert first_model(run_config(model, transfer=BASE), VOCABULARY)
    odd = replace(model, embedding=EmbeddingConfig(has_norm=True, width=4))
    with pytest.raises(ConfigError, match=r"model\.embedding\.width=4"):
        first_model(run_config(odd, transfer=BASE), VOCABULARY)


def test_a_base_is_refused_and_no_branch_changes_the_shape():
    with pytest.raises(ConfigError, match="transfer says how parameters begin, and base brings them"):
        replace(run_config(shape(16, 2)), transfer=BASE, base="runs/other")
    assert is_fixed("transfer.width")


def test_both_sides_of_an_encoder_decoder_grow():
    config = EncoderDecoderConfig(
        num_layers=4, num_encoder_layers=4, width=16, num_heads=4, num_kv_heads=4, head_width=4, inner_width=32
    )
    model = build_model(config, VOCABULARY)
    growth = growth_of(config, BASE)
    found = {name: factors(name, law, growth) for name, law in laws_of(model).items()}
    assert found["encoder.blocks.3.mlp.down.weight"] == found["blocks.0.cross_attention.output.weight"]
    assert found["blocks.0.mlp.down.weight"].rate == 0.25
