import numpy as np
import pytest
import torch
from torch import nn

from tests.oracles import update as oracle
from thetahat.optimization.adamw import build_adamw
from thetahat.optimization.config import AdamW


def normal(seed, *shape, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("weight_decay", [0.0, 0.2])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_updates_are_those_of_one_entry_at_a_time(device, weight_decay, dtype, tolerance):
    config = AdamW(learning_rate=0.03, beta1=0.8, beta2=0.9, epsilon=1e-6, weight_decay=weight_decay)
    parameter = nn.Parameter(normal(0, 3, 4, dtype=dtype).to(device))
    start = parameter.detach().cpu().double().numpy().copy()
    gradients = [normal(1 + i, 3, 4, dtype=dtype) for i in range(5)]
    optimizer = build_adamw([parameter], config)
    for gradient in gradients:
        parameter.grad = gradient.to(device)
        optimizer.step()
    expected = oracle.adamw(
        start,
        [gradient.double().numpy() for gradient in gradients],
        learning_rates=[0.03] * 5,
        beta1=0.8,
        beta2=0.9,
        epsilon=1e-6,
        weight_decay=weight_decay,
    )
    np.testing.assert_allclose(parameter.detach().cpu().double().numpy(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_slots_made_at_the_start_are_those_that_torch_would_make(device, dtype):
    eager, lazy = (nn.Parameter(torch.ones(2, 3, dtype=dtype, device=device)) for _ in range(2))
    ours = build_adamw([eager], AdamW(learning_rate=0.1))
    theirs = torch.optim.AdamW([lazy], lr=0.1, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    made = {name: (slot.dtype, slot.shape, slot.device) for name, slot in ours.state[eager].items()}
    for parameter, optimizer in ((eager, ours), (lazy, theirs)):
        parameter.grad = torch.full_like(parameter, 0.5)
        optimizer.step()
    assert made == {name: (slot.dtype, slot.shape, slot.device) for name, slot in theirs.state[lazy].items()}
    assert torch.equal(eager, lazy)
