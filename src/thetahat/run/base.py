"""Starting from a trained model (`base`): its shape, tokenizer and parameters; tokens or an adapter may be added."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from msgspec.structs import replace
from torch import Tensor, nn

from thetahat.core.config import kind_of
from thetahat.core.errors import ConfigError, ModelError
from thetahat.data.tokens.tokenizer import Tokenizer, load_tokenizer
from thetahat.distribution.pieces import fill, whole
from thetahat.interop.hub import is_hub_name, pinned
from thetahat.model.adapters.lora import merge
from thetahat.model.build import LanguageModel
from thetahat.model.transfer.rule import fitted
from thetahat.run.config import RunConfig
from thetahat.run.folder.checkpoint import TOKENIZER, copy_parameters
from thetahat.run.folder.config import read_config
from thetahat.run.folder.files import CONFIG, read_progress
from thetahat.run.folder.stored import Checkpoint, Foreign, StoredModel, check_head, find_model
from thetahat.run.ignored import OfBase, beside_base, refuse_beside_base, refuse_beside_tokenizer, refuse_ignored
from thetahat.run.machine import resolve
from thetahat.run.state import first_model


def resolved(config: RunConfig) -> RunConfig:
    """The config with everything filled in that this machine and the base decide."""
    config = resolve(config)
    refuse_ignored(config)
    has_labels = config.objective.factorization.layout.predicts_label
    config = replace(config, model=fitted(config.model, config.transfer, has_labels=has_labels))
    if config.base is None:
        return config
    base = pinned(config.base) if is_hub_name(config.base) else config.base
    config = replace(config, base=base)
    theirs = _stored(config, base)
    if kind_of(theirs.card.model) != kind_of(config.model):
        raise ConfigError(
            f"base={config.base} is of the kind {kind_of(theirs.card.model)}, and model.kind={kind_of(config.model)}",
            cure=f"model.kind={kind_of(theirs.card.model)}",
        )
    decided, rows = _decided(theirs), theirs.card.num_rows
    config = replace(beside_base(config, decided), base_digest=_digest(theirs), base_vocab_size=decided.vocab_size)
    return replace(config, base_rows=rows if rows is not None and rows > decided.vocab_size else None)


def refuse_typed(config: RunConfig, typed: Mapping[str, Any], written: Mapping[str, Any]) -> None:
    """Raises ConfigError for a setting of the command line (`typed`) or a file (`written`) that has no effect."""
    refuse_beside_tokenizer(config, typed)
    if config.base:
        refuse_beside_base(config, _decided(_stored(config, config.base)), {**written, **typed})


def _decided(base: StoredModel) -> OfBase:
    asked = base.run.data.vocab_size if base.run else None
    return OfBase(base.card.model, base.tokenizer().vocab_size, asked)


def base_tokenizer(config: RunConfig, special_tokens: list[str]) -> Tokenizer:
    """The tokenizer of the base; special tokens that it lacks are added at the end of its vocabulary."""
    return _stored(config, config.base or "").tokenizer().with_special_tokens(special_tokens)


def new_tokens(config: RunConfig, tokenizer: Tokenizer) -> str:
    """A line on the tokens that the base does not have; empty if there are none."""
    if config.base_vocab_size is None or tokenizer.vocab_size == config.base_vocab_size:
        return ""
    named = {number: name for name, number in tokenizer.special.items()}
    numbers = range(config.base_vocab_size, tokenizer.vocab_size)
    names = ", ".join(named.get(number, str(number)) for number in numbers)
    where = " beside the adapter" if config.adapter else " beside what is frozen" if config.frozen else ""
    return f"new tokens {names}: their rows are trained{where}, and begin at the mean of the base's"


@torch.no_grad()
def load_base(model: LanguageModel, config: RunConfig, num_labels: int = 0) -> None:
    r"""Copies the parameters of the base into the model of a run.

    The rows of new tokens begin at the mean of the old rows, so that each is predicted like an average token, plus the
    values that the model drew for them, so that no two are equal (Hewitt, Initializing New Word Embeddings for
    Pretrained Language Models, 2021). A head over labels keeps the values that were drawn.
    """
    waiting = {
        name.replace(".base.weight", ".weight").replace(".base.bias", ".bias"): parameter
        for name, parameter in model.named_parameters()
        if not (".lora_" in name or name.endswith(".new_rows") or (num_labels and name.startswith("head.")))
    }
    stored = _stored(config, config.base or "")
    if not num_labels:
        check_head(stored)
    for name, tensor in _parameters(stored):
        if name in waiting:
            _copy(waiting.pop(name), tensor, f"{name} of base={config.base}")
    if waiting:
        raise ModelError(f"base={config.base} has no {next(iter(waiting))}, which this model needs")


def _parameters(stored: StoredModel) -> Iterator[tuple[str, Tensor]]:
    """One after another, so that no more than the model and one tensor need be in memory."""
    return stored.parameters() if isinstance(stored, Foreign) else iter(parameters_of(stored).items())


def parameters_of(stored: Checkpoint) -> Mapping[str, Tensor]:
    """The parameters of a checkpoint by their plain names; an adapter, or rows of new tokens, are merged into them."""
    folder, saved = stored.folder, stored.weights.tensors()
    if not (folder / CONFIG).exists():  # no run has trained it
        return saved
    config = read_config(folder)
    if config.adapter is None and not any(name.endswith(".new_rows") for name in saved):
        return saved
    labels = read_progress(folder)["labels"]
    vocab_size = load_tokenizer(folder / TOKENIZER).vocab_size
    model = first_model(config, vocab_size, torch.device("cpu"), len(labels))
    if config.adapter:
        load_base(model, config, len(labels))
    copy_parameters(model, saved, str(folder))
    merge(model)
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def _stored(config: RunConfig, name: str) -> StoredModel:
    """The model of the base, verified; raises ModelError if it is another one than when the run began."""
    try:
        stored = find_model(name)
    except ModelError as error:
        if config.base_digest is None:
            raise
        raise ModelError(
            f"base={name} is gone, which this run was started from: {str(error).splitlines()[0]}",
            cure="bring it back under that name, or type the command in the folder where the run was started",
        ) from error
    if config.base_digest is not None and config.base_digest != _digest(stored):
        raise ModelError(
            f"{name} is another model than the one that was started from, or adapted: its digest is {_digest(stored)}, "
            f"not {config.base_digest}",
            cure="bring that model back under its name; RUN@STEP names a checkpoint that stays what it is",
        )
    return stored


def _digest(stored: StoredModel) -> str:
    return stored.digest[:16]


def _copy(parameter: nn.Parameter, saved: Tensor, name: str) -> None:
    rows = len(saved)
    if parameter.shape[1:] != saved.shape[1:] or len(parameter) < rows:
        raise ModelError(f"{name} is {list(saved.shape)}, not {list(parameter.shape)}")
    if len(parameter) == rows:
        fill(parameter, saved)
        return
    values = whole(parameter).clone()
    values[:rows] = saved.to(values)
    values[rows:] += saved.to(values).mean(0)
    fill(parameter, values)
