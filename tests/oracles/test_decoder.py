import itertools
import time

import numpy as np
import pytest

from tests.oracles.decoder import Settings, log_likelihood, step, token_log_probs

GROUPED = Settings(num_layers=2, num_heads=4, num_kv_heads=2, head_width=4)
TIED = Settings(num_layers=1, num_heads=2, num_kv_heads=2, head_width=2, rope_base=500.0, ties_embeddings=True)


def parameters_of(settings, *, vocab_size=7, width=6, inner=5, seed=0):
    draw = np.random.default_rng(seed)
    inside, outside = settings.num_kv_heads * settings.head_width, settings.num_heads * settings.head_width
    shapes = {"embedding.weight": (vocab_size, width), "norm.gain": (width,), "head.weight": (vocab_size, width)}
    for layer in range(settings.num_layers):
        shapes |= {
            f"blocks.{layer}.{name}": shape
            for name, shape in {
                "attention_norm.gain": (width,),
                "attention.query.weight": (outside, width),
                "attention.key.weight": (inside, width),
                "attention.value.weight": (inside, width),
                "attention.output.weight": (width, outside),
                "attention.query_norm.gain": (settings.head_width,),
                "attention.key_norm.gain": (settings.head_width,),
                "mlp_norm.gain": (width,),
                "mlp.gate.weight": (inner, width),
                "mlp.up.weight": (inner, width),
                "mlp.down.weight": (width, inner),
            }.items()
        }
    if settings.ties_embeddings:
        del shapes["head.weight"]
    return {name: draw.normal(size=shape) for name, shape in shapes.items()}


@pytest.mark.parametrize("settings", [GROUPED, TIED])
def test_the_gradient_agrees_with_a_finite_difference(settings):
    parameters, h = parameters_of(settings), 1e-5
    sequences, weights = [[1, 4, 2, 6, 0], [3, 3, 5]], [[1.0, 0.0, 0.5, 2.0], [1.0, 0.25]]
    _, gradient = step(parameters, settings, sequences, weights)
    for name, value in parameters.items():
        direction = np.random.default_rng(1).normal(size=value.shape)
        above = log_likelihood(parameters | {name: value + h * direction}, settings, sequences, weights)
        below = log_likelihood(parameters | {name: value - h * direction}, settings, sequences, weights)
        assert (above - below) / (2 * h) == pytest.approx((gradient[name] * direction).sum(), rel=1e-6, abs=1e-9), name


def test_the_gradient_is_exact_where_a_formula_is_known():
    """With one token of context and no blocks, logits are W n and the gradient of W is (1[v = t] - p_v) n."""
    settings = Settings(num_layers=0, num_heads=1, num_kv_heads=1, head_width=2)
    parameters = parameters_of(settings)
    x, gain, head = parameters["embedding.weight"][2], parameters["norm.gain"], parameters["head.weight"]
    normed = x / np.sqrt((x**2).mean() + settings.norm_epsilon) * gain
    p = np.exp(head @ normed) / np.exp(head @ normed).sum()
    value, gradient = step(parameters, settings, [[2, 5]], [[3.0]])
    assert value == pytest.approx(np.log(p[5]), rel=1e-14)
    np.testing.assert_allclose(gradient["head.weight"], np.outer(np.eye(7)[5] - p, normed), rtol=1e-13, atol=1e-15)


def test_the_probabilities_of_all_continuations_sum_to_one():
    parameters = parameters_of(GROUPED, vocab_size=4)
    total = sum(
        np.exp(token_log_probs(parameters, GROUPED, (1, *rest)).sum()) for rest in itertools.product(range(4), repeat=3)
    )
    assert total == pytest.approx(1, rel=1e-12)


def test_the_future_is_not_seen():
    parameters = parameters_of(GROUPED)
    whole = token_log_probs(parameters, GROUPED, [1, 2, 3, 4, 5])
    np.testing.assert_array_equal(token_log_probs(parameters, GROUPED, [1, 2, 3]), whole[:2])
    assert token_log_probs(parameters, GROUPED, [1]).shape == (0,)


def test_order_matters_and_a_weight_of_zero_does_not():
    parameters = parameters_of(GROUPED)
    a, b = (token_log_probs(parameters, GROUPED, tokens)[-1] for tokens in ([1, 2, 3, 4], [2, 1, 3, 4]))
    assert a != pytest.approx(b, rel=1e-6)
    alone = log_likelihood(parameters, GROUPED, [[1, 2, 3]], [[0.0, 1.0]])
    assert alone == pytest.approx(token_log_probs(parameters, GROUPED, [1, 2, 3])[1], rel=1e-15)


def test_it_is_quick_enough_to_be_used():
    parameters = parameters_of(GROUPED)
    assert sum(value.size for value in parameters.values()) > 700
    sequences = np.random.default_rng(0).integers(7, size=(3, 10)).tolist()
    started = time.perf_counter()
    step(parameters, GROUPED, sequences, np.ones((3, 9)).tolist())
    assert time.perf_counter() - started < 20
