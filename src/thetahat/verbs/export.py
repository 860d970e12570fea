"""A model as a folder that Hugging Face's transformers reads, or its adapter as PEFT reads one."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from logging import getLogger
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from thetahat.core import store
from thetahat.core.config import Config
from thetahat.core.errors import ModelError
from thetahat.interop.around import MODEL_CARD
from thetahat.interop.config import family_for
from thetahat.interop.family import Family
from thetahat.interop.hub import hub_name, is_hub_name
from thetahat.interop.made import Made
from thetahat.interop.out.adapter import Trained, check_adapter, write_adapter
from thetahat.interop.out.card import ModelFacts, model_card
from thetahat.interop.write import WriteConfig, write_folder
from thetahat.model.adapters.lora import merge
from thetahat.model.decoder import Decoder
from thetahat.model.precision import parameter_dtype
from thetahat.run.base import parameters_of, values_of
from thetahat.run.folder.checkpoint import check_fit
from thetahat.run.folder.stored import Foreign
from thetahat.verbs.facts import facts_of, measured
from thetahat.verbs.load import Loaded, fill, finite, load
from thetahat.verbs.origin import around_of, origin_of_model
from thetahat.verbs.score import Shows

Stored = Literal["float64", "float32", "bfloat16", "float16"]
_DTYPES: Mapping[torch.dtype, Stored] = {
    torch.float64: "float64",
    torch.float32: "float32",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
}
logger = getLogger("thetahat")


class ExportConfig(Config, kw_only=True):
    """How a model is exported."""

    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """The dtype of the tensors that are written; none: as they are."""
    family: str | None = None
    """The model_type that is preferred where several families describe the model; none: the first."""
    adapter: bool = False
    """Whether the adapter alone is written, as PEFT reads it."""
    measures: bool = True
    """Whether what the run held out is scored for the model card."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written."""

    folder: Path
    family: str
    architecture: str
    dtype: str
    num_parameters: int
    bits_per_byte: float | None  # of what was held out; None: not measured
    bits_per_byte_ci95: tuple[float, float] | None
    has_chat_template: bool = False


_AS_IT_IS = ExportConfig()


def export(name: str, out: Path, how: ExportConfig = _AS_IT_IS, *, shows: Shows | None = None) -> Exported:
    """Writes the model of this name as a folder that transformers loads, and that scores the same there.

    Products of adapters are added to their matrices first, or, with `how.adapter`, written alone. The folder has the
    weights, their config, the tokenizer with what it puts around a text, the chat template, the tokens that end what
    is generated, and a model card; what an imported model came with is in it as it was. Raises ModelError where no
    family of models has this shape, by name.
    """
    store.check_target(out, "OUT")
    loaded = load(name, needs_head=False, on_meta=True)
    origin = origin_of_model(loaded.stored)
    preferred = how.family or (origin.family if origin else None)
    has_head = origin.has_head if origin else True
    _refuse_unwritable(loaded)
    family_for(loaded.card.model, preferred, has_head=has_head)
    if how.adapter:
        check_adapter(loaded.model)
    if not how.adapter and (count := merge(loaded.model)):
        logger.info("%d products of the adapter are added to their matrices", count)
    tensors = _tensors(loaded, how)
    _leave_out_future(loaded)
    likelihood, why_not = (
        measured(_filled(loaded, tensors), name, shows)
        if how.measures and has_head
        else (None, "that was not asked for, or cannot be")
    )
    facts = facts_of(loaded, name, likelihood, why_not)
    around, dtype = around_of(loaded, origin), how.dtype or _dtype_of(loaded, tensors)
    with store.alone(out):
        if how.adapter:
            family = _write_adapter(out, loaded, tensors, replace(facts, library="peft"), preferred)
        else:
            writing = WriteConfig(family=preferred, dtype=dtype, has_head=has_head)
            around = replace(around, model_card=model_card(facts))
            passengers = origin.passengers if origin else None
            family = write_folder(out, tensors, loaded.card.model, around, passengers, writing)
    summary = likelihood.summary if likelihood else None
    return Exported(
        folder=out,
        family=family.model_type,
        architecture=family.architecture if has_head else family.bare,
        dtype=dtype,
        num_parameters=sum(parameter.numel() for parameter in loaded.model.parameters()),
        bits_per_byte=summary.bits_per_byte if summary else None,
        bits_per_byte_ci95=summary.bits_per_byte_ci95 if summary else None,
        has_chat_template=loaded.card.chat is not None,
    )


def _refuse_unwritable(loaded: Loaded) -> None:
    """Raises ModelError for what the families of others compute otherwise, whatever the shape."""
    card = loaded.card
    if card.labels or card.factorization.layout.predicts_label:
        raise ModelError(
            f"{loaded.folder} predicts labels, and what is exported are language models",
            cure="the model that it was trained from: thetahat export BASE OUT",
        )
    if card.factorization.opens_prompts:
        raise ModelError(
            f"{loaded.folder} is a prefix language model: all of a prompt sees all of it, which no decoder of "
            "transformers computes",
            allowed="objective.factorization.kind=causal, fill-in-the-middle, masked, conditional, spans",
        )


def _dtype_of(loaded: Loaded, tensors: Made) -> Stored:
    """In which the parameters lie on disk."""
    stored = loaded.stored
    return _DTYPES[stored.hub.dtype if isinstance(stored, Foreign) else tensors.metas["embedding.weight"].dtype]


def _tensors(loaded: Loaded, how: ExportConfig) -> Made:
    """The parameters that are written, in the order of the model, rounded as they will be in the folder."""
    found = values_of(loaded.stored) if how.adapter else parameters_of(loaded.stored)
    if not how.adapter:
        check_fit(loaded.model, found, str(loaded.folder))
    tensors, dtype = finite(found, loaded.folder), getattr(torch, how.dtype) if how.dtype else None
    names = [name for name, _ in loaded.model.named_parameters() if not name.startswith("future.")]
    makes = {name: partial(_rounded, tensors, name, dtype) for name in names}
    return Made(makes, {name: tensors.metas[name] for name in names})


def _leave_out_future(loaded: Loaded) -> None:
    """Takes the blocks off that training alone reads."""
    model = loaded.model
    if isinstance(model, Decoder) and len(model.future):
        logger.info("%d blocks that predicted tokens behind the next one in training are left out", len(model.future))
        model.future = nn.ModuleList()


def _rounded(tensors: Mapping[str, Tensor], name: str, dtype: torch.dtype | None) -> Tensor:
    tensor = tensors[name]
    return tensor if dtype is None else tensor.to(dtype).to(tensor.dtype)


def _filled(loaded: Loaded, tensors: Made) -> Loaded:
    """The model in memory, with these tensors, so that they are what is scored."""
    model = deepcopy(loaded.model)
    fill(model, tensors, loaded.device, parameter_dtype(loaded.inference.dtype))
    return replace(loaded, model=model)


def _write_adapter(
    out: Path, loaded: Loaded, values: Mapping[str, Tensor], facts: ModelFacts, preferred: str | None
) -> Family:
    """The folder that `PeftModel.from_pretrained` reads beside the base."""
    run = loaded.stored.run
    assert run
    assert run.base
    assert run.adapter
    with store.publishing(out) as folder:
        base = hub_name(run.base).name if is_hub_name(run.base) else run.base
        family = write_adapter(folder, loaded.model, values, loaded.card.model, Trained(run.adapter, base, preferred))
        store.write_text(folder / MODEL_CARD, model_card(facts))
    return family
