"""Every recipe by name."""

import difflib
from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import Any

from thetahat.core.config import kind_of
from thetahat.core.errors import ConfigError
from thetahat.data.config import as_typed
from thetahat.model.config import EncoderDecoderConfig
from thetahat.model.size import num_parameters
from thetahat.recipes.conditional import dialogue, summaries
from thetahat.recipes.gpt2_124m import gpt2_124m
from thetahat.recipes.infilling import infilling
from thetahat.recipes.masked import classification, masked
from thetahat.recipes.quickstart import quickstart
from thetahat.recipes.scale import scale
from thetahat.recipes.translation import translation
from thetahat.run.config import RunConfig

RECIPES: MappingProxyType[str, Callable[..., RunConfig]] = MappingProxyType(
    {
        "quickstart": quickstart,
        "scale": scale,
        "gpt2-124m": gpt2_124m,
        "infilling": infilling,
        "translation": translation,
        "summaries": summaries,
        "dialogue": dialogue,
        "masked": masked,
        "classification": classification,
    }
)


DIALS: MappingProxyType[str, tuple[str, ...]] = MappingProxyType({"scale": ("depth",)})
"""Whole numbers from which a recipe makes its config; they come before all keys."""


def find_recipe(name: str, **dials: int) -> RunConfig:
    """The config of a recipe, at its dials; an unknown name is an error that shows the nearest known one."""
    if unknown := [dial for dial in dials if dial not in DIALS.get(name, ())]:
        having = [f"{recipe} {dial}=..." for recipe, ours in DIALS.items() for dial in ours]
        raise ConfigError(f"{name} has no dial {unknown[0]}", allowed=", ".join(having))
    if name in RECIPES:
        return RECIPES[name](**dials)
    near = difflib.get_close_matches(name, RECIPES, n=1, cutoff=0.3)
    raise ConfigError(
        f"unknown recipe {name!r}",
        allowed=f"{', '.join(RECIPES)}, or the path of a config.toml",
        cure=f"{near[0]}; thetahat recipes lists them" if near else "thetahat recipes",
    )


def take_dials(name: str, pairs: Sequence[str]) -> tuple[dict[str, int], list[str]]:
    """Of KEY=VALUE pairs the dials of a recipe, the last of each, and those that are keys of the config."""
    known, dials, rest = DIALS.get(name, ()), dict[str, int](), list[str]()
    for pair in pairs:
        key, _, value = pair.partition("=")
        if key not in known:
            rest.append(pair)
        elif value.strip().isdecimal():
            dials[key] = int(value)
        else:
            raise ConfigError(f"{key}={value}", allowed="a whole number", cure=f"{key}=12")
    return dials, rest


def describe_recipes() -> list[dict[str, Any]]:
    """Name, shape, data and purpose of each; the parameters are those of a tokenizer that gets all that it asks for."""
    return [_described(name, recipe) for name, recipe in RECIPES.items()]


def _described(name: str, recipe: Callable[..., RunConfig]) -> dict[str, Any]:
    config = recipe()
    model, data = config.model, config.data
    encoder = {"num_encoder_layers": model.num_encoder_layers} if isinstance(model, EncoderDecoderConfig) else {}
    return {
        "name": name,
        "kind": kind_of(model),
        "num_layers": model.num_layers,
        **encoder,
        "width": model.width,
        "num_parameters": num_parameters(model, data.vocab_size),
        "vocab_size": data.vocab_size,
        "context": data.context,
        "source_context": data.source_room if encoder else None,
        "objective": kind_of(config.objective.factorization),
        "records": _records(config),
        "train": as_typed(data.train),
        "max_steps": config.max_steps,
        "what": (recipe.__doc__ or "").strip(),
    }


def _records(config: RunConfig) -> str:
    """What a record of its data holds."""
    layout = config.objective.factorization.layout
    if config.data.chat:
        return "messages"
    if layout.predicts_label:
        return "text, label"
    return "prompt, completion" if layout.has_source else "text"
