"""Loads a trained model, ready to score and to write."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from msgspec.structs import replace

from thetahat.core.config import override
from thetahat.core.errors import ConfigError, NonFiniteError
from thetahat.core.schema import known_keys
from thetahat.data.config import OF_READING, DataConfig, OnBadRecord, data_of, is_of_reading
from thetahat.data.tokens.tokenizer import Tokenizer
from thetahat.interop.folder import load_folder
from thetahat.ledger.policy import Policy
from thetahat.model.build import LanguageModel, build_model
from thetahat.model.init import allocate
from thetahat.model.precision import parameter_dtype
from thetahat.run.base import load_base
from thetahat.run.card import Card
from thetahat.run.config import InferenceConfig
from thetahat.run.folder.checkpoint import copy_parameters
from thetahat.run.folder.find import find_checkpoint as find_checkpoint
from thetahat.run.folder.stored import Foreign, StoredModel, check_head, find_model
from thetahat.run.machine import resolve, set_up
from thetahat.run.state import first_model

_ON_BAD = "data.on_bad_record"
_OVER_LONG = "data.over_long"
_OF_DATA = (*(f"data.{name}" for name in OF_READING), _ON_BAD, _OVER_LONG)
_CONTEXT, _CONTEXTS = "context", ("context", "data.context")  # as it is called in training, too


@dataclass(frozen=True, slots=True)
class Loaded:
    """A trained model in memory: its weights, its tokenizer, its card, and the settings of inference."""

    model: LanguageModel
    tokenizer: Tokenizer
    card: Card
    inference: InferenceConfig
    stored: StoredModel
    device: torch.device
    on_bad_record: OnBadRecord = "error"  # what becomes of a record, question or prompt that cannot be read

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self.stored.folder

    @property
    def policy(self) -> Policy:
        """The policy by which it scores text."""
        return self.card.policy(self.inference)


def load(name: str | StoredModel, overrides: tuple[str, ...] = (), *, needs_head: bool = True) -> Loaded:
    """The model of this name, or found already, whatever made it; no optimizer and no data of a run is needed.

    `overrides` replace settings of its run: the keys of InferenceConfig; batch_size, short for evaluation.batch_size;
    context, the positions that are read at once; data.split_on, data.columns, data.trees and data.preference, which say
    how records are taken from files; data.over_long and data.on_bad_record. Raises ModelError where no text has a
    likelihood under the model, unless it is asked for without its head.
    """
    stored = find_model(name) if isinstance(name, str) else name
    if needs_head:
        check_head(stored)
    card, inference = _with_context(stored.card, overrides), _inference(stored, overrides)
    data = data_of([pair for pair in overrides if _is_of_data(pair)])
    card = _reading_as(card, data, overrides)
    device, tokenizer = set_up(inference), stored.tokenizer()
    model = _model(stored, inference, tokenizer.vocab_size, device)
    if sick := [name for name, value in model.named_parameters() if not torch.isfinite(value).all()]:
        raise NonFiniteError(
            f"{stored.folder}: parameters are not finite: {', '.join(sick[:5])}", cure="another checkpoint"
        )
    return Loaded(model.eval(), tokenizer, card, inference, stored, device, data.on_bad_record)


def _is_of_data(pair: str) -> bool:
    return is_of_reading(pair) or pair.partition("=")[0] in (_ON_BAD, _OVER_LONG)


def _reading_as(card: Card, data: DataConfig, overrides: Sequence[str]) -> Card:
    """The card with the options of reading that were typed; the others stay those of its training."""
    typed = {pair.partition("=")[0].split(".")[1] for pair in overrides if is_of_reading(pair)}
    values = {"columns": data.columns, "trees": data.trees, "preference": data.preference}
    changes: dict[str, Any] = {name: value for name, value in values.items() if name in typed}
    if "split_on" in typed:
        changes["separator"] = data.separator
    if any(pair.startswith(f"{_OVER_LONG}=") for pair in overrides):
        changes["over_long"] = data.over_long
    return replace(card, **changes)


def _with_context(card: Card, overrides: Sequence[str]) -> Card:
    """The card with the context that was asked for, if any: fewer positions than the model reads, or more."""
    pairs = [pair.removeprefix("data.") for pair in overrides if _is_context(pair)]
    card = override(card, pairs) if pairs else card
    if (limit := card.model.max_positions) is not None and card.context > limit:
        raise ConfigError(
            f"context={card.context} is more than the {limit} positions that the model has learned",
            cure=f"context={limit}",
        )
    return card


def _is_context(pair: str) -> bool:
    return pair.partition("=")[0] in _CONTEXTS


def _inference(stored: StoredModel, overrides: Sequence[str]) -> InferenceConfig:
    """The model's own settings of inference, with the overrides applied."""
    others = [pair for pair in overrides if not _is_of_data(pair) and not _is_context(pair)]
    pairs = list(map(_for_inference, others))
    inference = override(stored.inference, pairs)
    is_named = any(pair.startswith("device=") for pair in pairs)
    if inference.device == "cuda" and not torch.cuda.is_available() and not is_named:
        inference = replace(inference, device="cpu")  # trained on a GPU, loaded on a machine without
    return resolve(inference)


def _for_inference(pair: str) -> str:
    """The KEY=VALUE, if it is a setting of inference; others, which would have no effect, are refused."""
    key, _, value = pair.partition("=")
    key = "evaluation.batch_size" if key == "batch_size" else key
    if key not in (known := known_keys(InferenceConfig)) and not key.startswith("evaluation."):
        raise ConfigError(
            f"{key} does not change how a trained model is asked",
            allowed=", ".join([*(one for one in known if one != "evaluation"), "batch_size", _CONTEXT, *_OF_DATA]),
        )
    return f"{key}={value}"


def _model(stored: StoredModel, inference: InferenceConfig, vocab_size: int, device: torch.device) -> LanguageModel:
    """The model with its weights; those of an adapter stand beside those of its base."""
    card, num_labels = stored.card, len(stored.card.labels)
    if stored.run and stored.run.base:  # what is trained may stand beside what is the base's
        draws = stored.run.adapter is not None  # rows that its base lacks begin as they were drawn
        model = first_model(replace(stored.run, dtype=inference.dtype), vocab_size, device, num_labels, draws=draws)
        if stored.run.adapter:
            load_base(model, stored.run, num_labels)
    else:
        model = build_model(card.model, max(vocab_size, card.num_rows or 0), num_labels)
        allocate(model, device, parameter_dtype(inference.dtype))
    if isinstance(stored, Foreign):
        load_folder(model, stored.hub)
    else:
        copy_parameters(model, stored.weights.tensors(), str(stored.folder))
    return model
