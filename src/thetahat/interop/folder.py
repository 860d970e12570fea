"""A folder as Hugging Face's transformers writes it: opened, checked, and loaded into a model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial, reduce
from pathlib import Path
from typing import Any, final

import torch
from msgspec import structs
from torch import Tensor, nn

from thetahat.core.errors import ModelError
from thetahat.data.tokens.roles import Roles
from thetahat.interop.around import TOKENIZER, Around, around_in, vocabulary_of
from thetahat.interop.config import family_of, is_inert, read_config
from thetahat.interop.family import GAIN_NAMES, Family
from thetahat.interop.files import (
    FLOATS,
    INDEX,
    WEIGHTS,
    Stored,
    blocks,
    gguf_refused,
    is_of_weights,
    meta,
    read,
    read_object,
    stored_in,
    tensors,
)
from thetahat.interop.made import Made
from thetahat.interop.names import Entry, Link, entries_of
from thetahat.model.build import build_model
from thetahat.model.config import ModelConfig

CONFIG = "config.json"


@final
@dataclass(frozen=True, kw_only=True)
class HubFolder:
    """A model of others on disk. Everything is known of it but the values of its tensors, and all of it is checked."""

    path: Path
    family: str  # its model_type
    config: ModelConfig
    vocab_size: int  # V: rows of the embedding, of which the tokenizer may use fewer
    context: int | None  # positions that it was trained for; None: not said
    has_head: bool  # False: hidden states alone mean something, logits do not
    dtype: torch.dtype  # of the tensors; where they differ, one that holds all exactly
    around: Around  # special tokens, tokenizer, chat templates, and fields that change nothing
    tokenizer: Path | None  # its tokenizer.json; None: it has none
    entries: Sequence[Entry]
    stored: Mapping[str, Stored]  # by the family's names
    passengers: Sequence[str]  # names of tensors that are carried along unused

    @property
    def roles(self) -> Roles:
        """The ids of its special tokens."""
        return self.around.roles

    @property
    def chat_template(self) -> str | None:
        """The chat template that is used without a name."""
        return self.around.templates.get("default")

    def passenger_tensors(self) -> dict[str, Tensor]:
        """What is carried along unused, to be written back as it is."""
        return {name: tensor.clone() for name, tensor in tensors({name: self.stored[name] for name in self.passengers})}


@final
@dataclass(frozen=True, kw_only=True)
class HubShape:
    """What config.json alone says of a model of others."""

    path: Path
    family: str  # its model_type
    config: ModelConfig
    vocab_size: int  # V: rows of the embedding
    context: int | None  # positions that it is meant for; None: not said


def is_shape_alone(path: Path) -> bool:
    """Whether a folder has a config.json and no file of weights, of any kind."""
    return (path / CONFIG).is_file() and not any(is_of_weights(one.name) for one in path.iterdir())


def read_shape(path: Path) -> HubShape:
    """The model that the config.json of a folder describes; ModelError where it describes none of ours."""
    plain = _config_in(path)
    family = family_of(plain)
    config = read_config(plain, has_head=_has_head(family, plain, {}))
    context = config.max_positions or _context(plain, family)
    return HubShape(path=path, family=family.model_type, config=config, vocab_size=_vocab_size(plain), context=context)


def is_hub_folder(path: Path) -> bool:
    """Whether this is, or pretends to be, a folder for `open_folder`."""
    return (path / CONFIG).is_file() or path.suffix == ".gguf"


def open_folder(path: Path) -> HubFolder:
    """The model in a folder with config.json and safetensors. Nothing in the folder is run, and nothing downloaded.

    Raises ModelError for what is not supported, and for a folder that is not whole or contradicts itself.
    """
    plain = _config_in(path)
    family, stored = family_of(plain), stored_in(path)
    named = _named(path, family, stored)
    has_head = _has_head(family, plain, named)
    config = _untied(family, read_config(plain, has_head=has_head), named)
    vocab_size = _vocab_size(plain)
    found = entries_of(family.links, _shapes(config, vocab_size, len(named)), config)
    used = _checked(path, family, found, named)
    passengers = [name for name in named if name not in used and _matches(name, family.passengers)]
    _check_copies(path, family, config, used, named)
    _check_zeros(path, family, named)
    around = around_in(path, plain, {name: value for name, value in plain.items() if is_inert(family, name)})
    if around.tokenizer and (needed := vocabulary_of(around.tokenizer)) > vocab_size:
        raise ModelError(
            f"{path / TOKENIZER} has ids up to {needed - 1}, and the embedding has {vocab_size} rows",
            cure="the tokenizer.json that belongs to this model",
        )
    context = config.max_positions or _context(plain, family)
    return HubFolder(
        path=path,
        family=family.model_type,
        config=config,
        vocab_size=vocab_size,
        context=context,
        has_head=has_head,
        dtype=reduce(torch.promote_types, {getattr(torch, FLOATS[named[one.theirs].dtype]) for one in found}),
        around=replace(around, context=context),
        tokenizer=path / TOKENIZER if around.tokenizer else None,
        entries=found,
        stored=named,
        passengers=passengers,
    )


def parameters_in(folder: HubFolder) -> Made:
    """Every parameter of a folder by our name for it, mapped when it is asked for; a tied table once."""
    makes: dict[str, Callable[[], Tensor]] = {}
    metas: dict[str, Tensor] = {}
    for entry in folder.entries:
        stored = folder.stored[entry.theirs]
        for place, (name, part) in enumerate(zip(entry.ours, entry.split(meta(stored)), strict=True)):
            makes[name] = partial(_part, stored, entry, place)
            metas[name] = part
    return Made(makes, metas)


def _part(stored: Stored, entry: Entry, place: int) -> Tensor:
    return entry.split(read(stored))[place]


@torch.no_grad()
def load_folder(model: nn.Module, folder: HubFolder) -> None:
    """Copies every parameter into a model that `build_model(folder.config, folder.vocab_size)` made and has memory.

    One tensor after another is read, a table a block of rows at a time: beside the model there is little in memory.
    """
    parameters = dict(model.named_parameters())
    by_name = {entry.theirs: entry for entry in folder.entries}
    plain = {entry.theirs for entry in folder.entries if entry.is_plain}
    for name, rows, tensor in blocks({name: folder.stored[name] for name in by_name}, plain):
        entry = by_name[name]
        if entry.is_plain:
            parameters[entry.ours[0]][rows].copy_(tensor)
            continue
        for ours, part in zip(entry.ours, entry.split(tensor), strict=True):
            parameters[ours].copy_(part)


def _config_in(path: Path) -> dict[str, Any]:
    """The config.json of a folder that may be read."""
    if path.suffix == ".gguf":
        raise gguf_refused(path)
    if (path / "adapter_config.json").is_file() and not any((path / name).exists() for name in (WEIGHTS, INDEX)):
        base = read_object(path / "adapter_config.json").get("base_model_name_or_path")
        raise ModelError(
            f"{path} is an adapter of {base or 'a model that it does not name'}, and no model",
            allowed="the folder of a model",
            cure="PeftModel.from_pretrained(MODEL, FOLDER).merge_and_unload().save_pretrained(NEW), with peft",
        )
    if not (path / CONFIG).is_file():
        raise ModelError(f"{path} has no {CONFIG}", allowed="a folder as transformers' save_pretrained writes it")
    plain = read_object(path / CONFIG)
    if plain.get("auto_map"):
        raise ModelError(
            f"{path} brings Python code of its own (auto_map in {CONFIG}), which is never run",
            cure=f"remove auto_map from {CONFIG} if the model is a plain {plain.get('model_type')}",
        )
    if quantized := plain.get("quantization_config") or plain.get("compression_config"):
        method = quantized.get("quant_method") if isinstance(quantized, dict) else quantized
        raise ModelError(
            f"{path} is quantized ({method or 'in an unnamed way'}), and quantized weights are not read",
            allowed="weights in float32, bfloat16 or float16",
        )
    if nested := [name for name in ("text_config", "vision_config", "audio_config") if plain.get(name)]:
        raise ModelError(
            f"{path} is of several parts ({nested[0]} in {CONFIG}): a model that reads more than text",
            allowed="models of text alone",
        )
    return plain


def _context(plain: Mapping[str, Any], family: Family) -> int | None:
    context = plain.get(family.context)
    if context is not None and (not isinstance(context, int) or context < 1):
        raise ModelError(f"{CONFIG}: {family.context}={context!r}", allowed="a positive integer")
    return context


def _vocab_size(plain: Mapping[str, Any]) -> int:
    size = plain.get("vocab_size")
    if not isinstance(size, int) or not 1 <= size < 2**31:
        raise ModelError(f"{CONFIG}: vocab_size={size!r}", allowed="a positive integer")
    return size


def _shapes(config: ModelConfig, vocab_size: int, num_tensors: int) -> dict[str, tuple[int, ...]]:
    """The names and shapes of our parameters; nothing is laid out with less than a tensor a layer, or an expert."""
    if config.num_layers > num_tensors and not config.shares_layers:
        raise ModelError(f"{CONFIG} asks for {config.num_layers} layers, and there are {num_tensors} tensors")
    if config.experts and config.experts.num_experts > num_tensors:
        raise ModelError(f"{CONFIG} asks for {config.experts.num_experts} experts, and there are {num_tensors} tensors")
    try:
        return {name: tuple(parameter.shape) for name, parameter in build_model(config, vocab_size).named_parameters()}
    except RuntimeError as error:  # a table larger than what can be counted
        raise ModelError(f"{CONFIG} describes no model: {str(error).splitlines()[0]}") from error


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _heads(family: Family) -> list[Link]:
    return [link for link in family.links if family.prefix and not link.theirs.startswith(family.prefix)]


def _named(path: Path, family: Family, stored: Mapping[str, Stored]) -> dict[str, Stored]:
    """The tensors by the family's names."""
    found: dict[str, Stored] = {}
    for name, one in stored.items():
        theirs = _theirs(family, name, stored)
        if theirs in found:
            raise ModelError(f"{path} has {found[theirs].name} and {name}, which are two names of one tensor")
        found[theirs] = one
    return found


def _theirs(family: Family, name: str, stored: Mapping[str, Stored]) -> str:
    """The family's name of a tensor: with its prefix, and with the endings that its parameters have now."""
    for old, new in GAIN_NAMES.items():
        if name.endswith(old):
            name = name.removesuffix(old) + new
    outer = [link.theirs for link in _heads(family)]
    outer += [pattern.rstrip("*.") for pattern in (*family.passengers, *family.zeros)]
    outer += [name.rpartition(".")[0] for name in family.copies]
    if not family.prefix or any(each.startswith(family.prefix) for each in stored):
        return name
    return name if any(f"{name}.".startswith(f"{each}.") for each in outer) else family.prefix + name


def _has_head(family: Family, plain: Mapping[str, Any], named: Mapping[str, Stored]) -> bool:
    """Whether the model has the head of a language model: by its architecture or by its tensors."""
    given = plain.get("architectures") or []
    if not family.bare or any(name != family.bare for name in given):
        return True
    outer = [link.theirs for link in _heads(family)]
    return any(f"{name}.".startswith(f"{each}.") for name in named for each in outer)


def _untied(family: Family, config: ModelConfig, named: Mapping[str, Stored]) -> ModelConfig:
    """Untied where the file has a head that is no copy of the embedding, in families where this alone counts."""
    head = _head_weight(family)
    if not (family.unties_by_file and config.ties_embeddings and head in named):
        return config
    return config if _are_equal(named, head, _embedding(family)) else structs.replace(config, ties_embeddings=False)


def _checked(path: Path, family: Family, found: Sequence[Entry], named: Mapping[str, Stored]) -> set[str]:
    """The names that are used; ModelError unless every parameter is there once, in its shape, and nothing else is."""
    needed = {entry.theirs: entry.shape for entry in found}
    if missing := [name for name in needed if name not in named]:
        others = f", and {len(missing) - 1} more tensors" if len(missing) > 1 else ""
        raise ModelError(f"{path} lacks {missing[0]} {list(needed[missing[0]])}{others}, which {CONFIG} asks for")
    for name, shape in needed.items():
        if named[name].shape != shape:
            raise ModelError(f"{name} in {path} is {list(named[name].shape)}, where {CONFIG} asks for {list(shape)}")
        if named[name].dtype not in FLOATS:
            raise ModelError(
                f"{name} in {path} is of the type {named[name].dtype}, and quantized weights are not read",
                allowed=", ".join(FLOATS.values()),
            )
    head = _head_weight(family)
    known = (*family.leftovers, *family.passengers, *family.zeros, *family.copies, head)
    if extra := [name for name in named if name not in needed and not _matches(name, known)]:
        others = f", and {len(extra) - 1} more tensors" if len(extra) > 1 else ""
        raise ModelError(
            f"{path} has {extra[0]} {list(named[extra[0]].shape)}{others}, which a {family.architecture} of this "
            f"{CONFIG} does not have",
            cure=f"the {CONFIG} that belongs to these weights",
        )
    return set(needed)


def _check_copies(path: Path, family: Family, config: ModelConfig, used: set[str], named: Mapping[str, Stored]) -> None:
    """Raises ModelError where a second name of a tensor has other values than the first."""
    copies = dict(family.copies)
    if config.ties_embeddings:
        copies[_head_weight(family)] = _embedding(family)
    for name, first in copies.items():
        if name in named and name not in used and first in named and not _are_equal(named, name, first):
            raise ModelError(
                f"{path} has {name} with other values than {first}, and {CONFIG} says that they are one tensor",
                cure=f'"tie_word_embeddings": false in {CONFIG}, if they are two'
                if name == _head_weight(family)
                else "",
            )


def _check_zeros(path: Path, family: Family, named: Mapping[str, Stored]) -> None:
    for name, tensor in tensors({name: named[name] for name in family.zeros if name in named}):
        if tensor.any():
            raise ModelError(f"{path} has {name} with values other than 0, which is not supported")


def _are_equal(named: Mapping[str, Stored], one: str, other: str) -> bool:
    if named[one].shape != named[other].shape or named[one].dtype != named[other].dtype:
        return False
    first, second = (next(iter(tensors({name: named[name]})))[1] for name in (one, other))
    return torch.equal(first, second)


def _head_weight(family: Family) -> str:
    return next(
        link.theirs if link.ours == "head.weight" else f"{link.theirs}.weight"
        for link in family.links
        if link.ours in {"head", "head.weight"}
    )


def _embedding(family: Family) -> str:
    return next(f"{link.theirs}.weight" for link in family.links if link.ours == "embedding")
