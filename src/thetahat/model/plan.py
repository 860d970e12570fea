"""Counts that need no weights: parameters and floating-point operations."""

from thetahat.model.config import DecoderConfig


def num_parameters(config: DecoderConfig, vocab_size: int) -> int:
    """Every trainable number, a tied embedding once."""
    embeddings = vocab_size * config.width * (1 if config.ties_embeddings else 2)
    gains = 2 * config.width + 2 * config.head_width
    return embeddings + config.num_layers * (_matrix_weights(config) + gains) + config.width


def flops_per_token(config: DecoderConfig, vocab_size: int, context: int) -> int:
    """Forward and backward, a multiply-add as two: 6 x (matrix weights, head once) + 12 x L x H x K x T.

    The convention of PaLM's appendix B (arXiv 2204.02311): attention counts as if it were not causal.
    """
    weights = config.num_layers * _matrix_weights(config) + vocab_size * config.width
    return 6 * weights + 12 * config.num_layers * config.num_heads * config.head_width * context


def _matrix_weights(config: DecoderConfig) -> int:
    attention = config.width * config.head_width * (2 * config.num_heads + 2 * config.num_kv_heads)
    return attention + 3 * config.width * config.inner_width
