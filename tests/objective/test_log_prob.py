import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from thetahat.objective import log_prob
from thetahat.objective.log_prob import chunked_token_log_probs, judged, token_log_probs


def example(num_tokens, seed, dtype, scale=3.0, vocab_size=37, width=8):
    draw = torch.Generator().manual_seed(seed)
    hidden = torch.randn(num_tokens, width, generator=draw, dtype=torch.float64).to(dtype).requires_grad_()
    head = (scale * torch.randn(vocab_size, width, generator=draw, dtype=torch.float64)).to(dtype).requires_grad_()
    return hidden, head, torch.randint(0, vocab_size, (num_tokens,), generator=draw)


def oracle(hidden, head, targets):
    """log softmax with loops, in float64."""
    found = []
    for h, t in zip(hidden, targets, strict=True):
        logits = np.array([sum(float(a) * float(b) for a, b in zip(h, row, strict=True)) for row in head])
        largest = logits.max()
        found.append(logits[t] - largest - np.log(sum(np.exp(z - largest) for z in logits)))
    return np.array(found)


@given(num_tokens=st.integers(1, 6), seed=st.integers(0, 99), scale=st.sampled_from([0.1, 3.0, 100.0]))
def test_the_reference_is_the_oracle(num_tokens, seed, scale):
    hidden, head, targets = example(num_tokens, seed, torch.float64, scale)
    found = token_log_probs(hidden, lambda h: h @ head.T, targets)
    expected = oracle(hidden.detach().numpy(), head.detach().numpy(), targets.numpy())
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-12, atol=1e-12)
    assert (found <= 0).all()


@given(num_tokens=st.integers(1, 20), chunk_size=st.integers(1, 25), seed=st.integers(0, 99))
def test_chunks_change_neither_value_nor_gradient(num_tokens, chunk_size, seed):
    hidden, head, targets = example(num_tokens, seed, torch.float64)
    weights = torch.rand(num_tokens, dtype=torch.float64)
    whole = token_log_probs(hidden, lambda h: h @ head.T, targets)
    gradients = torch.autograd.grad((weights * whole).sum(), (hidden, head))
    chunked = chunked_token_log_probs(hidden, lambda h: h @ head.T, targets, chunk_size=chunk_size)
    torch.testing.assert_close(chunked, whole, rtol=1e-13, atol=1e-13)
    for found, expected in zip(torch.autograd.grad((weights * chunked).sum(), (hidden, head)), gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(("dtype", "result"), [(torch.bfloat16, torch.float32), (torch.float64, torch.float64)])
def test_it_computes_in_at_least_float32(dtype, result):
    hidden, head, targets = example(5, 0, dtype)
    assert token_log_probs(hidden, lambda h: h @ head.T, targets).dtype == result


def test_chunks_never_hold_the_logits_of_all_tokens():
    hidden, head, targets = example(64, 0, torch.float32)
    seen = []

    def watched(h):
        seen.append(len(h))
        return h @ head.T

    chunked_token_log_probs(hidden, watched, targets, chunk_size=16).sum().backward()
    assert max(seen) == 16
    assert len(seen) == 8  # once forward, once again backward


@given(
    num_tokens=st.integers(0, 30),
    vocab_size=st.integers(1, 60),
    columns=st.sampled_from([1, 4, 16, 512]),
    room=st.sampled_from([1, 7, 64, 4096]),
    dtype=st.sampled_from(["float32", "float64", "bfloat16"]),
    scale=st.sampled_from([0.1, 3.0, 100.0]),
)
def test_a_vocabulary_in_blocks_is_judged_as_the_whole(num_tokens, vocab_size, columns, room, dtype, scale):
    draw = torch.Generator().manual_seed(num_tokens + 31 * vocab_size)
    logits = (scale * torch.randn(num_tokens, vocab_size, generator=draw)).to(getattr(torch, dtype))
    targets = torch.randint(0, vocab_size, (num_tokens,), generator=draw)
    sizes = []

    def some(h, which):
        sizes.append(h[:, which].numel())
        return h[:, which].clone()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(log_prob, "COLUMNS", columns)
        found, is_missed = judged(logits, some, targets, vocab_size, room)
    expected = token_log_probs(logits.double(), lambda logits: logits, targets)
    tight = 1e-13 if dtype == "float64" else 1e-6
    torch.testing.assert_close(found, expected, rtol=tight, atol=tight)
    assert torch.equal(is_missed, (logits > logits.gather(-1, targets[:, None])).any(-1))
    assert max(sizes, default=0) <= max(room, columns)


def test_a_nan_is_not_hidden_in_a_block():
    hidden, head, targets = example(3, 0, torch.float32, vocab_size=40)
    broken = head.detach().clone()
    broken[33] = float("nan")
    found, _ = judged(hidden, lambda h, which: h @ broken[which].T, targets, 40, 8)
    assert found.isnan().all()
