"""A model from its config."""

from thetahat.model.config import DecoderConfig, EncoderConfig, EncoderDecoderConfig, ModelConfig
from thetahat.model.decoder import Decoder
from thetahat.model.encoder import Encoder
from thetahat.model.encoder_decoder import EncoderDecoder
from thetahat.model.init import initialize

LanguageModel = Decoder | Encoder | EncoderDecoder


def build_model(config: ModelConfig, vocab_size: int, seed: int, num_labels: int = 0) -> LanguageModel:
    """A model with its parameters at their beginning; an encoder with labels has a head over these."""
    match config:
        case DecoderConfig():
            model = Decoder(config, vocab_size)
        case EncoderConfig():
            model = Encoder(config, vocab_size, num_labels)
        case EncoderDecoderConfig():
            model = EncoderDecoder(config, vocab_size)
    initialize(model, seed, config.num_layers)
    return model
