"""Loads a trained model, ready to score and to write."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from msgspec.structs import replace

from thetahat.core.config import override
from thetahat.core.errors import ConfigError, NonFiniteError
from thetahat.core.schema import known_keys
from thetahat.data.config import DataConfig, OnBadRecord
from thetahat.data.tokens.tokenizer import Tokenizer, load_tokenizer
from thetahat.ledger.policy import Policy
from thetahat.model.build import LanguageModel, build_model
from thetahat.model.init import allocate
from thetahat.model.precision import parameter_dtype
from thetahat.run.base import load_base
from thetahat.run.card import Card
from thetahat.run.config import InferenceConfig, resolve, set_up
from thetahat.run.folder.checkpoint import CONFIG, TOKENIZER, load_parameters, read_card, read_config, read_inference
from thetahat.run.folder.find import find_checkpoint as find_checkpoint
from thetahat.run.state import first_model

_SEPARATOR, _COLUMNS = "data.split_on", "data.columns"
_OF_DATA = (_SEPARATOR, _COLUMNS, "data.on_bad_record")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A trained model in memory: its weights, its tokenizer, its card, and the settings of inference."""

    model: LanguageModel
    tokenizer: Tokenizer
    card: Card
    inference: InferenceConfig
    folder: Path
    device: torch.device
    on_bad_record: OnBadRecord = "error"  # what becomes of a record, question or prompt that cannot be read

    @property
    def policy(self) -> Policy:
        """How it scores text."""
        return self.card.policy(self.inference)


def load(name: str, overrides: tuple[str, ...] = ()) -> Loaded:
    """The model of this name, whatever made it; no optimizer and no data of a run is needed.

    `overrides` replace settings of its run: the keys of InferenceConfig; batch_size, short for evaluation.batch_size;
    data.split_on, the text between the documents of a .txt; data.columns; and data.on_bad_record.
    """
    folder = find_checkpoint(name)
    card, inference = read_card(folder), _inference(folder, overrides)
    given = [pair for pair in overrides if _is_of_data(pair)]
    data = override(DataConfig(), [pair.removeprefix("data.") for pair in given])
    if any(pair.startswith(_SEPARATOR) for pair in given):
        card = replace(card, separator=data.separator)
    if any(pair.startswith(_COLUMNS) for pair in given):
        card = replace(card, columns=data.columns)
    device, tokenizer = set_up(inference), load_tokenizer(folder / TOKENIZER)
    model = _model(folder, card, inference, tokenizer.vocab_size, device)
    if sick := [name for name, value in model.named_parameters() if not torch.isfinite(value).all()]:
        raise NonFiniteError(f"{folder}: parameters are not finite: {', '.join(sick[:5])}", cure="another checkpoint")
    return Loaded(model.eval(), tokenizer, card, inference, folder, device, data.on_bad_record)


def _inference(folder: Path, overrides: Sequence[str]) -> InferenceConfig:
    """The run's own settings of inference, with the overrides applied."""
    pairs = [_for_inference(pair) for pair in overrides if not _is_of_data(pair)]
    inference = override(read_inference(folder), pairs)
    is_named = any(pair.startswith("device=") for pair in pairs)
    if inference.device == "cuda" and not torch.cuda.is_available() and not is_named:
        inference = replace(inference, device="cpu")  # trained on a GPU, loaded on a machine without
    return resolve(inference)


def _is_of_data(pair: str) -> bool:
    key = pair.partition("=")[0]
    return key in _OF_DATA or key.startswith(f"{_COLUMNS}.")


def _for_inference(pair: str) -> str:
    """The KEY=VALUE, if it changes how a model is asked; what would be ignored is refused."""
    key, _, value = pair.partition("=")
    key = "evaluation.batch_size" if key == "batch_size" else key
    if key not in (known := known_keys(InferenceConfig)) and not key.startswith("evaluation."):
        raise ConfigError(
            f"{key} does not change how a trained model is asked",
            allowed=", ".join([*(one for one in known if one != "evaluation"), "batch_size", *_OF_DATA]),
        )
    return f"{key}={value}"


def _model(
    folder: Path, card: Card, inference: InferenceConfig, vocab_size: int, device: torch.device
) -> LanguageModel:
    """The model with its weights; those of an adapter stand beside those of its base."""
    num_labels = len(card.labels)
    config = read_config(folder) if (folder / CONFIG).exists() else None
    if config and config.base:  # what is trained may stand beside what is the base's
        draws = config.adapter is not None  # rows that its base lacks begin as they were drawn
        model = first_model(replace(config, dtype=inference.dtype), vocab_size, device, num_labels, draws=draws)
        if config.adapter:
            load_base(model, config, num_labels)
    else:
        model = build_model(card.model, vocab_size, num_labels)
        allocate(model, device, parameter_dtype(inference.dtype))
    load_parameters(model, folder)
    return model
