"""Products in float8: the numbers that the oracle says, each row's from itself, in training alone."""

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from msgspec.structs import replace
from torch import nn

from tests.commands import thetahat
from tests.examples import SMALL, run_config, state_of
from tests.oracles import float8 as oracle
from tests.run.test_step import VOCABULARY, batches_of
from tests.scale.conftest import RUN, texts
from thetahat.core.errors import ConfigError
from thetahat.distribution.world import World
from thetahat.model.build import build_model
from thetahat.model.float8 import Float8Linear, left_out_of, multiply_in_float8, scaled
from thetahat.model.init import initialize
from thetahat.model.precision import computing_in
from thetahat.run.step import step

CPU = torch.device("cpu")
BFLOAT16 = 2.0**-8  # what rounding to it may change


def drawn(rows, columns, spread, seed, dtype=torch.bfloat16):
    """Numbers of very different sizes, and a row of zeros."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, columns, generator=draw) * torch.exp2(spread * torch.randn(rows, columns, generator=draw))
    x[0] = 0
    return x.to(dtype)


def as_map(weight, bias=None):
    one = Float8Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    one.weight = nn.Parameter(weight)
    if bias is not None:
        one.bias = nn.Parameter(bias)
    return one


@given(st.integers(1, 5), st.integers(1, 20), st.sampled_from([0.0, 1.0, 4.0, 9.0]), st.integers(0, 10**6))
def test_each_row_is_scaled_and_rounded_as_the_oracle_says(rows, columns, spread, seed):
    for dtype in (torch.float32, torch.bfloat16):
        x = drawn(rows, columns, spread, seed, dtype)
        assert np.array_equal(scaled(x).exact().numpy(), np.array([oracle.meant(row) for row in x.float().numpy()]))


def test_a_row_that_is_not_finite_stays_so():
    x = torch.tensor([[1.0, torch.inf], [torch.nan, 2.0], [1.0, 2.0]])
    assert scaled(x).exact().isfinite().all(1).tolist() == [False, False, True]


@given(st.integers(1, 4), st.sampled_from([0.0, 2.0, 5.0]), st.integers(0, 10**6))
def test_products_and_both_gradients_are_those_of_the_oracle(rows, spread, seed):
    x, weight = drawn(rows, 32, spread, seed).requires_grad_(), drawn(16, 32, spread, seed + 1, torch.float32)
    bias, gradient = drawn(1, 16, 0, seed + 2, torch.float32)[0] + 1, drawn(rows, 16, spread, seed + 3)
    one = as_map(weight, bias)
    with computing_in("bfloat16", CPU):
        made = one(x[None])
    made.backward(gradient[None])
    read, learned = x.detach().float().numpy(), gradient.float().numpy()
    narrow = weight.bfloat16().float().numpy()  # as shards are gathered
    products = oracle.product(read, narrow)
    close(made[0], products + bias.numpy(), BFLOAT16 * np.abs(products))  # they are rounded before the bias is added
    close(x.grad, oracle.product(learned, narrow.T))
    exact = learned.astype(np.float64).T @ read  # of what was there, not of float8
    close(one.weight.grad, exact)
    assert one.weight.grad.dtype == torch.float32


def close(found, expected, more=0.0):
    """To the rounding of the result to bfloat16, and that of the sum in float32."""
    found = found.detach().double().numpy()
    allowed = BFLOAT16 * np.abs(expected) + 1e-5 * np.abs(expected).max()
    assert np.all(np.abs(found - expected) <= allowed + more)


def test_a_row_is_the_same_whatever_is_read_beside_it():
    x, weight, gradient = drawn(6, 64, 3, 0), drawn(48, 64, 1, 1, torch.float32), drawn(6, 48, 3, 2)
    one, whole = as_map(weight), x.clone().requires_grad_()
    with computing_in("bfloat16", CPU):
        one(whole).backward(gradient)
        for row in range(6):
            alone = x[row : row + 1].clone().requires_grad_()
            made = one(alone)
            made.backward(gradient[row : row + 1])
            assert torch.equal(made, one(x)[row : row + 1])
            assert torch.equal(alone.grad, whole.grad[row : row + 1])


def test_positions_that_nobody_sends_have_a_gradient_of_zeros():
    one = as_map(drawn(16, 32, 0, 0, torch.float32))
    with computing_in("bfloat16", CPU):
        made = one(torch.zeros(0, 32, requires_grad=True))
    made.sum().backward()
    assert made.shape == (0, 16)
    assert torch.equal(one.weight.grad, torch.zeros(16, 32))


def test_a_step_does_not_depend_on_how_its_batch_is_cut():
    """No more than it does in bfloat16, and it is another one than in bfloat16."""
    found = {}
    for float8 in (False, True):
        config = run_config(SMALL, dtype="bfloat16", float8=float8)
        for cutting in ([[[0], [1], [2], [3]]], [[[0]], [[1]], [[2]], [[3]]], [[[0, 1, 2, 3]]]):
            state = state_of(config, VOCABULARY)
            step(state, batches_of(cutting), World())
            gradient = torch.cat([p.grad.double().flatten() for p in state.model.parameters()])
            found.setdefault(float8, []).append(gradient)
    plain, eighth = ([float((one - cut[0]).norm() / cut[0].norm()) for one in cut] for cut in found.values())
    assert max(eighth) < 4 * max(plain)
    assert max(plain) < float((found[True][0] - found[False][0]).norm() / found[False][0].norm()) < 0.4


def test_what_is_evaluated_has_the_products_of_the_dtype():
    config = run_config(SMALL, dtype="bfloat16")
    plain, eighth = (state_of(replace(config, float8=flag), VOCABULARY) for flag in (False, True))
    inputs = batches_of([[[0, 1, 2, 3]]])[0].inputs

    def hidden(state, *, training, dtype="bfloat16"):
        with torch.no_grad(), computing_in(dtype, CPU):
            return state.model.train(training).hidden(inputs)

    assert torch.equal(hidden(plain, training=False), hidden(eighth, training=False))
    assert not torch.equal(hidden(plain, training=True), hidden(eighth, training=True))
    assert torch.equal(hidden(plain, training=True, dtype="float32"), hidden(eighth, training=True, dtype="float32"))


def test_maps_of_other_widths_are_left_out_by_name_and_a_model_of_them_alone_is_refused():
    odd = replace(SMALL, inner_width=90)
    model = build_model(odd, VOCABULARY)
    names = [name for name, _ in model.named_parameters()]
    multiply_in_float8(model)
    assert left_out_of(model) == [f"blocks.{n}.mlp.{name}" for n in range(3) for name in ("gate", "up", "down")]
    assert [name for name, _ in model.named_parameters()] == names
    assert type(model.get_submodule("blocks.0.attention.query")) is Float8Linear
    initialize(model, 0)
    with pytest.raises(ConfigError, match="no map of a block") as error:
        multiply_in_float8(build_model(replace(odd, width=40), VOCABULARY))
    assert "try: float8=false" in str(error.value)


def test_a_run_goes_on_with_the_same_bits(tmp_path):
    texts(tmp_path / "data.jsonl", 40, [3, 5, 2, 9, 4, 12, 7, 40], 0)
    texts(tmp_path / "held.jsonl", 5, [4, 6, 20], 1)
    (tmp_path / "tiny.toml").write_text(RUN)
    keys = ["dtype=bfloat16", "float8=true", "max_steps=4"]
    done = thetahat(tmp_path, "train", "tiny.toml", "--out", "whole", *keys)
    assert done.returncode == 0, done.stderr
    assert "float8=true leaves out blocks.0.mlp.gate, " in done.stderr
    stopped = thetahat(tmp_path, "train", "tiny.toml", "--out", "parts", "--quiet", "--max-minutes=0", *keys)
    assert stopped.returncode in {0, 75}, stopped.stderr
    assert thetahat(tmp_path, "train", "tiny.toml", "--out", "parts", "--quiet", *keys).returncode == 0
    one, other = (tmp_path / name / "checkpoints/step-00000004/model.safetensors" for name in ("whole", "parts"))
    assert one.read_bytes() == other.read_bytes()
