"""Recurrent layers position by position, in float64, as their papers write them down."""

import torch
from torch import Tensor

from thetahat.model.recurrence.delta import GatedDelta
from thetahat.model.recurrence.linear import LinearAttention
from thetahat.model.recurrence.state_space import StateSpace


def decayed_sum(q: Tensor, k: Tensor, v: Tensor, decay: Tensor) -> Tensor:
    """Of one head: q, k [T K], v [T V], decay [T]."""
    state, found = torch.zeros(k.shape[1], v.shape[1], dtype=q.dtype), []
    for t in range(len(q)):
        state = decay[t] * state + torch.outer(k[t], v[t])
        found.append(state.T @ q[t])
    return torch.stack(found)


def delta_rule(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, decay: Tensor) -> Tensor:
    """Of one head: first all is forgotten a little, then the key's old value is replaced by so much."""
    state, found = torch.zeros(k.shape[1], v.shape[1], dtype=q.dtype), []
    for t in range(len(q)):
        state = decay[t] * state
        old = state.T @ k[t]
        state = state + torch.outer(k[t], beta[t] * (v[t] - old))
        found.append(state.T @ q[t])
    return torch.stack(found)


def convolved(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x [T F], weight [F R+1]."""
    reach, found = weight.shape[1] - 1, []
    for t in range(len(x)):
        seen = [weight[:, reach - back] * x[t - back] for back in range(reach + 1) if t >= back]
        found.append(sum(seen, torch.zeros_like(x[0])) + (0 if bias is None else bias))
    found = torch.stack(found)
    return found * found.sigmoid()


def softplus(x: Tensor) -> Tensor:
    return (1 + x.exp()).log()


def silu(x: Tensor) -> Tensor:
    return x * x.sigmoid()


def rms(x: Tensor, gain: Tensor, epsilon: float = 1e-6) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + epsilon).sqrt() * gain


def linear(layer: LinearAttention, x: Tensor) -> Tensor:
    heads, found = layer.num_heads, []
    q, k, v = (x @ one.weight.T for one in (layer.query, layer.key, layer.value))
    width = q.shape[1] // heads
    for head in range(heads):
        mine = slice(head * width, (head + 1) * width)
        if layer.decay == "none":
            a, b = (torch.where(one[:, mine] > 0, one[:, mine] + 1, one[:, mine].exp()) for one in (q, k))
            weights = (a @ b.T).tril()
            found.append(weights @ v[:, mine] / weights.sum(1, keepdim=True))
            continue
        decay = torch.full((len(x),), 1 - 2.0 ** (-5 - head), dtype=x.dtype)
        if layer.decay == "learned":
            assert layer.rate is not None
            decay = (x @ layer.rate.weight[head] + layer.rate.bias[head]).sigmoid() ** (1 / 16)
        read = decayed_sum(q[:, mine], k[:, mine] / width**0.5, v[:, mine], decay)
        assert layer.norm is not None
        found.append(rms(read, layer.norm.gain))
    joined = torch.cat(found, 1)
    return (joined if layer.gate is None else joined * silu(x @ layer.gate.weight.T)) @ layer.output.weight.T


def delta(layer: GatedDelta, x: Tensor) -> Tensor:
    read = torch.cat([x @ one.weight.T for one in (layer.query, layer.key, layer.value)], 1)
    q, k, v = convolved(read, layer.conv.weight, layer.conv.bias).split(layer.widths, 1)
    beta, gate, found = (x @ layer.beta.weight.T).sigmoid(), silu(x @ layer.gate.weight.T), []
    decay = torch.ones_like(beta)
    if layer.decay is not None:
        assert layer.log_rate is not None
        assert layer.step_bias is not None
        decay = (-layer.log_rate.exp() * softplus(x @ layer.decay.weight.T + layer.step_bias)).exp()
    for head in range(layer.num_heads):
        a, b, c = (one.unflatten(1, (layer.num_heads, -1))[:, head] for one in (q, k, v))
        a, b = (one / (one.square().sum(1, keepdim=True) + 1e-6).sqrt() for one in (a, b))
        a = a / a.shape[1] ** 0.5
        found.append(rms(delta_rule(a, b, c, beta[:, head], decay[:, head]), layer.norm.gain))
    return torch.cat(found, 1) * gate @ layer.output.weight.T


def state_space(layer: StateSpace, x: Tensor) -> Tensor:
    read = torch.cat([x @ one.weight.T for one in (layer.value, layer.key, layer.query)], 1)
    v, k, q = convolved(read, layer.conv.weight, layer.conv.bias).split(layer.widths, 1)
    step, found = softplus(x @ layer.step.weight.T + layer.step_bias), []
    for head, each in enumerate(v.split(layer.head_width, 1)):
        decay = (-layer.log_rate[head].exp() * step[:, head]).exp()
        found.append(decayed_sum(q, k, each * step[:, head, None], decay) + layer.skip[head] * each)
    return rms(torch.cat(found, 1) * silu(x @ layer.gate.weight.T), layer.norm.gain) @ layer.output.weight.T


def apply(layer: torch.nn.Module, x: Tensor) -> Tensor:
    """What a layer makes of one text, x [T D]."""
    if isinstance(layer, LinearAttention):
        return linear(layer, x)
    if isinstance(layer, GatedDelta):
        return delta(layer, x)
    assert isinstance(layer, StateSpace)
    return state_space(layer, x)
