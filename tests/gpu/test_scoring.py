"""Scoring on a GPU: windows side by side, one group read while the next is prepared."""

from dataclasses import replace as change

import numpy as np
import pytest
import torch

from tests.evaluation.test_scoring import CPU, FAMILIES, FINE, asked
from thetahat.distribution.world import World
from thetahat.evaluation.likelihood import Reader, score_corpus

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


def test_what_is_fetched_later_is_what_was_asked(tmp_path):
    _, corpus, policy, (model, _) = asked("causal on texts", tmp_path)
    reader = Reader(model.to(CUDA), corpus, change(policy, batch_size=1), CUDA)
    assert len(reader.groups) > 3
    for number, answers in reader.answers(range(len(reader.groups))):
        alone = reader.read(number)
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
