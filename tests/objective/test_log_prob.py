"""What each kernel of the objective tells of its targets, through a head that is a module."""

from functools import partial

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from tests.oracles.objective import told_of
from thetahat.core.errors import ConfigError
from thetahat.model.layers.head import Head
from thetahat.objective import log_prob
from thetahat.objective.chunked import Chunked, build_kernel
from thetahat.objective.config import ObjectiveConfig
from thetahat.objective.log_prob import judged, reference

KINDS = [{}, {"has_bias": True}, {"cap": 5.0}, {"has_bias": True, "cap": 2.0}]


def example(num_tokens, seed, dtype=torch.float64, scale=3.0, vocab_size=37, width=8, **kind):
    """Hidden states, a head and targets."""
    draw = torch.Generator().manual_seed(seed)
    hidden = torch.randn(num_tokens, width, generator=draw, dtype=torch.float64).to(dtype).requires_grad_()
    head = Head(width, vocab_size, **kind).to(dtype)
    for parameter in head.parameters():
        parameter.data = (scale * torch.randn(parameter.shape, generator=draw, dtype=torch.float64)).to(dtype)
    return hidden, head, torch.randint(0, vocab_size, (num_tokens,), generator=draw)


@given(
    num_tokens=st.integers(1, 6),
    seed=st.integers(0, 99),
    scale=st.sampled_from([0.1, 3.0, 100.0]),
    kind=st.sampled_from(KINDS),
    kernel=st.sampled_from([reference, Chunked(4), partial(judged, room=64)]),
)
def test_every_kernel_tells_what_the_oracle_says(num_tokens, seed, scale, kind, kernel):
    hidden, head, targets = example(num_tokens, seed, scale=scale, **kind)
    told = kernel(hidden, head, targets)
    for found, expected in zip(told, told_of(hidden, head, targets), strict=True):
        np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-12, atol=1e-12)
    assert (told.log_prob <= 0).all()


@pytest.mark.parametrize(("dtype", "result"), [(torch.bfloat16, torch.float32), (torch.float64, torch.float64)])
def test_it_computes_in_at_least_float32(dtype, result):
    told = reference(*example(5, 0, dtype))
    assert {told.log_prob.dtype, told.log_normalizer.dtype} == {result}


def test_the_head_is_called_as_a_module_by_every_kernel_so_hooks_fire():
    hidden, head, targets = example(64, 0, torch.float32)
    seen = []
    head.register_forward_hook(lambda module, given, logits: seen.append(tuple(logits.shape)))
    reference(hidden, head, targets)
    assert seen == [(64, 37)]
    seen.clear()
    Chunked(16)(hidden, head, targets).log_prob.sum().backward()
    assert seen == [(16, 37)] * 8  # once forward, once again backward: never the logits of all tokens
    seen.clear()
    Chunked(16).summed(hidden, head, targets, torch.ones(64))[0].backward()
    assert seen == [(16, 37)] * 4
    seen.clear()
    judged(hidden, head, targets, room=37 * 32)
    assert seen == [(32, 37)] * 2


@given(
    num_tokens=st.integers(0, 30),
    vocab_size=st.integers(1, 60),
    columns=st.sampled_from([1, 4, 16, 512]),
    room=st.sampled_from([1, 7, 64, 4096]),
    dtype=st.sampled_from(["float32", "float64", "bfloat16"]),
    scale=st.sampled_from([0.1, 3.0, 100.0]),
    kind=st.sampled_from(KINDS),
)
def test_a_vocabulary_in_blocks_is_judged_as_the_whole(num_tokens, vocab_size, columns, room, dtype, scale, kind):
    seed, dtype = num_tokens + 31 * vocab_size, getattr(torch, dtype)
    hidden, head, targets = example(num_tokens, seed, dtype, scale, vocab_size, **kind)
    sizes = []
    head.register_forward_hook(lambda module, given, logits: sizes.append(logits.numel()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(log_prob, "COLUMNS", columns)
        found = judged(hidden, head, targets, room=room)
    blocks, logits = list(sizes), head(hidden)
    expected = reference(logits.double(), _identity(vocab_size), targets)
    tight = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 1e-1}[
        dtype
    ]  # blocks round their products apart
    torch.testing.assert_close(found.log_prob, expected.log_prob.detach(), rtol=tight, atol=tight)
    torch.testing.assert_close(found.log_normalizer, expected.log_normalizer.detach(), rtol=tight, atol=tight)
    if dtype == torch.float64:
        assert torch.equal(found.is_missed, expected.is_missed)
    assert max(blocks, default=0) <= max(room, columns)


def _identity(vocab_size):
    head = Head(vocab_size, vocab_size)
    head.weight.data = torch.eye(vocab_size, dtype=torch.float64)
    return head


def test_a_nan_is_not_hidden_in_a_block():
    hidden, head, targets = example(3, 0, torch.float32, vocab_size=40)
    head.weight.data[33] = float("nan")
    assert judged(hidden, head, targets, room=8).log_prob.isnan().all()


@pytest.mark.parametrize(
    ("objective", "compiles", "size", "is_fused"),
    [
        ({}, False, None, False),
        ({}, True, None, True),
        ({"chunk_size": 5}, False, 5, False),
        ({"chunk_size": 5}, True, 5, True),
        ({"kernel": "reference"}, True, None, False),
        ({"kernel": "chunked", "chunk_size": 5}, True, 5, False),
        ({"kernel": "fused"}, False, None, True),
        ({"kernel": "fused", "chunk_size": 5}, False, 5, True),
    ],
)
def test_the_kernel_is_the_one_that_is_named_and_auto_is_what_saved_configs_meant(
    objective, compiles, size, is_fused, monkeypatch
):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))  # needs no C compiler
    kernel = build_kernel(ObjectiveConfig(**objective), compiles=compiles)
    assert getattr(kernel, "size", None) == size
    assert (getattr(kernel, "kernel", kernel) is reference) != is_fused


@pytest.mark.parametrize("given", [{"kernel": "chunked"}, {"kernel": "reference", "chunk_size": 16}])
def test_a_kernel_and_a_chunk_size_that_contradict_each_other_are_refused_with_a_cure(given):
    with pytest.raises(ConfigError, match=r"try: objective\.") as refused:
        ObjectiveConfig(**given)
    assert "objective.kernel" in str(refused.value)


def test_a_config_saved_without_a_kernel_is_read():
    assert msgspec.convert({"chunk_size": 16}, ObjectiveConfig) == ObjectiveConfig(kernel="auto", chunk_size=16)
