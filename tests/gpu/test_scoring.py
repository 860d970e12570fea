"""Scoring on a GPU: windows side by side, one group read while the next is prepared."""

from dataclasses import replace as change

import numpy as np
import pytest
import torch

from tests.scoring.test_scoring import CPU, FAMILIES, FINE, asked
from thetahat.distribution.world import World
from thetahat.scoring.likelihood import Reader, score_corpus

pytestmark = pytest.mark.gpu
CUDA = torch.device("cuda")


@pytest.mark.parametrize("batch_size", [1, 7, 64])
@pytest.mark.parametrize("name", [*FAMILIES, *FINE])
def test_every_token_on_cuda_is_that_of_a_cpu_in_float64(name, batch_size, tmp_path):
    _, corpus, policy, (model, exact) = asked(name, tmp_path)
    policy = change(policy, batch_size=batch_size)
    expected = score_corpus(exact, corpus, change(policy, dtype="float64"), World(), CPU)
    found = score_corpus(model.to(CUDA), corpus, policy, World(), CUDA)
    np.testing.assert_allclose(found.token_log_prob, expected.token_log_prob, rtol=1e-5, atol=2e-5)
    assert np.array_equal(found.context_length, expected.context_length)
    assert np.array_equal(found.tokens, expected.tokens)


@pytest.mark.parametrize("name", [*FAMILIES, *FINE])
def test_in_bfloat16_rows_of_many_shapes_are_as_near_to_float64_as_on_a_cpu(name, tmp_path):
    _, corpus, policy, (model, exact) = asked(name, tmp_path)
    expected = score_corpus(exact, corpus, change(policy, dtype="float64"), World(), CPU).token_log_prob
    policy = change(policy, dtype="bfloat16")
    here = np.abs(score_corpus(model, corpus, policy, World(), CPU).token_log_prob - expected)
    model.to(CUDA)
    for size in (1, 3, 64):
        found = score_corpus(model, corpus, change(policy, batch_size=size), World(), CUDA)
        there = np.abs(found.token_log_prob - expected)
        assert there.mean() < 2 * here.mean()
        assert there.max() < 4 * here.max()


def test_scoring_leaves_the_threads_and_the_kernels_as_they_were(tmp_path):
    _, corpus, policy, (model, _) = asked("causal on texts", tmp_path)
    before = torch.get_num_threads(), torch.backends.cuda.cudnn_sdp_enabled()
    score_corpus(model.to(CUDA), corpus, change(policy, dtype="bfloat16"), World(), CUDA)
    assert (torch.get_num_threads(), torch.backends.cuda.cudnn_sdp_enabled()) == before


def test_what_is_fetched_later_is_what_was_asked(tmp_path):
    _, corpus, policy, (model, _) = asked("causal on texts", tmp_path)
    reader = Reader(model.to(CUDA), corpus, change(policy, batch_size=1), CUDA)
    assert len(reader.groups) > 3
    for number, answers in reader.score(range(len(reader.groups))):
        alone = reader.score_group(number)
        assert np.array_equal(answers.token, alone.token)
        np.testing.assert_allclose(answers.log_prob, alone.log_prob, rtol=1e-6)


def test_in_deterministic_mode_no_bit_depends_on_the_batch_size(tmp_path):
    _, corpus, policy, (model, _) = asked("causal on texts", tmp_path)
    model = model.to(CUDA)
    found = [
        score_corpus(model, corpus, change(policy, deterministic=True, batch_size=size), World(), CUDA).token_log_prob
        for size in (1, 5, 256)
    ]
    assert all(np.array_equal(found[0], other) for other in found)
