"""A model as a folder that Hugging Face's transformers reads, old versions and new, and so do vLLM and others."""

import json
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

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
from thetahat.interop.names import Entry, entries
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
    model: nn.Module,
    config: ModelConfig,
    around: Around,
    passengers: Mapping[str, Tensor] | None = None,
    how: WriteConfig = _PLAIN,
) -> Family:
    """Publishes a model at `target`, where nothing may be; what comes back is the family that it is written as.

    `passengers` are written as they are. Raises ModelError where no family has this shape.
    """
    family = family_for(config, how.family, has_head=how.has_head)
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    found = entries(family.links, {name: tuple(each.shape) for name, each in parameters.items()}, config.num_heads)
    dtype = getattr(torch, how.dtype) if how.dtype else parameters["embedding.weight"].dtype
    vocab_size = len(parameters["embedding.weight"])
    makes: dict[str, Callable[[], Tensor]] = {one.theirs: partial(_theirs, one, parameters, dtype) for one in found}
    makes |= {name: partial(_copy, makes[first]) for name in family.doubles if (first := family.copies[name]) in makes}
    makes |= {name: partial(torch.zeros, 1, vocab_size, dtype=dtype) for name in family.zeros}
    makes |= {name: tensor.contiguous for name, tensor in (passengers or {}).items()}
    prefix = "" if how.has_head else family.prefix
    with publishing(target) as folder:
        described = write_config(family, config, has_head=how.has_head)
        write_json(folder / "config.json", _config(family, described, around, dtype, vocab_size))
        _write_weights(folder, makes, prefix, how.shard_bytes)
        write_around(folder, around, is_pair=isinstance(config, EncoderDecoderConfig))
    return family


def _theirs(entry: Entry, parameters: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
    return entry.join([parameters[name].to("cpu", dtype) for name in entry.ours]).contiguous()


def _copy(make: Callable[[], Tensor]) -> Tensor:
    return make().clone()  # no two tensors of a file share memory


def _write_weights(folder: Path, makes: Mapping[str, Callable[[], Tensor]], prefix: str, shard_bytes: int) -> None:
    """One file, or shards and their index. The tensors of one file alone are held at once."""
    files: list[list[str]] = []
    held: dict[str, Tensor] = {}
    total = 0

    def save() -> None:
        save_file(held, folder / f"{len(files)}", metadata={"format": "pt"})
        shutil.copymode(folder / "config.json", folder / f"{len(files)}")  # as every file, not for its owner alone
        files.append(list(held))
        held.clear()

    for name, make in makes.items():
        tensor = make()
        if held and sum(each.nbytes for each in held.values()) + tensor.nbytes > shard_bytes:
            save()
        held[name.removeprefix(prefix)] = tensor
        total += tensor.nbytes
    save()
    if len(files) == 1:
        (folder / "0").rename(folder / WEIGHTS)
        return
    weight_map: dict[str, str] = {}
    for number, names in enumerate(files):
        file = f"model-{number + 1:05}-of-{len(files):05}.safetensors"
        (folder / f"{number}").rename(folder / file)
        weight_map |= dict.fromkeys(names, file)
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
