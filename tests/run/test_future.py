"""Targets behind the next one: apart from the likelihood, within their documents, the same however a step is cut."""

import json
from dataclasses import replace as replace_fields

import numpy as np
import pytest
import torch
from hypothesis import given, settings as hypothesis_settings, strategies as st
from msgspec.structs import replace

from tests.examples import TINY, packed_of, run_config, state_of, trees
from tests.model.test_decoder import arrays_of
from tests.objective.layouts import SYMBOLS
from tests.oracles.composed import Composed
from tests.run.test_step import CUTTINGS, SEQUENCES, VOCABULARY, WEIGHTS, any_cutting, distance
from thetahat.core.config import override, to_plain
from thetahat.core.errors import ConfigError
from thetahat.distribution.world import World
from thetahat.model.config import AttentionMixer, DecoderConfig, ExpertsConfig
from thetahat.model.size import num_parameters
from thetahat.objective.config import ObjectiveConfig, Prefix
from thetahat.objective.factorization import causal, factor
from thetahat.run.step import step
from thetahat.run.terms.future import Foresight

LAMBDAS = (0.3, 0.7)
AHEAD = ObjectiveConfig(future=LAMBDAS)
SHAPES = {
    "plain": replace(TINY, num_future=2),
    "tied, norms behind, a window": replace(
        TINY,
        num_future=2,
        placement="post",
        ties_embeddings=True,
        layers=(AttentionMixer(), AttentionMixer(distance=2)),
    ),
    "experts": replace(TINY, num_future=2, experts=ExpertsConfig(num_experts=4)),
}


def batches_of(cutting, objective=AHEAD, width=None):
    batches = []
    for rows in cutting:
        order = [index for row in rows for index in row]
        places = [place for place, row in enumerate(rows) for _ in row]
        packed = packed_of([SEQUENCES[i] for i in order], [WEIGHTS[i] for i in order], places)
        batches.append(causal(packed, objective, width))
    return batches


def outcome(shape, cutting, objective=AHEAD, width=None, **changes):
    state = state_of(run_config(shape, objective=objective, **changes), VOCABULARY)
    report = step(state, batches_of(cutting, objective, width), World())
    return report, {name: p.grad.double().numpy() for name, p in state.model.named_parameters() if p.grad is not None}


def log_softmax(logits):
    return logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()


def ascended(shape, parameters, normalization="token"):
    """By the definition, a document after another: the mean log-likelihood, and of each distance Σ w log p and Σ w."""
    total, weight, ahead = 0.0, 0.0, np.zeros((len(LAMBDAS), 2))
    for tokens, weights in zip(SEQUENCES, WEIGHTS, strict=True):
        counts = [w / (sum(v > 0 for v in weights) if normalization == "sequence" else 1) for w in weights]
        of_token = dict(enumerate(counts, start=1))  # what each token counts for as a target
        oracle = Composed(to_plain(shape), parameters)
        for n, logits in enumerate([oracle.logits(tokens), *oracle.logits_ahead(tokens)], start=1):
            for read in range(len(tokens) - n):
                value, w = log_softmax(logits[read])[tokens[read + n]], of_token[read + n]
                if n == 1:
                    total, weight = total + w * value, weight + w
                else:
                    ahead[n - 2] += w * value, w
    return total / weight, ahead, weight


@pytest.mark.parametrize(("kind", "normalization"), [("plain", "token"), ("tied, norms behind, a window", "sequence")])
def test_value_terms_and_gradient_are_those_of_the_oracle(kind, normalization):
    shape, objective = SHAPES[kind], replace(AHEAD, normalization=normalization)
    report, gradients = outcome(shape, CUTTINGS["packed and accumulated"], objective)
    parameters = arrays_of(state_of(run_config(shape, objective=objective), VOCABULARY).model)
    value, ahead, weight = ascended(shape, parameters, normalization)
    assert report.total.mean().item() == pytest.approx(value, rel=1e-12)  # no further target in it
    np.testing.assert_allclose(report.foreseen.sums, ahead, rtol=1e-12)
    draw = np.random.default_rng(0)
    for name, gradient in [*gradients.items()][::3]:
        place = tuple(draw.integers(size) for size in gradient.shape)
        ends = []
        for shift in (1e-6, -1e-6):
            moved = parameters[name].copy()
            moved[place] += shift
            value, ahead, _ = ascended(shape, parameters | {name: moved}, normalization)
            ends.append(-value - np.dot(LAMBDAS, ahead[:, 0]) / weight)
        assert gradient[place] == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5, abs=1e-8), name


@hypothesis_settings(max_examples=10)
@given(seed=st.integers(0, 10_000), kind=st.sampled_from(list(SHAPES)), width=st.sampled_from([None, 30]))
def test_no_cutting_changes_the_terms_or_the_gradient(seed, kind, width):
    plain, expected = outcome(SHAPES[kind], CUTTINGS["one batch"])
    other, found = outcome(SHAPES[kind], any_cutting(seed), width=width)
    assert distance(found, expected) <= 1e-12
    assert other.foreseen.to_dict() == pytest.approx(plain.foreseen.to_dict(), rel=1e-12)
    assert other.total.mean().item() == pytest.approx(plain.total.mean().item(), rel=1e-12)


@pytest.mark.parametrize("changes", [{"recompute": 2}, {"micro_batch_size": 1}], ids=str)
def test_layers_that_are_computed_again_and_chunks_of_logits_change_nothing(changes):
    _, expected = outcome(SHAPES["plain"], CUTTINGS["packed"])
    _, found = outcome(SHAPES["plain"], CUTTINGS["packed"], replace(AHEAD, chunk_size=2), **changes)
    assert distance(found, expected) <= 1e-12


def paths_of(packed):
    """Each token's path, by hand: of each piece the tokens before it, each with its piece and its place in it."""
    pieces = [(packed.piece == number).nonzero()[:, 0].tolist() for number in range(len(packed.row))]
    whole = []
    for mine, parent in zip(pieces, packed.parent.tolist(), strict=True):
        whole.append(mine if parent < 0 else [*whole[parent][:-1], *mine])
    return pieces, whole


@hypothesis_settings(max_examples=25)
@given(seed=st.integers(0, 10_000))
def test_in_a_tree_every_target_is_predicted_once_from_its_own_path(seed):
    packed = trees(seed, 2, 24, VOCABULARY)
    batch = causal(packed, AHEAD)
    pieces, whole = paths_of(packed)
    at = {}  # what each place of the batch reads
    places = torch.arange(batch.targets.numel()).view_as(batch.targets)
    for number, mine in enumerate(pieces):
        here = places[batch.inputs.visibility.piece == number].tolist()
        at |= dict(zip(here, mine[:-1], strict=True))
    for n, ahead in enumerate(batch.future, start=2):
        found = sorted(
            (at[place], target) for place, target in zip(ahead.place.tolist(), ahead.target.tolist(), strict=True)
        )
        expected = []
        for mine, path in zip(pieces, whole, strict=True):
            for target in mine[1:]:
                before = path.index(target) - n
                if before >= 0:
                    read = path[before]
                    expected.append((read, int(packed.tokens[target])))
        assert found == sorted(expected)


def test_a_branched_text_has_the_terms_that_its_branches_have_apart():
    shape, objective = replace(TINY, num_future=3), ObjectiveConfig(future=(0.3, 0.7, 0.2))
    config = run_config(shape, objective=objective)
    stem, ends = [3, 1, 4, 1], [[5, 9, 2, 6], [0, 8]]
    tree = packed_of(
        [stem, [1, *ends[0]], [1, *ends[1]]],
        [[1] * 3, [1] * 4, [1] * 2],
        [0, 0, 0],
        parents=[-1, 0, 0],
        starts=[0, 3, 3],
    )
    apart = packed_of([[*stem, *ends[0]], [*stem, *ends[1]]], [[1] * 7, [0] * 3 + [1] * 2])
    found = []
    for packed in (tree, apart):
        state = state_of(config, VOCABULARY)
        report = step(state, [causal(packed, objective)], World())
        found.append((report, {name: p.grad.double().numpy() for name, p in state.model.named_parameters()}))
    np.testing.assert_allclose(found[0][0].foreseen.sums, found[1][0].foreseen.sums, rtol=1e-12)
    assert distance(found[0][1], found[1][1]) <= 1e-12


def test_targets_of_a_prefix_are_behind_the_prompt():
    objective = ObjectiveConfig(factorization=Prefix(), future=(1.0,))
    prompts = [[True, True, True, False, False, False]]
    packed = packed_of([[3, 1, 4, 1, 5, 9]], [[0, 0, 1, 1, 1]], prompts=prompts)
    (ahead,) = factor(packed, objective, SYMBOLS).future
    assert list(zip(ahead.place.tolist(), ahead.target.tolist(), strict=True)) == [(1, 1), (2, 5), (3, 9)]


def test_the_likelihood_and_the_first_parameters_are_those_without_further_targets():
    without, _ = outcome(TINY, CUTTINGS["packed"], ObjectiveConfig())
    report, gradients = outcome(SHAPES["plain"], CUTTINGS["packed"])
    assert report.total.log_prob.equal(without.total.log_prob)
    assert any(name.startswith("future.") for name in gradients)


def test_weights_of_zero_ask_nothing():
    none = replace(AHEAD, future=(0.0, 0.0))
    report, gradients = outcome(SHAPES["plain"], CUTTINGS["packed"], none)
    _, expected = outcome(TINY, CUTTINGS["packed"], ObjectiveConfig())
    assert report.foreseen is None
    assert set(gradients) == set(expected)
    assert distance(gradients, expected) == 0


def test_what_is_read_for_the_sake_of_others_counts_nowhere():
    config = run_config(SHAPES["plain"], objective=AHEAD)
    batches = batches_of(CUTTINGS["one batch"])
    plain = step(state_of(config, VOCABULARY), batches, World())
    report = step(state_of(config, VOCABULARY), [*batches, batches_of([[[0]]])[0].idle()], World())
    np.testing.assert_allclose(report.foreseen.sums, plain.foreseen.sums, rtol=1e-12)


MUTATIONS = {
    "a place too early": lambda ahead: replace_fields(ahead, place=(ahead.place - 1).clamp(min=0)),
    "a mean": lambda ahead: replace_fields(ahead, weight=ahead.weight / ahead.weight.sum()),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_fault_is_seen(mutation, monkeypatch):
    gain = Foresight.gain
    monkeypatch.setattr(
        Foresight,
        "gain",
        lambda self, batch: gain(self, replace_fields(batch, future=tuple(map(MUTATIONS[mutation], batch.future)))),
    )
    shape = SHAPES["plain"]
    report, _ = outcome(shape, CUTTINGS["packed and accumulated"])
    _, ahead, _ = ascended(shape, arrays_of(state_of(run_config(shape, objective=AHEAD), VOCABULARY).model))
    assert np.abs(report.foreseen.sums.numpy() - ahead).max() > 1e-3


@pytest.mark.parametrize("kind", SHAPES)
def test_the_size_is_that_of_the_model(kind):
    model = state_of(run_config(SHAPES[kind], objective=AHEAD), VOCABULARY).model
    assert num_parameters(SHAPES[kind], VOCABULARY) == sum(one.numel() for one in model.parameters())


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        (["model.num_future=2"], "model.num_future=2: .*\n.*2 weights\n.*0.3, 0.3"),
        (["objective.future=[0.3]"], "model.num_future=0: .*\n.*0 weights\n.*model.num_future=1"),
        (
            ["model.num_future=1", "objective.future=[0.3]", "transfer.width=160", "transfer.num_layers=4"],
            "transfer with model.num_future=1",
        ),
        (["model.num_future=1", "objective.future=[-1]"], "objective.future.0=-1 does not fit"),
        (["model.num_future=17"], "<= 16"),
    ],
)
def test_what_does_not_go_together_is_refused(pairs, said):
    with pytest.raises(ConfigError, match=said):
        override(run_config(DecoderConfig()), pairs)


def test_its_numbers_are_lines_of_json():
    report, _ = outcome(SHAPES["plain"], CUTTINGS["packed"])
    names = [f"log_likelihood_per_token_{n}_ahead" for n in (2, 3)]
    assert list(json.loads(json.dumps(report.foreseen.to_dict()))) == names
