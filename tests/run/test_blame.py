"""What made a step non-finite: the first module, the token and the sequence, in whatever layer it was put."""

import pytest
import torch
from msgspec.structs import replace

from tests.examples import state_of
from tests.verbs.test_families import config_of
from thetahat.core.errors import NonFiniteError
from thetahat.distribution.world import World
from thetahat.run.blame.alone import alone_in
from thetahat.run.blame.blame import blame
from thetahat.run.blame.first import OBJECTIVE
from thetahat.run.prepare import prepare
from thetahat.run.replay.again import micro_batches
from thetahat.run.step import step


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("THETAHAT_CACHE", str(tmp_path / "cache"))


def start(tmp_path, name="causal on texts", dtype="float64", dropout=0.2):
    config = replace(config_of(name, tmp_path, micro_batch_size=1, dtype=dtype), batch_size=2)
    config = replace(config, model=replace(config.model, dropout=dropout))
    prepared = prepare(config, None, World())
    return state_of(config, prepared.tokenizer.vocab_size), micro_batches(prepared, 0, 1)


def victim(micro):
    """The longest sequence of the step, which is no part of another, and where in it something goes wrong."""
    return max((alone for one in micro for alone in alone_in(one.batch)), key=lambda alone: len(alone.at[0])), 3


def poisoned(module, tokens, position, seen, value=torch.nan):
    """A hook that spoils what a module computes wherever this sequence is read."""

    def hook(_, arguments, output):
        read = seen["tokens"]
        for row in range(len(read) if read.shape[1] >= len(tokens) else 0):
            starts = (read[row].unfold(0, len(tokens), 1) == tokens).all(1).nonzero()
            for place in starts.flatten().tolist():
                output = output.clone()
                output[row, place + position] = value
        return output

    return module.register_forward_hook(hook)


LAYERS = [
    "embedding",
    "blocks.0.attention.query",
    "blocks.0.attention.output",
    "blocks.1.mlp.down",
    "blocks.1",
    "norm",
]


@pytest.mark.parametrize("layer", LAYERS)
def test_the_module_the_token_and_the_sequence_of_a_value_are_named(tmp_path, layer):
    state, micro = start(tmp_path)
    alone, position = victim(micro)
    seen = {}
    hidden = state.model.hidden

    def noting(inputs):
        seen["tokens"] = inputs.tokens
        return hidden(inputs)

    state.model.hidden = noting
    poisoned(state.model.get_submodule(layer), alone.batch.inputs.tokens[0], position, seen)
    if layer == "norm":
        with pytest.raises(NonFiniteError, match=rf"Sequences: {alone.id}; first in norm, at position {position} of "):
            step(state, [one.batch for one in micro], World())
    found = blame(state, micro, 1.0)
    assert {one.id for one in found.culprits} == {alone.id}
    assert (found.culprits[0].fault.module, found.culprits[0].fault.position) == (layer, position)


@pytest.mark.parametrize("layer", ["blocks.1.mlp.up", "blocks.0.attention.key", "blocks.1.attention_norm"])
def test_the_module_of_a_gradient_is_named(tmp_path, layer):
    """In the backward pass: what the module hands on to those before it is not finite."""
    state, micro = start(tmp_path)

    class Spoiled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient * torch.inf

    module = state.model.get_submodule(layer)
    compute = module.forward
    module.forward = lambda x: compute(Spoiled.apply(x))
    found = blame(state, micro, 1.0)
    assert found.culprits
    assert {(one.fault.module, one.fault.way) for one in found.culprits} == {(layer, "backward")}


def test_a_product_that_overflows_within_a_module_names_that_module(tmp_path):
    state, micro = start(tmp_path, dtype="float32")
    with torch.no_grad():
        state.model.blocks[1].mlp.up.weight *= 1e22
        state.model.blocks[1].mlp.gate.weight *= 1e22
    found = blame(state, micro, 1.0)
    assert {(one.fault.module, one.fault.way) for one in found.culprits} == {("blocks.1.mlp", "forward")}


def test_what_the_objective_makes_of_finite_logits_is_the_objective_s(tmp_path):
    state, micro = start(tmp_path, dtype="float32")
    found = blame(state, micro, 1e-44)
    assert {(one.fault.module, one.fault.way) for one in found.culprits} == {(OBJECTIVE, "backward")}


def test_parameters_that_are_not_finite_are_named_and_nothing_else_is_read(tmp_path):
    state, micro = start(tmp_path)
    with torch.no_grad():
        state.model.blocks[0].mlp.down.weight[1, 1] = torch.nan
    found = blame(state, micro, 1.0)
    assert (found.parameters, found.culprits) == (("blocks.0.mlp.down.weight",), ())


@pytest.mark.parametrize("name", ["spans", "causal on dialogues that branch"])
def test_a_healthy_step_has_no_culprit_in_any_family(tmp_path, name):
    state, micro = start(tmp_path, name)
    assert blame(state, micro, 1.0).culprits == ()
