"""Starting from a trained model (`base`): its shape, tokenizer and parameters; tokens or an adapter may be added."""

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import torch
from msgspec.structs import replace
from torch import Tensor

from thetahat.core.config import kind_of
from thetahat.core.errors import ConfigError, ModelError
from thetahat.data.tokens.tokenizer import Tokenizer
from thetahat.distribution.pieces import fill, whole
from thetahat.interop.hub import is_hub_name, pinned
from thetahat.interop.made import Made, metas
from thetahat.model.adapters.lora import with_product
from thetahat.model.adapters.rows import add_rows
from thetahat.model.build import LanguageModel
from thetahat.model.init import beginnings
from thetahat.model.precision import parameter_dtype
from thetahat.model.transfer.rule import fitted, growth_of
from thetahat.run.config import RunConfig
from thetahat.run.folder.checkpoint import check_fit
from thetahat.run.folder.stored import Foreign, StoredModel, check_head, find_model
from thetahat.run.ignored import OfBase, beside_base, refuse_beside_base, refuse_beside_tokenizer, refuse_ignored
from thetahat.run.machine import resolve
from thetahat.run.state import model_on_meta


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
    kept = "; those of frozen value embeddings stay where they begin" if _keeps_values(config) else ""
    return f"new tokens {names}: their rows are trained{where}, and begin at the mean of the base's{kept}"


def _keeps_values(config: RunConfig) -> bool:
    """Whether a table of value embeddings is frozen: beside it no rows are trained."""
    tables = [f"blocks.{layer}.attention.value_embedding.weight" for layer in config.model.value_layers]

    def matches(name: str, patterns: Sequence[str]) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in patterns)

    also = config.adapter.also if config.adapter else ("*",)
    return any(matches(name, config.frozen) or not matches(name, also) for name in tables)


@torch.no_grad()
def load_base(model: LanguageModel, config: RunConfig, num_labels: int = 0) -> None:
    r"""Copies the parameters of the base into the model of a run.

    The rows of new tokens begin at the mean of the old rows, so that each is predicted like an average token, plus the
    values that the model drew for them, so that no two are equal (Hewitt, Initializing New Word Embeddings for
    Pretrained Language Models, 2021). A head over labels keeps the values that were drawn.
    """
    theirs, parameters = _of_base(model, config, num_labels), dict(model.named_parameters())
    for name, make in theirs.items():
        saved, parameter = make(), parameters[name]
        values = saved if len(saved) == len(parameter) else _with_new_tokens(whole(parameter).clone(), saved)
        fill(parameter, values)


def _of_base(model: LanguageModel, config: RunConfig, num_labels: int) -> dict[str, Callable[[], Tensor]]:
    """What reads the tensor of the base for each parameter of a model that begins with one."""
    stored = _stored(config, config.base or "")
    if not num_labels:
        check_head(stored)
    theirs = parameters_of(stored)
    found: dict[str, Callable[[], Tensor]] = {}
    for name, parameter in model.named_parameters():
        if ".lora_" in name or name.endswith(".new_rows") or (num_labels and name.startswith("head.")):
            continue
        plain = _plain(name)
        if plain not in theirs:
            raise ModelError(f"base={config.base} has no {plain}, which this model needs")
        shape = metas(theirs)[plain].shape
        if parameter.shape[1:] != shape[1:] or len(parameter) < shape[0]:
            raise ModelError(f"{plain} of base={config.base} is {list(shape)}, not {list(parameter.shape)}")
        found[name] = partial(theirs.__getitem__, plain)
    return found


def _plain(name: str) -> str:
    """The name that a parameter has where nothing stands beside it."""
    return name.replace(".base.", ".")


def _with_new_tokens(values: Tensor, saved: Tensor) -> Tensor:
    """The table `saved` in the first rows of a larger one; its mean is added to the others, which were drawn."""
    rows = len(saved)
    values[:rows] = saved.to(values)
    values[rows:] += saved.to(values).mean(0)
    return values


def values_of(stored: StoredModel) -> Mapping[str, Tensor]:
    """The parameters of a model by the names that they had in its training, each read or made when it is asked for.

    Those of an adapter, and rows of new tokens, stand beside those of the base, which are read from there.
    """
    if isinstance(stored, Foreign):
        return stored.parameters()
    saved, config = stored.weights.tensors(), stored.run
    if config is None or config.adapter is None:
        return saved
    num_labels = len(stored.card.labels)
    model = model_on_meta(config, stored.tokenizer().vocab_size, num_labels)
    check_fit(model, saved, str(stored.folder))
    begin, dtype = (
        beginnings(model, config.seed, growth_of(config.model, config.transfer)),
        parameter_dtype(config.dtype),
    )
    theirs = _of_base(model, config, num_labels)
    makes: dict[str, Callable[[], Tensor]] = {}
    for name, parameter in model.named_parameters():
        if name in saved:
            makes[name] = partial(saved.__getitem__, name)
        elif name in theirs:
            makes[name] = partial(_first_values, theirs[name], begin[name], parameter.shape, dtype)
        else:
            makes[name] = partial(_drawn, begin[name], dtype)
    shapes = {name: one.to(dtype) for name, one in model.named_parameters()}
    return Made(makes, shapes | dict(metas(saved)))


def _drawn(begin: Callable[[], Tensor], dtype: torch.dtype) -> Tensor:
    return begin().to(dtype)


def _first_values(
    read: Callable[[], Tensor], begin: Callable[[], Tensor], shape: torch.Size, dtype: torch.dtype
) -> Tensor:
    """What a parameter that the base has, with fewer rows or as many, begins with."""
    saved = read()
    return saved.to(dtype) if saved.shape == shape else _with_new_tokens(begin().to(dtype), saved)


def parameters_of(stored: StoredModel) -> Mapping[str, Tensor]:
    """The parameters of a model by their plain names, each read or made when it is asked for.

    An adapter is merged into the matrices beside which it stands, and rows of new tokens into their tables.
    """
    values, adapter = values_of(stored), stored.run.adapter if stored.run else None
    scale = adapter.alpha / adapter.rank if adapter else 1.0
    kept = [name for name in values if ".lora_" not in name and not name.endswith(".new_rows")]
    makes = {_plain(name): partial(_merged, values, name, scale) for name in kept}
    return Made(makes, {_plain(name): metas(values)[name] for name in kept})


def _merged(values: Mapping[str, Tensor], name: str, scale: float) -> Tensor:
    """A parameter, with what stands beside it added."""
    outer = name.removesuffix(".base.weight")
    if f"{outer}.lora_in" in values:
        return with_product(values[name], values[f"{outer}.lora_out"], values[f"{outer}.lora_in"], scale)
    if f"{outer}.new_rows" in values:
        table = values[name].clone()
        add_rows(table, values[f"{outer}.new_rows"])
        return table
    return values[name]


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
