import numpy as np
import pytest
import torch
from msgspec.structs import replace

from tests.examples import TINY, decoder, packed_of
from tests.oracles.decoder import Settings, token_log_probs as oracle_log_probs
from thetahat.core.batch import Inputs
from thetahat.core.visibility import Visibility
from thetahat.model.attention.cache import Cache
from thetahat.objective.factorization import causal
from thetahat.objective.log_prob import reference

SHAPES = [
    TINY,
    replace(TINY, ties_embeddings=True, rope_base=500.0),
    replace(TINY, num_layers=1, num_heads=1, num_kv_heads=1, head_width=6),
    replace(TINY, num_kv_heads=4),
]


def settings_of(config):
    names = ("num_layers", "num_heads", "num_kv_heads", "head_width", "rope_base", "norm_epsilon", "ties_embeddings")
    return Settings(**{name: getattr(config, name) for name in names})


def arrays_of(model):
    return {name: parameter.detach().double().numpy() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("config", SHAPES)
def test_every_log_probability_is_that_of_the_oracle(config):
    model = decoder(config, vocab_size=11)
    sequences = [[0, 3, 7, 1, 9, 10, 2], [5, 5, 1]]
    batch = causal(packed_of(sequences, [[1.0] * 6, [1.0] * 2]))
    log_probs = reference(model.hidden(batch.inputs).flatten(0, 1), model.head, batch.targets.flatten()).log_prob
    found = log_probs.view_as(batch.targets).detach().numpy()
    for row, tokens in enumerate(sequences):
        expected = oracle_log_probs(arrays_of(model), settings_of(config), tokens)
        np.testing.assert_allclose(found[row, : len(tokens) - 1], expected, rtol=1e-12, atol=1e-13)


def test_the_future_changes_no_bit_of_the_past():
    model = decoder(TINY, vocab_size=11, dtype=torch.float32)
    one, other = ([[0, 3, 7, 1, 9, 10, 2]], [[0, 3, 7, 1, 4, 6, 2]])
    hidden = [model.hidden(causal(packed_of(tokens, [[1.0] * 6])).inputs) for tokens in (one, other)]
    assert torch.equal(hidden[0][0, :4], hidden[1][0, :4])
    assert not torch.equal(hidden[0][0, 4:], hidden[1][0, 4:])


def test_a_document_changes_no_bit_of_its_row_mates():
    model = decoder(TINY, vocab_size=11, dtype=torch.float32)
    weights = [[1.0] * 3, [1.0] * 2, [1.0] * 3]
    one = causal(packed_of([[0, 1, 2, 3], [4, 5, 6], [7, 8, 9, 1]], weights, rows=[0, 0, 0]))
    other = causal(packed_of([[0, 1, 2, 3], [9, 2, 6], [7, 8, 9, 1]], weights, rows=[0, 0, 0]))
    a, b = model.hidden(one.inputs)[0], model.hidden(other.inputs)[0]
    assert torch.equal(a[:3], b[:3])
    assert torch.equal(a[5:], b[5:])
    assert not torch.equal(a[3:5], b[3:5])


def test_a_branch_reads_its_prefix_as_if_it_stood_alone():
    """Two continuations of one prefix, in one row: the second sees the prefix and not its sibling."""
    model = decoder(TINY, vocab_size=11)
    tokens = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 7]])  # prefix 0..2, branch 3..4, branch 5..7
    piece = torch.tensor([[0, 0, 0, 1, 1, 2, 2, 2]])
    position = torch.tensor([[0, 1, 2, 3, 4, 3, 4, 5]])
    ancestors = torch.tensor([[True, False, False], [True, True, False], [True, False, True]])
    tree = model.hidden(Inputs(tokens, position, Visibility(piece, ancestors)))[0]
    alone = model.hidden(causal(packed_of([[0, 1, 2, 5, 6, 7, 0]], [[1.0] * 6])).inputs)[0]
    torch.testing.assert_close(torch.cat([tree[:3], tree[5:]]), alone, rtol=1e-12, atol=1e-13)


def test_reading_through_the_cache_is_reading_at_once():
    model = decoder(TINY, vocab_size=11)
    tokens = torch.tensor([[0, 3, 7, 1, 9, 10, 2]])
    at_once = model.hidden(causal(packed_of([[*tokens[0].tolist(), 0]], [[1.0] * 7])).inputs)[0]
    cache = Cache(model.config, 1, 7, model.head.weight)
    first = Visibility(torch.zeros(1, 3, dtype=torch.int64), is_plain=True)
    states = [model.hidden(Inputs(tokens[:, :3], torch.arange(3)[None], first), cache)[0]]
    for place in range(3, 7):
        seen = Visibility(torch.zeros(1, 1, dtype=torch.int64), is_causal=False, is_plain=True, lengths=(1,))
        states.append(model.hidden(Inputs(tokens[:, place : place + 1], torch.tensor([[place]]), seen), cache)[0])
    torch.testing.assert_close(torch.cat(states), at_once, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_a_gradient_no_bit_is_another(dtype):
    model = decoder(TINY, vocab_size=11).to(dtype)
    inputs = causal(packed_of([[0, 3, 7, 1, 9, 10, 2], [5, 5, 1]], [[1.0] * 6, [1.0] * 2])).inputs
    with torch.no_grad():
        found = model.hidden(inputs)
    assert torch.equal(found, model.hidden(inputs))


def test_only_distance_matters_to_rotary_positions():
    model = decoder(TINY, vocab_size=11)
    batch = causal(packed_of([[0, 3, 7, 1, 9]], [[1.0] * 4]))
    moved = Inputs(batch.inputs.tokens, batch.inputs.position + 100, batch.inputs.visibility)
    torch.testing.assert_close(model.hidden(batch.inputs), model.hidden(moved), rtol=1e-10, atol=1e-11)
