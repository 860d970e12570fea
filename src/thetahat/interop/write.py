"""A model as a folder that Hugging Face's transformers reads, old versions and new, and so do vLLM and others."""

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from thetahat.core.config import Config
from thetahat.core.store import publishing, write_json, write_text
from thetahat.data.tokens.roles import Roles
from thetahat.interop.around import (
    GENERATION,
    MODEL_CARD,
    TEMPLATE,
    TEMPLATES,
    TOKENIZER,
    TOKENIZER_CONFIG,
    Around,
)
from thetahat.interop.config import family_for, write_config
from thetahat.interop.family import Family
from thetahat.interop.files import INDEX, WEIGHTS
from thetahat.interop.made import Made, metas, write_file
from thetahat.interop.names import Entry, entries_of
from thetahat.model.config import EncoderDecoderConfig, ModelConfig

_TOKENIZER_CLASS = "PreTrainedTokenizerFast"
_STALE = ("auto_map", "chat_template", "tokenizer_file", "name_or_path", "added_tokens_decoder", "backend")


class WriteConfig(Config, kw_only=True):
    """How a folder is written."""

    family: str | None = None  # a model_type; None: the first that has this shape
    dtype: Literal["float64", "float32", "bfloat16", "float16"] | None = None  # of the tensors; None: the model's
    has_head: bool = True  # False: as a model without the head of a language model
    shard_bytes: int = 5_000_000_000  # of a file, beyond which there are several


_PLAIN = WriteConfig()


def write_folder(
    target: Path,
    parameters: Mapping[str, Tensor],
    config: ModelConfig,
    around: Around,
    passengers: Mapping[str, Tensor] | None = None,
    how: WriteConfig = _PLAIN,
) -> Family:
    """Publishes a model at `target`, where nothing may be; what comes back is the family that it is written as.

    `parameters` have the names and the order that they have in a model of `config`; where they are made when they are
    asked for, one tensor of the folder is in memory at a time. `passengers` are written as they are. Raises ModelError
    where no family has this shape.
    """
    family = family_for(config, how.family, has_head=how.has_head)
    table = metas(parameters)["embedding.weight"]
    dtype = getattr(torch, how.dtype) if how.dtype else table.dtype
    vocab_size = len(table)
    tensors = _theirs(family, parameters, config, dtype, passengers or {})
    prefix = "" if how.has_head else family.prefix
    with publishing(target) as folder:
        described = write_config(family, config, has_head=how.has_head)
        write_json(folder / "config.json", _config(family, described, around, dtype, vocab_size))
        _write_weights(folder, tensors, prefix, how.shard_bytes)
        write_around(folder, around, is_pair=isinstance(config, EncoderDecoderConfig))
    return family


def _theirs(
    family: Family,
    parameters: Mapping[str, Tensor],
    config: ModelConfig,
    dtype: torch.dtype,
    passengers: Mapping[str, Tensor],
) -> Made:
    """All tensors of a folder."""
    shapes = {name: tuple(one.shape) for name, one in metas(parameters).items()}
    vocab_size = shapes["embedding.weight"][0]
    found = {entry.theirs: entry for entry in entries_of(family.links, shapes, config)}
    table = metas(parameters)
    dtypes = {name: table[entry.ours[0]].dtype for name, entry in found.items() if entry.keeps_dtype}
    makes: dict[str, Callable[[], Tensor]] = {
        name: partial(_joined, entry, parameters, dtypes.get(name, dtype)) for name, entry in found.items()
    }
    of = {name: entry.shape for name, entry in found.items()}
    for name in family.doubles:
        if (first := family.copies[name]) in found:
            makes[name], of[name] = makes[first], of[first]
    for name in family.zeros:
        makes[name], of[name] = partial(torch.zeros, 1, vocab_size, dtype=dtype), (1, vocab_size)
    described = {name: torch.empty(shape, dtype=dtypes.get(name, dtype), device="meta") for name, shape in of.items()}
    makes |= {name: partial(passengers.__getitem__, name) for name in passengers}
    return Made(makes, described | dict(metas(passengers)))


def _joined(entry: Entry, parameters: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
    return entry.join([parameters[name].detach().to("cpu", dtype) for name in entry.ours])


def _write_weights(folder: Path, tensors: Made, prefix: str, shard_bytes: int) -> None:
    """One file, or shards and their index. One tensor is in memory at a time."""
    files: list[list[str]] = [[]]
    size = total = 0
    for name, one in tensors.metas.items():
        if files[-1] and size + one.nbytes > shard_bytes:
            files.append([])
            size = 0
        files[-1].append(name)
        size += one.nbytes
        total += one.nbytes
    weight_map: dict[str, str] = {}
    for number, names in enumerate(files, start=1):
        file = WEIGHTS if len(files) == 1 else f"model-{number:05}-of-{len(files):05}.safetensors"
        named = {name.removeprefix(prefix): name for name in names}
        some = Made(
            {new: partial(tensors.__getitem__, name) for new, name in named.items()},
            {new: tensors.metas[name] for new, name in named.items()},
        )
        write_file(folder / file, some, {"format": "pt"})
        weight_map |= dict.fromkeys(named, file)
    if len(files) > 1:
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def _config(
    family: Family, described: Mapping[str, Any], around: Around, dtype: torch.dtype, vocab_size: int
) -> dict[str, Any]:
    """The whole config.json; what describes the model comes last, so that nothing that lay around overrides it."""
    named = str(dtype).removeprefix("torch.")
    written = {name: value for name, value in around.fields.items() if name not in _STALE}
    written |= {"torch_dtype": named, "dtype": named, "vocab_size": vocab_size}
    written |= _ids(around.roles, is_pair=family.kind is EncoderDecoderConfig)
    if family.context and around.context:
        written[family.context] = around.context
    written.pop("transformers_version", None)
    return written | dict(described)


def _ids(roles: Roles, *, is_pair: bool) -> dict[str, Any]:
    """The ids of special tokens; null where there is none, or a class of theirs would take ids of its own."""
    eos = list(roles.eos) if len(roles.eos) > 1 else next(iter(roles.eos), None)
    ids = {"bos_token_id": roles.bos, "eos_token_id": eos, "pad_token_id": roles.pad}
    return ids | ({"decoder_start_token_id": roles.start} if is_pair else {})


def write_around(folder: Path, around: Around, *, is_pair: bool) -> None:
    """Writes the files beside the weights and config.json; `is_pair`: an encoder and a decoder, which starts anew."""
    ids = {name: value for name, value in _ids(around.roles, is_pair=is_pair).items() if value is not None}
    if ids or around.generation:
        generation = {name: value for name, value in around.generation.items() if name != "transformers_version"}
        write_json(folder / GENERATION, {**generation, **ids})
    for name, text in around.templates.items():
        path = folder / (TEMPLATE if name == "default" else f"{TEMPLATES}/{name}.jinja")
        path.parent.mkdir(exist_ok=True)
        write_text(path, text)
    if around.model_card is not None:
        write_text(folder / MODEL_CARD, around.model_card)
    if around.tokenizer is not None:
        write_text(folder / TOKENIZER, around.tokenizer)
        write_json(folder / TOKENIZER_CONFIG, _tokenizer_config(around, around.tokenizer))


def _tokenizer_config(around: Around, tokenizer: str) -> dict[str, Any]:
    """What transformers asks for beside tokenizer.json; the class named is the one that reads that file as it is."""
    names = {token["id"]: token["content"] for token in json.loads(tokenizer).get("added_tokens") or []}
    ids = {"bos": around.roles.bos, "eos": next(iter(around.roles.eos), None), "pad": around.roles.pad}
    tokens = {f"{role}_token": names[id] for role, id in ids.items() if id in names}
    kept = {name: value for name, value in around.tokenizer_config.items() if name not in _STALE}
    length = {"model_max_length": around.context} if around.context else {}
    return {**tokens, "clean_up_tokenization_spaces": False, **length, **kept, "tokenizer_class": _TOKENIZER_CLASS}
