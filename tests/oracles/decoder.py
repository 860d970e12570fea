r"""A decoder-only Transformer written the slow way: NumPy, loops, no torch. What the package computes must equal this.

$x \leftarrow x + \mathrm{attention}(\mathrm{rms}(x))$, $x \leftarrow x + \mathrm{mlp}(\mathrm{rms}(x))$ in every block,
logits = head(rms(x)). A sequence is read alone, from position 0: no rows, no padding, no packing, no masks.

The gradient is that of the complex step, $\partial f / \partial \theta = \mathrm{Im}\, f(\theta + ih) / h$ with
$h = 10^{-30}$, exact to rounding since nothing is subtracted: Squire and Trapp, "Using complex variables to estimate
derivatives of real functions", SIAM Review 40 (1998). It asks that every line here be analytic: x * x and never
abs(x), and the shift in the softmax is by a real number. It shares no idea with reverse-mode differentiation.

Every array has an axis in front, C: copies of the model, each with one parameter moved. C = 1 elsewhere.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Array = np.ndarray
Parameters = Mapping[str, Array]

COPIES = 128  # models evaluated at once
STEP = 1e-30


@dataclass(frozen=True, kw_only=True)
class Settings:
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_width: int
    rope_base: float = 10_000.0
    norm_epsilon: float = 1e-6
    ties_embeddings: bool = False


def token_log_probs(parameters: Parameters, settings: Settings, tokens: Sequence[int]) -> Array:
    """[T-1]: log Pr(tokens[j+1] | tokens[0..j]) in nats, for one sequence that starts at position 0."""
    return _log_probs(one_copy(parameters), settings, tokens)[0]


def log_likelihood(
    parameters: Parameters, settings: Settings, sequences: Sequence[Sequence[int]], weights: Sequence[Sequence[float]]
) -> float:
    """Σ w log p / Σ w over all sequences; weights[s][j] belongs to the prediction of sequences[s][j+1]."""
    return float(_log_likelihood(one_copy(parameters), settings, sequences, weights)[0])


def step(
    parameters: Parameters, settings: Settings, sequences: Sequence[Sequence[int]], weights: Sequence[Sequence[float]]
) -> tuple[float, dict[str, Array]]:
    """`log_likelihood` and its exact gradient, uphill: what is added to θ to raise it, not what a loss would give."""
    return value_and_gradient(parameters, lambda moved: _log_likelihood(moved, settings, sequences, weights))


def value_and_gradient(
    parameters: Parameters, function: Callable[[Parameters], Array]
) -> tuple[float, dict[str, Array]]:
    """An analytic function of copies of the parameters, [C], and its exact gradient by the complex step."""
    gradient = {name: np.zeros(value.shape) for name, value in parameters.items()}
    for name, value in parameters.items():
        for elements in _chunks(value.size):
            change = function(one_copy(parameters) | {name: _moved(value, elements)})
            gradient[name].flat[elements] = change.imag / STEP
    return float(function(one_copy(parameters))[0]), gradient


def one_copy(parameters: Parameters) -> dict[str, Array]:
    return {name: np.asarray(value, dtype=np.float64)[None] for name, value in parameters.items()}


def _chunks(num_elements: int) -> Iterator[range]:
    for first in range(0, num_elements, COPIES):
        yield range(first, min(first + COPIES, num_elements))


def _moved(value: Array, elements: range) -> Array:
    """[C, ...]: copy c has element `elements[c]` moved by ih."""
    copies = np.repeat(np.asarray(value, dtype=np.complex128)[None], len(elements), axis=0)
    for copy, element in enumerate(elements):
        copies[copy].flat[element] += 1j * STEP
    return copies


def _log_likelihood(parameters: Parameters, settings: Settings, sequences, weights) -> Array:
    weighted, weight = 0.0, 0.0
    for tokens, weights_of_sequence in zip(sequences, weights, strict=True):
        log_probs = _log_probs(parameters, settings, tokens)
        for j in range(len(tokens) - 1):
            weighted = weighted + weights_of_sequence[j] * log_probs[:, j]
            weight += weights_of_sequence[j]
    return weighted / weight


def _log_probs(parameters: Parameters, settings: Settings, tokens: Sequence[int]) -> Array:
    hidden = [parameters["embedding.weight"][:, token] for token in tokens]
    for layer in range(settings.num_layers):
        hidden = block(below(parameters, f"blocks.{layer}."), settings, hidden, is_causal=True)
    head = parameters["embedding.weight" if settings.ties_embeddings else "head.weight"]
    log_probs = []
    for j in range(len(tokens) - 1):
        logits = apply(head, rms(hidden[j], parameters["norm.gain"], settings))
        log_probs.append(logits[:, tokens[j + 1]] - log_sum_exp(logits))
    shape = (max(len(value) for value in parameters.values()), 0)
    return np.stack(np.broadcast_arrays(*log_probs), axis=1) if log_probs else np.zeros(shape)


def block(parameters: Parameters, settings: Settings, hidden: list[Array], *, is_causal: bool) -> list[Array]:
    return add_mlp(parameters, settings, add_attention(parameters, settings, hidden, is_causal=is_causal))


def add_attention(parameters: Parameters, settings: Settings, hidden: list[Array], *, is_causal: bool) -> list[Array]:
    normed = [rms(x, parameters["attention_norm.gain"], settings) for x in hidden]
    read = _attention(below(parameters, "attention."), settings, normed, is_causal=is_causal)
    return [x + y for x, y in zip(hidden, read, strict=True)]


def add_mlp(parameters: Parameters, settings: Settings, hidden: list[Array]) -> list[Array]:
    normed = [rms(x, parameters["mlp_norm.gain"], settings) for x in hidden]
    return [x + _mlp(below(parameters, "mlp."), y) for x, y in zip(hidden, normed, strict=True)]


def _attention(parameters: Parameters, settings: Settings, hidden: list[Array], *, is_causal: bool) -> list[Array]:
    queries = [heads(apply(parameters["query.weight"], x), settings.num_heads) for x in hidden]
    keys = [heads(apply(parameters["key.weight"], x), settings.num_kv_heads) for x in hidden]
    values = [heads(apply(parameters["value.weight"], x), settings.num_kv_heads) for x in hidden]
    for position in range(len(hidden)):
        for h in range(settings.num_heads):
            normed = rms(queries[position][h], parameters["query_norm.gain"], settings)
            queries[position][h] = _rotate(normed, position, settings)
        for g in range(settings.num_kv_heads):
            normed = rms(keys[position][g], parameters["key_norm.gain"], settings)
            keys[position][g] = _rotate(normed, position, settings)
    outputs = []
    for i in range(len(hidden)):
        seen = i + 1 if is_causal else len(hidden)
        joined = [look(queries[i][h], keys[:seen], values[:seen], h, settings) for h in range(settings.num_heads)]
        outputs.append(apply(parameters["output.weight"], np.concatenate(joined, axis=1)))
    return outputs


def look(query: Array, keys: list[list[Array]], values: list[list[Array]], h: int, settings: Settings) -> Array:
    """What query head h reads from the positions that it may see."""
    g = h // (settings.num_heads // settings.num_kv_heads)
    scores = [(query * key[g]).sum(axis=1) / np.sqrt(settings.head_width) for key in keys]
    attention = np.exp(np.stack(scores, axis=1) - log_sum_exp(np.stack(scores, axis=1))[:, None])
    read = 0.0
    for j, value in enumerate(values):
        read = read + attention[:, j, None] * value[g]
    return read


def heads(x: Array, num_heads: int) -> list[Array]:
    return np.split(x, num_heads, axis=1)


def _rotate(x: Array, position: int, settings: Settings) -> Array:
    """Turns each pair (j, j + K/2) by the angle position · base^(-2j/K)."""
    half = settings.head_width // 2
    first, second = [], []
    for j in range(half):
        angle = position * settings.rope_base ** (-2 * j / settings.head_width)
        first.append(x[:, j] * np.cos(angle) - x[:, j + half] * np.sin(angle))
        second.append(x[:, j + half] * np.cos(angle) + x[:, j] * np.sin(angle))
    return np.stack(first + second, axis=1)


def _mlp(parameters: Parameters, x: Array) -> Array:
    gate = apply(parameters["gate.weight"], x)
    silu = gate / (1 + np.exp(-gate))
    return apply(parameters["down.weight"], silu * apply(parameters["up.weight"], x))


def rms(x: Array, gain: Array, settings: Settings) -> Array:
    return x / np.sqrt((x * x).mean(axis=1, keepdims=True) + settings.norm_epsilon) * gain


def log_sum_exp(x: Array) -> Array:
    largest = x.real.max(axis=1)
    return largest + np.log(np.exp(x - largest[:, None]).sum(axis=1))


def apply(weight: Array, x: Array) -> Array:
    """[C, out, in] times [C, in]."""
    return (weight @ x[:, :, None])[:, :, 0]


def below(parameters: Parameters, prefix: str) -> dict[str, Array]:
    return {name.removeprefix(prefix): value for name, value in parameters.items() if name.startswith(prefix)}
