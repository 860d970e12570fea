"""Counts that need no weights: parameters and floating-point operations."""

from thetahat.model.config import EncoderDecoderConfig, ModelConfig, TransformerConfig


def num_parameters(config: ModelConfig, vocab_size: int, num_labels: int = 0) -> int:
    """Every trainable number, a tied embedding once; a head over labels is tied to nothing."""
    head = num_labels or (0 if config.ties_embeddings else vocab_size)
    gains = 2 * config.width + 2 * config.head_width
    layers = config.num_layers * (_matrix_weights(config) + gains) + config.width
    if isinstance(config, EncoderDecoderConfig):
        layers += config.num_encoder_layers * (_matrix_weights(config) + gains) + config.width
        layers += config.num_layers * (_attention_weights(config) + config.width + 2 * config.head_width)
    return (vocab_size + head) * config.width + layers


def flops_per_token(config: ModelConfig, vocab_size: int, context: int) -> int:
    r"""Forward and backward, a multiply-add as two: $6\,(\text{matrix weights}, \text{head once}) + 12\,A\,H K T$.

    T is `context`, A the number of attentions: L, or $L_\mathrm{encoder} + 2L$ in an encoder-decoder, where it is for
    each token of the target with a source as long. The convention of PaLM's appendix B (arXiv 2204.02311): attention
    counts as if it were not causal.
    """
    weights, attentions = config.num_layers * _matrix_weights(config), config.num_layers
    if isinstance(config, EncoderDecoderConfig):
        weights += config.num_encoder_layers * _matrix_weights(config) + config.num_layers * _attention_weights(config)
        attentions += config.num_encoder_layers + config.num_layers
    weights += vocab_size * config.width
    return 6 * weights + 12 * attentions * config.num_heads * config.head_width * context


def _matrix_weights(config: TransformerConfig) -> int:
    return _attention_weights(config) + 3 * config.width * config.inner_width


def _attention_weights(config: TransformerConfig) -> int:
    return config.width * config.head_width * (2 * config.num_heads + 2 * config.num_kv_heads)
