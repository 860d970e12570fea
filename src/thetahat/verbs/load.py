"""Loads a trained model, ready to score and to write."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from msgspec.structs import replace
from torch import Tensor

from thetahat.core.config import override
from thetahat.core.errors import ConfigError, NonFiniteError
from thetahat.core.schema import known_keys
from thetahat.data.config import OF_READING, DataConfig, OnBadRecord, data_of, is_of_reading
from thetahat.data.tokens.tokenizer import Tokenizer
from thetahat.interop.folder import load_folder
from thetahat.interop.made import Made, metas
from thetahat.ledger.policy import Policy
from thetahat.model.adapters.lora import is_adapted
from thetahat.model.build import LanguageModel, build_model
from thetahat.model.init import allocate
from thetahat.model.precision import parameter_dtype
from thetahat.run.base import values_of
from thetahat.run.card import Card
from thetahat.run.config import InferenceConfig
from thetahat.run.folder.checkpoint import check_fit
from thetahat.run.folder.find import find_checkpoint as find_checkpoint
from thetahat.run.folder.stored import Foreign, StoredModel, check_head, find_model
from thetahat.run.machine import resolve, set_up
from thetahat.run.state import model_on_meta

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


def load(
    name: str | StoredModel, overrides: tuple[str, ...] = (), *, needs_head: bool = True, on_meta: bool = False
) -> Loaded:
    """The model of this name, or found already, whatever made it; no optimizer and no data of a run is needed.

    `overrides` replace settings of its run: the keys of InferenceConfig; batch_size, short for evaluation.batch_size;
    context, the positions that are read at once; data.split_on, data.columns, data.trees and data.preference, which say
    how records are taken from files; data.over_long and data.on_bad_record. Raises ModelError where no text has a
    likelihood under the model, unless it is asked for without its head. With `on_meta` no parameter is read: the model
    has shapes alone.
    """
    stored = find_model(name) if isinstance(name, str) else name
    if needs_head:
        check_head(stored)
    card, inference = _with_context(stored.card, overrides), _inference(stored, overrides)
    data = data_of([pair for pair in overrides if _is_of_data(pair)])
    card = _reading_as(card, data, overrides)
    device, tokenizer = set_up(inference), stored.tokenizer()
    model = _shape(stored, tokenizer.vocab_size)
    if not on_meta:
        _fill(model, stored, device, parameter_dtype(inference.dtype))
        if sick := [name for name, value in model.named_parameters() if not torch.isfinite(value).all()]:
            raise not_finite(stored.folder, sick)
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


def _shape(stored: StoredModel, vocab_size: int) -> LanguageModel:
    """The model on `meta`; what an adapter is stands beside what is its base's."""
    card, num_labels = stored.card, len(stored.card.labels)
    if stored.run and stored.run.base:
        return model_on_meta(stored.run, vocab_size, num_labels)
    return build_model(card.model, max(vocab_size, card.num_rows or 0), num_labels)


def _fill(model: LanguageModel, stored: StoredModel, device: torch.device, dtype: torch.dtype) -> None:
    """Gives a model on `meta` memory, and the parameters that are stored."""
    if isinstance(stored, Foreign):
        allocate(model, device, dtype)
        load_folder(model, stored.hub)
        return
    values = values_of(stored)
    if not is_adapted(model):
        check_fit(model, values, str(stored.folder))
    fill(model, values, device, dtype)


@torch.no_grad()
def fill(model: LanguageModel, values: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype) -> None:
    """Gives a model on `meta` memory, and these values, one after another."""
    allocate(model, device, dtype)
    for name, parameter in model.named_parameters():
        parameter.copy_(values[name])


def finite(values: Mapping[str, Tensor], where: Path) -> Made:
    """The same tensors; NonFiniteError is raised when one is made that has a NaN or an infinity in it."""
    return Made({name: partial(_finite, values, name, where) for name in values}, metas(values))


def _finite(values: Mapping[str, Tensor], name: str, where: Path) -> Tensor:
    tensor = values[name]
    if tensor.numel() and not all(map(torch.isfinite, tensor.aminmax())):
        raise not_finite(where, [name])
    return tensor


def not_finite(where: Path, names: Sequence[str]) -> NonFiniteError:
    """The error for a model with parameters that are not finite."""
    return NonFiniteError(f"{where}: parameters are not finite: {', '.join(names[:5])}", cure="another checkpoint")
