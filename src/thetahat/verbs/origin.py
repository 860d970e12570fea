"""What lies around the weights of a model when it is exported: what it came with, or what its training made."""

import json
from collections.abc import Mapping
from dataclasses import replace
from logging import getLogger
from typing import Any

from msgspec import structs

from thetahat.core.errors import ModelError
from thetahat.core.special import Frame
from thetahat.data.chat.encode import ChatOptions, DialogueEncoder
from thetahat.data.chat.template import ChatTemplate, load_template
from thetahat.data.tokens.roles import Roles
from thetahat.interop.around import Around
from thetahat.interop.origin import Origin, origin_of, read_origin
from thetahat.interop.out.frame import with_frame
from thetahat.run.folder.checkpoint import TOKENIZER
from thetahat.run.folder.stored import Foreign, StoredModel, find_model
from thetahat.verbs.load import Loaded

logger = getLogger("thetahat")


def origin_of_model(stored: StoredModel) -> Origin | None:
    """What a model, or the base that its training began from, came with; None where it is all ours."""
    if isinstance(stored, Foreign):
        return origin_of(stored.hub)
    if found := read_origin(stored.folder, _tokenizer(stored)):
        return found
    if stored.run is None or stored.run.base is None:
        return None
    try:
        return origin_of_model(find_model(stored.run.base))
    except ModelError as error:
        logger.warning(
            "base=%s cannot be read, so nothing that it came with beside its weights is exported: %s",
            stored.run.base,
            str(error).splitlines()[0],
        )
        return None


def _tokenizer(stored: StoredModel) -> str | None:
    path = stored.hub.tokenizer if isinstance(stored, Foreign) else stored.folder / TOKENIZER
    return path.read_text(encoding="utf-8") if path else None


def around_of(loaded: Loaded, origin: Origin | None) -> Around:
    """What is written around the weights; what training made of it comes before what the model came with."""
    ends, template = _ends_of_turns(loaded), _template(loaded)
    tokenizer = _tokenizer(loaded.stored)
    if origin is None:
        around, roles = Around(context=loaded.card.context), _roles(loaded)
        tokenizer = tokenizer and with_frame(tokenizer, _frame(loaded))
        around = replace(around, tokenizer_config=_named_tokens(loaded))
    else:
        around, roles = origin.around, origin.around.roles
    eos = tuple(dict.fromkeys((*roles.eos, *ends)))
    templates = {**around.templates} if template is None else {**around.templates, "default": template}
    return replace(around, roles=structs.replace(roles, eos=eos), templates=templates, tokenizer=tokenizer)


def _frame(loaded: Loaded) -> Frame:
    """What training reads around a text; behind one that goes on there is nothing."""
    frames, layout = loaded.tokenizer.frames, loaded.card.factorization.layout
    if layout.has_source:
        return frames.source
    return frames.text if layout.is_whole else Frame(frames.text.before)


def _roles(loaded: Loaded) -> Roles:
    ours, frames = loaded.tokenizer.roles, loaded.tokenizer.frames
    is_pair = loaded.card.factorization.layout.has_source
    return Roles(
        bos=ours.bos if ours.bos is not None else frames.text.before[0],
        eos=ours.eos,
        pad=ours.eos[0] if ours.pad is None and is_pair else ours.pad,  # labels are shifted with it
        start=frames.target.before[0] if is_pair else None,
    )


def _named_tokens(loaded: Loaded) -> Mapping[str, Any]:
    """What a tokenizer's class asks for beside the tokens of `Roles`; padding is masked, so any token will do."""
    tokenizer = loaded.tokenizer
    mask = tokenizer.roles.mask
    named = {} if mask is None else {"mask_token": tokenizer.piece(mask)}
    if not loaded.card.factorization.layout.is_whole:
        return named
    pad = tokenizer.roles.pad
    return named | {"pad_token": tokenizer.piece(tokenizer.roles.eos[0] if pad is None else pad)}


def _ends_of_turns(loaded: Loaded) -> list[int]:
    """The tokens that end a turn of the assistant in the dialogues of the training."""
    chat = loaded.card.chat
    if chat is None or loaded.stored.run is None:
        return []
    options = ChatOptions(load_template(chat), loaded.card.context, False, "keep-last-turns", 1)
    ends = DialogueEncoder(loaded.tokenizer, options).turn_ends()
    if ends.text:
        logger.warning(
            "no token of the template ends a turn, so the folder does not say where an answer ends: at the text %r",
            ends.text,
        )
    return sorted(ends.tokens)


def _template(loaded: Loaded) -> str | None:
    """The template of the training, which brings with it what it is given beside the messages; None: there was none."""
    chat = loaded.card.chat
    if chat is None or loaded.stored.run is None:
        return None
    template, roles = load_template(chat), loaded.tokenizer.roles
    usual = {"bos_token": roles.bos, "eos_token": next(iter(roles.eos), None)}
    named = {name: loaded.tokenizer.piece(id) for name, id in usual.items() if id is not None}
    return "".join(_given(template, named)) + template.source


def _given(template: ChatTemplate, usual: Mapping[str, str]) -> list[str]:
    """Statements that give a template its own tokens and variables; transformers gives it those of the tokenizer."""
    tokens = {"bos_token": template.bos_token, "eos_token": template.eos_token}
    own = {name: token for name, token in tokens.items() if name in template.source and token != usual.get(name)}
    lines = [f"{{% set {name} = {json.dumps(token)} %}}" for name, token in own.items()]
    return lines + [
        f"{{% if {name} is not defined %}}{{% set {name} = {json.dumps(value)} %}}{{% endif %}}"
        for name, value in template.variables.items()
    ]
