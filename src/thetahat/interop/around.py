"""What lies around the weights of a folder: special tokens, the tokenizer's file, chat templates."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast, final

from thetahat.core.errors import ModelError
from thetahat.data.chat.template import templates_in
from thetahat.data.tokens.roles import NO_ROLES, Roles
from thetahat.interop.files import read_object, read_text

TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
TEMPLATE, TEMPLATES = "chat_template.jinja", "additional_chat_templates"
GENERATION = "generation_config.json"
MODEL_CARD = "README.md"


@final
@dataclass(frozen=True, kw_only=True)
class Around:
    """What a folder holds beside the weights of a model and the fields that describe it."""

    roles: Roles = NO_ROLES
    context: int | None = None  # positions that the model was trained for; None: not said
    tokenizer: str | None = None  # the text of tokenizer.json; None: there is none
    tokenizer_config: Mapping[str, Any] = field(default_factory=dict[str, Any])
    templates: Mapping[str, str] = field(default_factory=dict[str, str])  # by name; "default" is used without one
    generation: Mapping[str, Any] = field(default_factory=dict[str, Any])  # of generation_config.json, but for `roles`
    fields: Mapping[str, Any] = field(default_factory=dict[str, Any])  # of config.json, inert ones
    model_card: str | None = None  # the text of README.md, for people


def roles_of(config: Mapping[str, Any], generation: Mapping[str, Any]) -> Roles:
    """The special tokens that the two files name; generation_config.json comes before config.json."""

    def named(name: str) -> list[int]:
        key = f"{name}_token_id"
        given = generation.get(key) if generation.get(key) is not None else config.get(key)
        ids = cast("list[Any]", given if isinstance(given, list) else [] if given is None else [given])
        if not all(isinstance(number, int) and not isinstance(number, bool) and number >= 0 for number in ids):
            raise ModelError(f"{key}={given!r} is no id of a token", allowed="an integer, a list of them, or null")
        return ids

    def one(name: str) -> int | None:
        return next(iter(named(name)), None)

    eos = tuple(dict.fromkeys(named("eos")))
    return Roles(bos=one("bos"), eos=eos, pad=one("pad"), start=one("decoder_start"))


def around_in(folder: Path, config: Mapping[str, Any], inert: Mapping[str, Any]) -> Around:
    """What lies around the weights in a folder with this config.json, of which some fields are inert."""

    def read(name: str) -> dict[str, Any]:
        return read_object(folder / name) if (folder / name).is_file() else {}

    generation, tokenizer_config = read(GENERATION), read(TOKENIZER_CONFIG)
    tokenizer = read_text(folder / TOKENIZER) if (folder / TOKENIZER).is_file() else None
    return Around(
        roles=roles_of(config, generation),
        tokenizer=tokenizer,
        tokenizer_config=tokenizer_config,
        templates=templates_in(folder, tokenizer_config, read_text),
        generation=generation,
        fields=inert,
    )


def vocabulary_of(tokenizer: str) -> int:
    """The largest id that the text of a tokenizer.json names, plus 1."""
    try:
        description = json.loads(tokenizer)
        vocabulary = (description.get("model") or {}).get("vocab") or {}
        ids: list[int] = [-1]
        ids += list(vocabulary.values()) if isinstance(vocabulary, dict) else range(len(vocabulary))
        ids += [token["id"] for token in description.get("added_tokens") or []]
        return max(ids) + 1
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ModelError(f"{TOKENIZER} describes no tokenizer: {error}") from error
