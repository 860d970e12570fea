"""Counts that need no weights: parameters and floating-point operations."""

from thetahat.model.config import BlockConfig, EncoderDecoderConfig, ModelConfig


def num_parameters(config: ModelConfig, vocab_size: int) -> int:
    """Every trainable number, a tied embedding once; with a head over the vocabulary."""
    embeddings = vocab_size * config.width * (1 if config.ties_embeddings else 2)
    gains = 2 * config.width + 2 * config.head_width
    block = _matrix_weights(config) + gains
    total = embeddings + config.num_layers * block + config.width
    if isinstance(config, EncoderDecoderConfig):
        cross = _attention_weights(config) + config.width + 2 * config.head_width
        total += config.num_layers * cross + config.num_encoder_layers * block + config.width
    return total


def flops_per_token(config: ModelConfig, vocab_size: int, context: int) -> int:
    """Forward and backward, a multiply-add as two: 6 x (matrix weights, head once) + 12 x L x H x K x T.

    The convention of PaLM's appendix B (arXiv 2204.02311): attention counts as if it were not causal. For an
    encoder-decoder it is a token of the target and one of the source, of `context` positions each.
    """
    heads = config.num_heads * config.head_width
    weights, looks = config.num_layers * _matrix_weights(config) + vocab_size * config.width, config.num_layers
    if isinstance(config, EncoderDecoderConfig):
        # of the cross-attention, queries and output are of a target token, keys and values of a source token
        weights += config.num_layers * _attention_weights(config) + config.num_encoder_layers * _matrix_weights(config)
        looks += config.num_layers + config.num_encoder_layers
    return 6 * weights + 12 * looks * heads * context


def _matrix_weights(config: BlockConfig) -> int:
    return _attention_weights(config) + 3 * config.width * config.inner_width


def _attention_weights(config: BlockConfig) -> int:
    return config.width * config.head_width * (2 * config.num_heads + 2 * config.num_kv_heads)
