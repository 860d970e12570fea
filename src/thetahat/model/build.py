"""The model that a config describes."""

from typing import overload

import torch

from thetahat.core.errors import ConfigError
from thetahat.model.config import DecoderConfig, EncoderConfig, EncoderDecoderConfig, ModelConfig
from thetahat.model.decoder import Decoder
from thetahat.model.encoder import Encoder
from thetahat.model.encoder_decoder import EncoderDecoder

LanguageModel = Decoder | Encoder | EncoderDecoder


@overload
def build_model(config: DecoderConfig, vocab_size: int, num_labels: int = 0) -> Decoder: ...
@overload
def build_model(config: EncoderConfig, vocab_size: int, num_labels: int = 0) -> Encoder: ...
@overload
def build_model(config: EncoderDecoderConfig, vocab_size: int, num_labels: int = 0) -> EncoderDecoder: ...
@overload
def build_model(config: ModelConfig, vocab_size: int, num_labels: int = 0) -> LanguageModel: ...
def build_model(config: ModelConfig, vocab_size: int, num_labels: int = 0) -> LanguageModel:
    """A model of this shape on `meta`: no memory until `allocate` or `initialize`; labels are for an encoder alone."""
    if num_labels and not isinstance(config, EncoderConfig):
        raise ConfigError(f"{num_labels} labels need an encoder to tell them apart", cure="model.kind=encoder")
    with torch.device("meta"):
        match config:
            case DecoderConfig():
                return Decoder(config, vocab_size)
            case EncoderConfig():
                return Encoder(config, vocab_size, num_labels)
            case EncoderDecoderConfig():
                return EncoderDecoder(config, vocab_size)
