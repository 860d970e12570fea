import pytest
import torch
from msgspec.structs import replace

from tests.examples import SMALL, TINY
from thetahat.core.errors import ConfigError
from thetahat.model.config import DecoderConfig
from thetahat.model.decoder import Decoder
from thetahat.model.init import initialize
from thetahat.model.plan import flops_per_token, num_parameters


@pytest.mark.parametrize("config", [TINY, SMALL, replace(SMALL, ties_embeddings=True)])
def test_the_count_of_parameters_is_that_of_the_model(config):
    assert num_parameters(config, 50) == sum(parameter.numel() for parameter in Decoder(config, 50).parameters())


def test_flops_are_six_a_weight_and_twelve_a_score():
    """GPT-2 124M at 1,024 context: 854.7 MFLOP a token, with a GELU network of 4 x 768 as 8/3 of a gated one."""
    gpt2 = DecoderConfig(num_layers=12, width=768, num_heads=12, num_kv_heads=12, head_width=64, inner_width=2048)
    assert flops_per_token(gpt2, 50257, 1024) == pytest.approx(854.7e6, rel=1e-3)


def test_parameters_begin_as_a_function_of_seed_and_name():
    def begin(seed):
        model = Decoder(SMALL, 50)
        initialize(model, seed, SMALL.num_layers)
        return model

    first, again, other = begin(0), begin(0), begin(1)
    for (name, a), b, c in zip(first.named_parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        assert a.ndim < 2 or not torch.equal(a, c), name


def test_matrices_begin_with_the_variance_that_the_docstring_says():
    model = Decoder(replace(SMALL, width=256, inner_width=512), 2000)
    initialize(model, 0, SMALL.num_layers)
    block = model.blocks[0]
    assert block.mlp.up.weight.std().item() == pytest.approx(256**-0.5, rel=0.05)
    assert block.mlp.down.weight.std().item() == pytest.approx((512 * 2 * SMALL.num_layers) ** -0.5, rel=0.05)
    assert model.embedding.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert torch.equal(block.mlp_norm.gain, torch.ones(256))


@pytest.mark.parametrize("change", [{"num_kv_heads": 3}, {"head_width": 5}])
def test_an_impossible_shape_is_refused_with_a_cure(change):
    with pytest.raises(ConfigError, match="try: model"):
        replace(TINY, **change)
