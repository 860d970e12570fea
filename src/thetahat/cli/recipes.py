"""`thetahat recipes`."""

from typing import Any

from thetahat.cli.table import Column, show_table
from thetahat.cli.words import Json, Quiet, emit, emit_json, emit_words, listen_to_library, say


def recipes(quiet: bool = Quiet, json: bool = Json) -> None:
    """List the recipes to start from: their shapes, and what data they are for."""
    listen_to_library(quiet=quiet)
    from thetahat.recipes.catalogue import describe_recipes

    known = describe_recipes()
    if json:
        emit_json({"recipes": known})
        return
    columns = [
        Column("recipe", lambda one: one["name"]),
        Column("model", lambda one: one["kind"]),
        Column("layers", _layers, ""),
        Column("width", lambda one: one["width"], ","),
        Column("parameters", lambda one: one["num_parameters"], ","),
        Column("context", _context, ""),
        Column("steps", lambda one: one["max_steps"], ","),
        Column("a record holds", lambda one: one["records"]),
    ]
    show_table(known, columns)
    emit("")
    for one in known:
        emit_words(f"{one['name']}: {one['what']}")
    if not quiet:
        say(f"\nNext: thetahat train {known[0]['name']}    or thetahat info RECIPE, for all of one")


def _layers(one: dict[str, Any]) -> str:
    """Of both sides, where there are two."""
    both = one.get("num_encoder_layers")
    return f"{both} + {one['num_layers']}" if both else str(one["num_layers"])


def _context(one: dict[str, Any]) -> str:
    """Of both sides, where there are two."""
    source = one["source_context"]
    return f"{source:,} + {one['context']:,}" if source else f"{one['context']:,}"
