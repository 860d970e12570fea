"""Every recipe by name."""

import difflib
from collections.abc import Callable
from types import MappingProxyType

from thetahat.core.errors import ConfigError
from thetahat.recipes.conditional import dialogue, summaries
from thetahat.recipes.gpt2_124m import gpt2_124m
from thetahat.recipes.infilling import infilling
from thetahat.recipes.masked import classification, masked
from thetahat.recipes.quickstart import quickstart
from thetahat.recipes.translation import translation
from thetahat.run.config import RunConfig

RECIPES: MappingProxyType[str, Callable[[], RunConfig]] = MappingProxyType(
    {
        "quickstart": quickstart,
        "gpt2-124m": gpt2_124m,
        "infilling": infilling,
        "translation": translation,
        "summaries": summaries,
        "dialogue": dialogue,
        "masked": masked,
        "classification": classification,
    }
)


def find_recipe(name: str) -> RunConfig:
    """The config of a recipe; an unknown name is an error that shows the nearest known one."""
    if name in RECIPES:
        return RECIPES[name]()
    near = difflib.get_close_matches(name, RECIPES, n=1, cutoff=0.3)
    raise ConfigError(
        f"unknown recipe {name!r}",
        allowed=f"{', '.join(RECIPES)}, or the path of a config.toml",
        cure=f"thetahat train {near[0]}" if near else "thetahat recipes",
    )


def describe_recipes() -> list[dict[str, str]]:
    """Name and purpose of each."""
    return [{"name": name, "what": (recipe.__doc__ or "").strip()} for name, recipe in RECIPES.items()]
