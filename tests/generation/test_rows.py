"""Rows of a model's table that no token uses."""

import pytest
import torch
from msgspec.structs import replace

from tests.examples import TINY, lively
from thetahat.generation.beam import Beam, extensions, search
from thetahat.generation.rows import begin_decoding
from thetahat.generation.sample import Sampling, draw
from thetahat.generation.writing import Ends, Writing
from thetahat.model.build import build_model


def test_rows_of_no_token_are_never_written():
    """The rows beyond are made the most likely by far, and still count in what a beam's likelihood is divided by."""
    model = lively(build_model(replace(TINY, ties_embeddings=True), 40), torch.float32)
    with torch.no_grad():
        model.embedding.weight[20:] += 3 * model.embedding.weight[:20].sum(0)
    sampling = Sampling(max_tokens=12)

    def rows(number=1):
        return begin_decoding(model, [[1, 2]] * number, 32, 12)

    texts = [Writing(Ends(max_tokens=12), [b"a"] * 20)]
    for _ in draw(rows(), sampling, [torch.Generator().manual_seed(0)], texts):
        pass
    (found,) = search(rows(), Beam(num_beams=2, max_tokens=12), [Writing(Ends(max_tokens=12), [b"a"] * 20)])
    assert max(*texts[0].tokens, *found.tokens) < 20
    with torch.no_grad():
        log_probs = rows().read().log_softmax(-1)
    (extended,) = extensions(rows().read(), torch.zeros(1, 1), 1, 20)
    assert extended[0].log_prob == pytest.approx(float(log_probs[0, :20].max()), rel=1e-6)
