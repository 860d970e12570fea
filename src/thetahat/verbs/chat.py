"""The next turn of a dialogue."""

from collections.abc import Mapping, Sequence
from typing import Any

from thetahat.core.errors import ConfigError
from thetahat.data.chat.encode import ChatOptions, DialogueEncoder
from thetahat.data.chat.template import load_template
from thetahat.data.read.dialogue import Dialogue
from thetahat.data.read.prompt import unanswered
from thetahat.data.tokens.encoded import Encoded
from thetahat.generation.beam import Beam
from thetahat.generation.sample import Sampling
from thetahat.model.encoder import Encoder
from thetahat.model.encoder_decoder import EncoderDecoder
from thetahat.verbs.generate import Answer, Prompt, write
from thetahat.verbs.load import Loaded


def answer(loaded: Loaded, messages: Sequence[Mapping[str, Any]], how: Sampling | Beam) -> Answer:
    """What the model says after these messages, in the words of the template that it was trained with."""
    where = "the dialogue"
    (found,) = write(loaded, dialogue_prompts(loaded, [(unanswered({"messages": [*messages]}, where), where)]), how)
    return found


def dialogue_prompts(loaded: Loaded, dialogues: Sequence[tuple[Dialogue, str]]) -> list[Prompt]:
    """What the model reads before the last message of each dialogue, given with the place that errors name.

    The code that made the prompts of training makes these, and an answer ends where a turn of training did.
    """
    card, model, tokenizer = loaded.card, loaded.model, loaded.tokenizer
    if not dialogues:
        return []
    if card.chat is None or isinstance(model, Encoder):
        raise ConfigError(f"{loaded.folder} was not trained on dialogues", cure="thetahat generate continues a text")
    streams = 2 if isinstance(model, EncoderDecoder) else 1
    options = ChatOptions(load_template(card.chat), 1 << 30, shares_prefixes=False, streams=streams)
    encoded = DialogueEncoder(tokenizer, options).encode(dialogues)
    return [_prompt(one) for one in encoded]


def _prompt(encoded: Encoded) -> Prompt:
    """Of two spans the first, which an encoder reads; of one span what is not asked."""
    first, *others = encoded.sequences[-1]
    read = [
        token for token, part in zip(first.tokens, first.part, strict=True) if encoded.parts[part].is_prompt or others
    ]
    return Prompt(read, frozenset({(others[0] if others else first).tokens[-1]}), slides=False)
