"""Promise 1 against the oracle: the value and the gradient of a step, however the batch is cut."""

from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given, settings as hypothesis_settings, strategies as st
from msgspec.structs import replace

from tests.examples import TINY, packed_of, run_config, state_of, with_normalization
from tests.model.test_decoder import arrays_of, settings_of
from tests.oracles.decoder import step as oracle_step
from thetahat import find_recipe, override
from thetahat.core.errors import DataError
from thetahat.core.work.threads import Workers
from thetahat.distribution.world import World
from thetahat.model.config import AttentionConfig
from thetahat.objective.config import ObjectiveConfig
from thetahat.objective.factorization import causal
from thetahat.run.step import step

VOCABULARY = 11
BIASES = AttentionConfig(has_bias=True, has_output_bias=True)
SHAPE = replace(TINY, num_layers=1, width=16, head_width=8, inner_width=24)
SEQUENCES = [[0, 3, 7, 1, 9, 10, 2, 4], [5, 5, 1], [8, 2], [0, 6, 6, 3, 1]]
WEIGHTS = [[1.0, 1.0, 0.0, 0.5, 1.0, 2.0, 1.0], [1.0, 1.0], [3.0], [0.0, 0.25, 1.0, 1.0]]

# each: micro-batches, and in each the sequences of every row
CUTTINGS = {
    "one batch": [[[0], [1], [2], [3]]],
    "one by one": [[[0]], [[1]], [[2]], [[3]]],
    "ragged accumulation": [[[0]], [[1], [2], [3]]],
    "packed": [[[0], [1, 2, 3]]],
    "packed in one row": [[[0, 1, 2, 3]]],
    "packed and accumulated": [[[0, 2]], [[1, 3]]],
    "shuffled": [[[2], [0], [3], [1]]],
    "shuffled, packed, accumulated": [[[3, 0], [2]], [[1]]],
}


def batches_of(cutting, normalization="token", width=None):
    batches = []
    for rows in cutting:
        order = [index for row in rows for index in row]
        places = [place for place, row in enumerate(rows) for _ in row]
        packed = packed_of([SEQUENCES[i] for i in order], [WEIGHTS[i] for i in order], places)
        batches.append(causal(packed, ObjectiveConfig(normalization=normalization), width))
    return batches


def outcome(config, batches):
    state = state_of(config, VOCABULARY)
    report = step(state, batches, World())
    return report, {name: p.grad.double().numpy() for name, p in state.model.named_parameters()}


def distance(found, expected):
    whole = np.sqrt(sum((g**2).sum() for g in expected.values()))
    return max(np.linalg.norm(found[name] - g) / max(np.linalg.norm(g), 1e-3 * whole) for name, g in expected.items())


@pytest.fixture(scope="module")
def expected():
    """Value and gradient of the whole batch, by token and by sequence; uphill, so of the opposite sign of `.grad`."""
    model = state_of(run_config(SHAPE), VOCABULARY).model
    by_sequence = [[w / sum(v > 0 for v in row) for w in row] for row in WEIGHTS]
    found = {}
    for normalization, weights in (("token", WEIGHTS), ("sequence", by_sequence)):
        value, gradient = oracle_step(arrays_of(model), settings_of(SHAPE), SEQUENCES, weights)
        found[normalization] = value, {name: -g for name, g in gradient.items()}
    return found


@pytest.mark.parametrize("normalization", ["token", "sequence"])
@pytest.mark.parametrize("cutting", CUTTINGS)
def test_a_step_is_the_oracle_s_whatever_the_cutting(cutting, normalization, expected):
    value, gradient = expected[normalization]
    for dtype, bound in (("float64", 1e-12), ("float32", 2e-6)):
        config = with_normalization(run_config(SHAPE, dtype=dtype), normalization)
        report, found = outcome(config, batches_of(CUTTINGS[cutting], normalization))
        assert report.total.mean().item() == pytest.approx(value, rel=bound)
        assert distance(found, gradient) <= bound


@pytest.mark.parametrize("change", ["padded", "chunked"])
def test_a_step_does_not_depend_on_padding_or_chunks(change, expected):
    value, gradient = expected["token"]
    config = with_normalization(run_config(SHAPE), "token", chunk_size=3 if change == "chunked" else 0)
    batches = batches_of(CUTTINGS["ragged accumulation"], width=40 if change == "padded" else None)
    report, found = outcome(config, batches)
    assert report.total.mean().item() == pytest.approx(value, rel=1e-12)
    assert distance(found, gradient) <= 1e-12


def test_a_sum_is_the_mean_times_its_weight(expected):
    value, gradient = expected["token"]
    weight = sum(map(sum, WEIGHTS))
    config = with_normalization(run_config(SHAPE), "sum")
    report, found = outcome(config, batches_of(CUTTINGS["packed"]))
    assert report.total.log_prob.item() == pytest.approx(value * weight, rel=1e-12)
    assert distance(found, {name: g * weight for name, g in gradient.items()}) <= 1e-12


def any_cutting(seed):
    """The sequences in any order, in micro-batches of rows."""
    draw, cutting = np.random.default_rng(seed), []
    for index in draw.permutation(len(SEQUENCES)).tolist():
        choice = draw.integers(3)
        if not cutting or choice == 0:
            cutting.append([[index]])
        elif choice == 1:
            cutting[-1].append([index])
        else:
            cutting[-1][-1].append(index)
    return cutting


@hypothesis_settings(max_examples=25)
@given(seed=st.integers(0, 10_000))
def test_any_two_cuttings_give_the_same_step(seed):
    cutting = any_cutting(seed)
    plain, gradient = outcome(run_config(SHAPE), batches_of(CUTTINGS["one batch"]))
    other, found = outcome(run_config(SHAPE), batches_of(cutting))
    assert other.total.mean().item() == pytest.approx(plain.total.mean().item(), rel=1e-12)
    assert distance(found, gradient) <= 1e-12


def test_an_update_goes_uphill():
    config = run_config(SHAPE, max_steps=30)
    state = state_of(config, VOCABULARY)
    values = [step(state, batches_of(CUTTINGS["packed"]), World()).total.mean().item() for _ in range(30)]
    assert values[-1] > values[0] + 1
    assert state.step == 30
    assert state.tokens == 30 * sum(w > 0 for row in WEIGHTS for w in row)


def test_a_batch_that_asks_nothing_is_an_error():
    packed = packed_of([[1, 2, 3]], [[0.0, 0.0]])
    with pytest.raises(DataError, match=r"no targets.*s0"):
        step(state_of(run_config(SHAPE), VOCABULARY), [causal(packed)], World())


def test_a_micro_batch_without_targets_among_others_counts_nothing(expected):
    empty = causal(packed_of([[1, 2, 3]], [[0.0, 0.0]]))
    _, found = outcome(run_config(SHAPE), [empty, *batches_of(CUTTINGS["one batch"])])
    assert distance(found, expected["token"][1]) <= 1e-12


@pytest.mark.parametrize("mutation", ["mean of means", "unweighted divisor"])
def test_the_comparison_sees_a_wrong_divisor(mutation, monkeypatch, expected):
    """What the field got wrong for years is caught by the tests above."""
    from thetahat.run import step as module

    right = module.terms
    batches = batches_of(CUTTINGS["ragged accumulation"])

    def mean_of_means(model, batch, *others):
        found = right(model, batch, *others)
        share = sum(b.weight() for b in batches) / len(batches)
        return found._replace(value=found.value / found.total.weight * share)

    if mutation == "mean of means":
        monkeypatch.setattr(module, "terms", mean_of_means)
    else:
        counts = sum(float((b.weights > 0).sum()) for b in batches)
        monkeypatch.setattr(module, "weigh", lambda batches, world: (counts, int(counts)))
    _, found = outcome(run_config(SHAPE), batches)
    assert distance(found, expected["token"][1]) > 1e-2


def test_dropout_is_a_function_of_seed_and_step():
    config = run_config(replace(SHAPE, dropout=0.5))
    first, again = (outcome(config, batches_of(CUTTINGS["packed"]))[1] for _ in range(2))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    other = outcome(replace(config, seed=1), batches_of(CUTTINGS["packed"]))[1]
    assert distance(other, first) > 1e-3
    assert torch.is_grad_enabled()


def read_by(workers, choices, batches):
    """Value, gradients and what was noted of each micro-batch."""
    config = run_config(replace(SHAPE, **choices))
    state = state_of(replace(config, objective=replace(config.objective, z_loss=1e-2)), VOCABULARY)
    state.workers, noted = workers, []
    report = step(state, batches, World(), lambda batch, told: noted.append((batch.targets, told.log_prob)))
    gradients = {name: p.grad for name, p in state.model.named_parameters()}
    return [report.total.log_prob, report.gradient_norm, report.z_loss], gradients, noted


@pytest.mark.parametrize(
    "choices", [{"ties_embeddings": True}, {"shares_layers": True, "num_layers": 2}, {"attention": BIASES}]
)
@pytest.mark.parametrize("cutting", ["one by one", "ragged accumulation", "shuffled, packed, accumulated"])
def test_micro_batches_read_at_once_have_the_bits_of_one_after_the_other(cutting, choices):
    batches = batches_of(CUTTINGS[cutting])
    values, gradients, noted = read_by(Workers(), choices, batches)
    for number in (2, 3):
        again = read_by(Workers(number), choices, batches)
        assert all(map(torch.equal, values, again[0]))
        assert [name for name, one in gradients.items() if not torch.equal(one, again[1][name])] == []
        assert len(noted) == len(again[2])
        assert all(map(torch.equal, chain(*noted), chain(*again[2])))


def test_what_one_thread_reads_that_fails_fails_the_step():
    state = state_of(run_config(SHAPE), VOCABULARY)
    state.workers = Workers(2)
    batches = batches_of(CUTTINGS["one by one"])
    batches[1].inputs.tokens[:] = VOCABULARY
    with pytest.raises(IndexError):
        step(state, batches, World())


@pytest.mark.parametrize(
    ("keys", "number"),
    [
        ([], 2),
        (["threads=3"], 3),
        (["threads=1"], 1),
        (["threads=64"], 8),  # gradients
        (["threads=64", "micro_batch_size=6"], 6),  # rows
        (["threads=64", "data.context=96"], 6),  # 1,536 positions
        (["batch_size=2", "data.context=128"], 1),
        (["batch_size=1", "data.context=4096"], 1),
        (["model.dropout=0.1"], 1),
        (["model.experts.num_experts=4"], 1),
        (["compile=true"], 1),
        (["device=cuda"], 1),
        (["mesh.shards=2"], 1),
        (["mesh.context=2"], 1),
        (["mesh.tensor=2"], 1),
        (["mesh.pipeline=2"], 1),
    ],
)
def test_how_many_are_read_at_once(keys, number):
    config = override(find_recipe("quickstart"), ["threads=2", *keys])
    assert config.num_at_once == number
