import math
import random

import numpy as np
import pytest
from hypothesis import given, strategies as st

from tests.oracles import paired as oracle
from thetahat.statistics.interval import ratio_interval
from thetahat.statistics.paired import bootstrap_interval, effective_number, holm, sign_flip_p_value, wilson_interval

seeds = st.integers(0, 2**32 - 1)
probabilities = st.floats(0, 1)


def differences(seed, num_documents):
    draw = np.random.default_rng(seed)
    tokens = np.exp(draw.normal(5, 1, num_documents))
    return tokens * (0.02 + 0.045 * draw.standard_t(4, num_documents)), tokens


NUMBERS = st.floats(-3, 3).map(lambda x: round(x, 6))  # sums of which tie, or are apart by more than rounding


@given(st.lists(st.integers(-5, 5) | NUMBERS, max_size=9))
def test_up_to_12_differences_every_flip_is_tried(drawn):
    assert sign_flip_p_value(drawn) == pytest.approx(oracle.exact_p_value(drawn), abs=1e-12)


@given(seeds, st.integers(13, 15))
def test_sampled_flips_come_near_the_exact_p_value(seed, num_documents):
    nats, _ = differences(seed, num_documents)
    exact = oracle.exact_p_value(nats[:12]) if num_documents == 12 else _all_flips(nats)
    assert sign_flip_p_value(nats) == pytest.approx(exact, abs=5 * math.sqrt(exact * (1 - exact) / 10_000) + 2e-4)


def _all_flips(nats):
    n = len(nats)
    signs = 2 * (np.arange(2**n)[:, None] >> np.arange(n) & 1) - 1
    return float(np.mean(np.abs(signs @ nats) >= abs(nats.sum()) * (1 - 1e-12)))


def test_a_sampled_p_value_is_never_0():
    assert sign_flip_p_value([1.0] * 60) == 1 / 10_001


@pytest.mark.parametrize("count", [12, 13, 16, 17])
def test_where_every_flip_ties_p_is_1(count):
    assert sign_flip_p_value([0.1, -0.1] * (count // 2) + [0.0] * (count % 2)) == 1.0


@given(seeds, st.integers(2, 60), st.integers(0, 9))
def test_documents_without_a_difference_change_no_p_value(seed, num_documents, num_zeros):
    nats, _ = differences(seed, num_documents)
    assert sign_flip_p_value([*nats, *[0.0] * num_zeros]) == sign_flip_p_value(nats)


@given(seeds, st.integers(1, 60), st.randoms(use_true_random=False))
def test_neither_order_nor_direction_changes_a_p_value_nor_order_an_interval(seed, num_documents, shuffling):
    nats, tokens = differences(seed, num_documents)
    order = list(range(num_documents))
    shuffling.shuffle(order)
    assert sign_flip_p_value(nats[order]) == sign_flip_p_value(nats)
    if num_documents <= 12:
        assert sign_flip_p_value(-nats) == sign_flip_p_value(nats)
    if num_documents > 1:
        assert bootstrap_interval(nats[order], tokens[order]) == bootstrap_interval(nats, tokens)


@pytest.mark.parametrize("seed", range(3))
def test_a_bootstrap_interval_is_that_of_resampling_in_a_loop(seed):
    nats, tokens = differences(seed, 40)
    ratios = oracle.resampled_ratios(random.Random(seed), nats.tolist(), tokens.tolist(), 4000)
    estimate, low, high = bootstrap_interval(nats, tokens)
    expected_low, expected_high = np.quantile(ratios, [0.025, 0.975])
    assert estimate == pytest.approx(nats.sum() / tokens.sum())
    assert low == pytest.approx(expected_low, abs=0.08 * (high - low))
    assert high == pytest.approx(expected_high, abs=0.08 * (high - low))


@given(seeds, st.floats(0.001, 1000))
def test_a_bootstrap_interval_scales_with_its_numerator(seed, factor):
    nats, tokens = differences(seed, 20)
    expected = [factor * end for end in bootstrap_interval(nats, tokens)]
    assert bootstrap_interval(factor * nats, tokens) == pytest.approx(expected)


def test_with_less_confidence_an_interval_is_shorter():
    nats, tokens = differences(0, 100)
    wide, narrow = bootstrap_interval(nats, tokens), bootstrap_interval(nats, tokens, 0.8)
    assert wide.low < narrow.low < narrow.high < wide.high


@pytest.mark.parametrize("numerator", [[], [3.0]])
def test_one_document_cannot_be_resampled(numerator):
    assert math.isnan(bootstrap_interval(numerator, [2.0] * len(numerator)).low)


def test_documents_of_no_length_do_not_divide_by_0():
    found = bootstrap_interval([1.0, 0.0, 0.0], [1.0, 0.0, 0.0])
    assert found.low == found.high == found.estimate == 1.0


@given(st.integers(1, 500), st.floats(0, 1))
def test_a_wilson_interval_has_the_ends_of_its_equation(total, share):
    count = round(share * total)
    estimate, low, high = wilson_interval(count, total)
    assert estimate == count / total
    assert (low, high) == pytest.approx(oracle.wilson(count, total, 1.959963984540054), abs=1e-9)


def test_a_wilson_interval_of_nothing_is_none():
    assert all(map(math.isnan, wilson_interval(0, 0)))


@given(st.lists(st.booleans(), min_size=1, max_size=30), st.integers(1, 4))
def test_answers_of_their_own_count_singly_and_the_same_answer_many_times_once(is_right, times):
    count = len(is_right)
    assert effective_number([str(index) for index in range(count)], is_right) == count
    repeated = effective_number([str(index) for index in range(count)] * times, is_right * times)
    assert repeated == pytest.approx(count)
    ours, theirs = (wilson_interval(sum(is_right) * n, count * n, effective=float(count)) for n in (1, times))
    assert ours == pytest.approx(theirs)


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.booleans()), min_size=1, max_size=40))
def test_clusters_are_worth_no_more_than_their_answers(pairs):
    clusters, is_right = zip(*pairs, strict=True)
    assert 0 < effective_number(clusters, is_right) <= len(pairs)


def test_wilson_s_interval_of_clusters_covers_a_share_and_that_of_single_answers_does_not():
    generator = np.random.default_rng(7)
    covered = np.zeros(2)
    for _ in range(400):
        shares = generator.beta(2, 1, 60)  # of the questions of a passage, which are alike: 2/3 on average
        sizes = generator.integers(1, 9, 60)
        clusters = np.repeat(np.arange(60), sizes).astype(str).tolist()
        is_right = (generator.random(sizes.sum()) < np.repeat(shares, sizes)).tolist()
        for way, effective in enumerate((None, effective_number(clusters, is_right))):
            _, low, high = wilson_interval(sum(is_right), len(is_right), effective=effective)
            covered[way] += low <= 2 / 3 <= high
    assert covered[0] / 400 < 0.9
    assert 0.92 < covered[1] / 400 < 0.98


@given(st.lists(probabilities, max_size=8))
def test_holm_adjusts_like_its_definition(p_values):
    assert holm(p_values) == pytest.approx(oracle.holm(p_values))
    assert all(p <= adjusted <= 1 for p, adjusted in zip(p_values, holm(p_values), strict=True))


# Simulated datasets: what the intervals promise, and whether they keep it


EFFECT, SPREAD, NOISE = 0.02, 0.045, 0.5  # nats per token: of all documents, of a document (times t4), of a token


def simulated(draw, num_datasets, num_documents, effect=EFFECT):
    """Differences and lengths [datasets, documents], ln t ~ N(5, 1), d = t (effect + 0.045 t4) + noise of t tokens.

    Effects do not depend on lengths, so the ratio of the population, E[d] / E[t], is `effect`.
    """
    shape = (num_datasets, num_documents)
    tokens = np.maximum(np.rint(np.exp(draw.normal(5, 1, shape))), 1)
    level = effect + SPREAD * draw.standard_t(4, shape)
    return tokens * level + np.sqrt(tokens) * draw.normal(0, NOISE, shape), tokens


def half_width_by_token(draw, nats, tokens):
    """Of the usual interval, which takes each token for itself: 1.96 standard deviations of a token / sqrt(tokens).

    The squares within documents are drawn from their distribution, chi-squared with one degree less than tokens.
    """
    total = tokens.sum()
    between = (tokens * (nats / tokens - nats.sum() / total) ** 2).sum()
    within = NOISE**2 * draw.chisquare(total - len(tokens))
    return 1.96 * math.sqrt((between + within) / (total - 1) / total)


@pytest.mark.parametrize("num_documents", [100, 400, 2000])
def test_a_clustered_interval_covers_the_population_s_ratio_and_one_over_tokens_does_not(num_documents):
    draw = np.random.default_rng(20 + num_documents)
    covered = by_token = 0
    for _ in range(20):
        for nats, tokens in zip(*simulated(draw, 100, num_documents), strict=True):
            estimate, low, high = ratio_interval(nats, tokens)
            covered += low <= EFFECT <= high
            by_token += abs(estimate - EFFECT) <= half_width_by_token(draw, nats, tokens)
    print(f"{num_documents} documents: clustered {covered / 2000:.2%}, by token {by_token / 2000:.2%}")
    assert 0.925 <= covered / 2000 <= 0.97
    assert by_token / 2000 < 0.6


def test_a_bootstrap_interval_of_100_documents_covers_nearly_as_often():
    covered = 0
    for nats, tokens in zip(*simulated(np.random.default_rng(7), 300, 100), strict=True):
        _, low, high = bootstrap_interval(nats, tokens)
        covered += low <= EFFECT <= high
    print(f"bootstrap, 100 documents: {covered / 300:.2%}")
    assert 0.90 <= covered / 300 <= 0.98


@pytest.mark.parametrize("num_documents", [10, 100])
def test_where_models_are_alike_the_sign_flip_test_finds_a_difference_in_5_of_100_datasets(num_documents):
    nats, _ = simulated(np.random.default_rng(11), 1000, num_documents, effect=0.0)
    found = float(np.mean([sign_flip_p_value(dataset) < 0.05 for dataset in nats]))
    print(f"false positives, {num_documents} documents: {found:.2%}")
    assert 0.03 <= found <= 0.07


@given(st.integers(13, 80), st.integers(0, 10**6))
def test_b_against_a_has_the_p_value_of_a_against_b(count, seed):
    d = np.random.default_rng(seed).standard_normal(count) + 0.2
    assert sign_flip_p_value(-d) == sign_flip_p_value(d)


@given(seeds, st.integers(1, 60), st.lists(st.sampled_from([-2.0, -1.0, 0.0, 1.0, 2.0]), max_size=9))
def test_b_against_a_has_the_mirrored_interval_of_a_against_b(seed, num_documents, tied):
    nats, tokens = differences(seed, num_documents)
    d, t = [*nats, *tied], [*tokens, *[1.0] * len(tied)]
    estimate, low, high = bootstrap_interval(d, t)
    assert bootstrap_interval(np.negative(d), t) == pytest.approx((-estimate, -high, -low), rel=0, abs=0, nan_ok=True)
