import pytest
import torch
from msgspec.structs import replace
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.examples import SMALL, TINY, shape_of
from tests.interop.hub import CONFIGS
from thetahat.core.batch import Inputs, Source
from thetahat.core.config import override
from thetahat.core.errors import ConfigError
from thetahat.core.visibility import Visibility
from thetahat.interop.config import read_config
from thetahat.model.build import build_model
from thetahat.model.config import DecoderConfig, EncoderConfig, EncoderDecoderConfig
from thetahat.model.cost import flops_per_token, idle_parameters
from thetahat.model.decoder import Decoder
from thetahat.model.init import initialize
from thetahat.model.size import num_parameters

WIDE = shape_of(replace(SMALL, width=40))  # no two shapes alike
ENCODER, PAIR = EncoderConfig(**WIDE), EncoderDecoderConfig(**WIDE, num_encoder_layers=2)


OTHERS = [
    *(
        ["placement=post"],
        ["placement=sandwich", "skips_first_norm=true"],
        ["placement=branch", "skips_first_norm=true"],
    ),
    ["placement=none", "skips_first_norm=true"],
    *(["placement=parallel", "skips_first_norm=true"], ["skips_first_norm=true", "shares_layers=true"]),
    ["norm.kind=layer", "mlp.has_bias=true", "attention.has_bias=true", "attention.has_output_bias=true"],
    ["norm.kind=layer", "norm.has_bias=false", "attention.query_key_norm=joined", "head.has_bias=true"],
    ["attention.query_key_norm=none", "mlp.is_gated=false", "attention.relative.num_buckets=8"],
    ["embedding.positions={kind='learned', number=30, offset=2}", "embedding.num_types=2", "embedding.has_norm=true"],
    ["embedding.width=24", "head.transform={has_bias=true}", "head.has_bias=true"],
    ["head.transform={has_bias=false, has_norm=false}"],
    ["experts.num_experts=5", "experts.shared_width=7", "experts.inner_width=9"],
    ["experts.has_bias=false", "experts.num_dense=1", "experts.num_chosen=1"],
]


@pytest.mark.parametrize("pairs", OTHERS, ids=" ".join)
@pytest.mark.parametrize("config", [TINY, ENCODER, PAIR])
def test_parameters_are_counted_by_arithmetic_in_every_shape(config, pairs):
    """With labels, too, where a model may have them."""
    config = override(config, pairs)
    assert num_parameters(config, 50) == sum(p.numel() for p in build_model(config, 50).parameters())
    if isinstance(config, EncoderConfig):
        assert num_parameters(config, 50, 3) == sum(p.numel() for p in build_model(config, 50, 3).parameters())


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("config", [TINY, SMALL, ENCODER, PAIR])
def test_the_count_of_parameters_is_that_of_the_model(config, ties):
    config = replace(config, ties_embeddings=ties)
    assert num_parameters(config, 50) == sum(p.numel() for p in build_model(config, 50).parameters())


@pytest.mark.parametrize("ties", [False, True])
def test_labels_take_the_place_of_the_vocabulary_in_the_head_alone(ties):
    config = replace(ENCODER, ties_embeddings=ties)
    assert num_parameters(config, 50, 3) == sum(p.numel() for p in build_model(config, 50, 3).parameters())


EXPERTS = override(SMALL, ["experts.num_chosen=3", "experts.shared_width=24", "experts.num_dense=1"])


@pytest.mark.parametrize("config", [SMALL, ENCODER, PAIR, EXPERTS])
def test_flops_are_those_that_torch_counts_of_the_model(config):
    """In attention without fused kernels, which multiplies every query with every key."""
    model, tokens = build_model(config, 50), torch.arange(32).view(2, 16)
    initialize(model, 0)
    position, piece = torch.arange(16).expand(2, 16), torch.zeros(2, 16, dtype=torch.int64)
    source = Inputs(tokens, position, Visibility(piece, is_causal=False))
    inputs = Inputs(tokens, position, Visibility(piece), Source(source, piece))
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model.head(model.hidden(inputs).flatten(0, 1)).sum().backward()
    assert counter.get_total_flops() == flops_per_token(config, 50, 16) * tokens.numel()


PUBLISHED = {  # billions, all and active: Mixtral of Experts (arXiv 2401.04088), the cards of Qwen 3 and OLMoE
    "mixtral-8x7b": (46.7, 12.9),
    "qwen3-30b-a3b": (30.5, 3.3),
    "olmoe-1b-7b": (6.9, 1.3),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_and_those_active_for_a_token_are_the_published_ones(name):
    plain = CONFIGS[name]
    config = read_config(plain)
    model = build_model(config, plain["vocab_size"])
    total = num_parameters(config, plain["vocab_size"])
    assert (total / 1e9, (total - idle_parameters(model)) / 1e9) == pytest.approx(PUBLISHED[name], abs=0.06)


def test_flops_are_six_a_weight_and_twelve_a_score():
    """GPT-2 124M at 1,024 context: 854.7 MFLOP a token, with a GELU network of 4 x 768 as 8/3 of a gated one."""
    gpt2 = DecoderConfig(num_layers=12, width=768, num_heads=12, num_kv_heads=12, head_width=64, inner_width=2048)
    assert flops_per_token(gpt2, 50257, 1024) == pytest.approx(854.7e6, rel=1e-3)


def test_parameters_begin_as_a_function_of_seed_and_name():
    def begin(seed):
        model = Decoder(SMALL, 50)
        initialize(model, seed)
        return model

    first, again, other = begin(0), begin(0), begin(1)
    for (name, a), b, c in zip(first.named_parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        assert a.ndim < 2 or not torch.equal(a, c), name


def test_matrices_begin_with_the_variance_that_the_docstring_says():
    model = Decoder(replace(SMALL, width=256, inner_width=512), 2000)
    initialize(model, 0)
    block = model.blocks[0]
    assert block.mlp.up.weight.std().item() == pytest.approx(256**-0.5, rel=0.05)
    assert block.mlp.down.weight.std().item() == pytest.approx((512 * 2 * SMALL.num_layers) ** -0.5, rel=0.05)
    assert model.embedding.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert torch.equal(block.mlp_norm.gain, torch.ones(256))


def test_what_writes_into_one_residual_stream_shares_its_variance():
    """Two matrices a layer in an encoder, three in a decoder that reads a source."""
    model = build_model(EncoderDecoderConfig(**WIDE | {"width": 256}, num_encoder_layers=2), 50)
    initialize(model, 0)
    encoder, decoder = model.encoder.blocks[0], model.blocks[0]
    fan_in = SMALL.num_heads * SMALL.head_width
    assert encoder.attention.output.weight.std().item() == pytest.approx((fan_in * 2 * 2) ** -0.5, rel=0.05)
    for attention in (decoder.attention, decoder.cross_attention):
        assert attention.output.weight.std().item() == pytest.approx((fan_in * 3 * SMALL.num_layers) ** -0.5, rel=0.05)
    assert decoder.cross_attention.key.weight.std().item() == pytest.approx(256**-0.5, rel=0.05)


@pytest.mark.parametrize("change", [{"num_kv_heads": 3}, {"head_width": 5}])
def test_an_impossible_shape_is_refused_with_a_cure(change):
    with pytest.raises(ConfigError, match="try: model"):
        replace(TINY, **change)
