"""What is seen inside the model, against the definition, and that looking changes nothing."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from tests.diagnosis.faults import SHAPE, packed
from tests.diagnosis.pairs import pair_probe
from tests.examples import run_config, state_of
from thetahat.diagnosis.signals.probe import block_names, inside, layers_of, logits_of
from thetahat.objective.factorization import causal

CPU = torch.device("cpu")


@given(seed=st.integers(0, 10_000))
def test_attention_logits_are_those_of_the_definition(seed):
    draw = torch.Generator().manual_seed(seed)
    q, k = torch.randn(4, 6, 8, generator=draw), torch.randn(2, 6, 8, generator=draw)
    visible = torch.rand(6, 6, generator=draw) < 0.6
    visible.fill_diagonal_(True)
    largest, spreads = 0.0, []
    for head in range(4):
        for i in range(6):
            logits = {j: float(q[head, i] @ k[head // 2, j]) / math.sqrt(8) for j in range(6) if visible[i, j]}
            largest = max(largest, *map(abs, logits.values()))
            whole = sum(math.exp(logit) for logit in logits.values())
            shares = [math.exp(logit) / whole for logit in logits.values()]
            if len(shares) > 1:
                spreads.append(-sum(p * math.log(p) for p in shares) / math.log(len(shares)))
    found = logits_of(q, k, visible).tolist()
    assert found == pytest.approx([largest, np.mean(spreads) if spreads else 1.0], rel=1e-5)


def test_a_probe_sees_each_block_and_changes_nothing():
    state = state_of(run_config(SHAPE, dtype="float32"), 61)
    batch = causal(packed())
    torch.manual_seed(3)
    random, before = torch.get_rng_state(), [one.detach().clone() for one in state.model.parameters()]
    found = seen(state.model, batch)
    assert [one.name for one in found] == ["blocks.0", "blocks.1"]
    assert all(0 < one.entropy <= 1 and one.max_logit > 0 and one.residual > 0 for one in found)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(one, then) for one, then in zip(state.model.parameters(), before, strict=True))
    assert state.model.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in state.model.modules())


def test_larger_queries_give_larger_logits_and_narrower_attention():
    state = state_of(run_config(SHAPE, dtype="float32"), 61)
    batch = causal(packed())
    first = seen(state.model, batch)
    with torch.no_grad():
        state.model.blocks[1].attention.query.weight.mul_(50)
        if state.model.blocks[1].attention.query_norm is not None:
            state.model.blocks[1].attention.query_norm.gain.mul_(50)
    then = seen(state.model, batch)
    assert then[0] == first[0]
    assert then[1].max_logit > 20 * first[1].max_logit
    assert then[1].entropy < 0.8 * first[1].entropy


def seen(model, batch):
    return layers_of(block_names(model), inside(model, batch, "float32", CPU).tolist())


def test_a_decoder_that_reads_a_source_is_seen_too():
    probe = pair_probe()
    found = seen(probe.model, probe.batch)
    assert [one.name for one in found] == ["blocks.0", "blocks.1"]
    assert all(0 < one.entropy <= 1 and one.max_logit > 0 for one in found)
