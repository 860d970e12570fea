"""`thetahat templates`, `thetahat optimizers`, `thetahat families`."""

from thetahat.cli.table import Column, show_table
from thetahat.cli.words import Json, Quiet, emit, emit_json, emit_words, listen_to_library, say


def templates(quiet: bool = Quiet, json: bool = Json) -> None:
    """List the chat templates that come along, for data.chat.template=NAME."""
    listen_to_library(quiet=quiet)
    from thetahat.verbs.lists import list_templates

    found = list_templates()
    if json:
        emit_json({"templates": found})
        return
    columns = [
        Column("template", lambda one: one.name),
        Column("ends a turn", lambda one: " ".join(one.ends_turn)),
        Column("special tokens", lambda one: " ".join(one.special_tokens)),
    ]
    show_table(found, columns)
    if not quiet:
        say("\nNext: thetahat explain dialogue my.jsonl data.chat.template=NAME    or a .jinja file, or a model")


def optimizers(quiet: bool = Quiet, json: bool = Json) -> None:
    """List the update rules and the schedules, with the keys that choose and set them."""
    listen_to_library(quiet=quiet)
    from thetahat.verbs.lists import list_optimizers

    found = list_optimizers()
    if json:
        emit_json({"optimizers": found})
        return
    for number, rule in enumerate(found):
        emit_words(f"{chr(10) if number else ''}{rule.name}: {rule.what}")
        emit(f"    {', '.join(f'{key}={rule.name}' for key in rule.keys)}")
        emit(f"    {', '.join(_set(name, value) for name, value in rule.settings.items())}")
    if not quiet:
        say("\nNext: thetahat keys optimization")


def _set(name: str, value: object) -> str:
    return f"{name}=..." if value is None else f"{name}={value}"


def families(quiet: bool = Quiet, json: bool = Json) -> None:
    """List the families of models of Hugging Face's transformers that are read and written."""
    listen_to_library(quiet=quiet)
    from thetahat.verbs.lists import list_families

    found = list_families()
    if json:
        emit_json({"families": found})
        return
    columns = [
        Column("model_type", lambda one: one.model_type),
        Column("model", lambda one: one.kind),
        Column("architectures", lambda one: ", ".join(one.architectures)),
    ]
    show_table(found, columns)
    if not quiet:
        say("\nNext: thetahat info FOLDER, or hf:OWNER/NAME")
