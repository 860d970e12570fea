"""The next turn of a dialogue."""

from collections.abc import Mapping, Sequence
from logging import getLogger
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

logger = getLogger("thetahat")

Located = tuple[Dialogue, str]  # a dialogue, and the place that errors name


def answer(loaded: Loaded, messages: Sequence[Mapping[str, Any]], how: Sampling | Beam) -> Answer:
    """What the model says after these messages, in the words of the template that it was trained with."""
    where = "the dialogue"
    asked = [(unanswered({"messages": [*messages]}, where), where)]
    (found,) = asked_again(loaded, asked, write(loaded, dialogue_prompts(loaded, asked), how), how, [0])
    return found


def asked_again(
    loaded: Loaded,
    asked: Sequence[Located],
    found: Sequence[Answer],
    how: Sampling | Beam,
    numbers: Sequence[int],
) -> list[Answer]:
    """The answers, those that the context had no room for written anew behind half a context of the dialogue.

    As training reads less of a dialogue where its answer is longer. `numbers` are those of the generators.
    """
    cut = [place for place, one in enumerate(found) if one.ended == "context"]
    if not cut or isinstance(loaded.model, EncoderDecoder):
        return [*found]
    shorter = dialogue_prompts(loaded, [asked[place] for place in cut], room=loaded.card.context // 2)
    again = write(loaded, shorter, how, loaded.inference.evaluation.batch_size, [numbers[place] for place in cut])
    replaced = dict(zip(cut, again, strict=True))
    return [replaced.get(place, one) for place, one in enumerate(found)]


def dialogue_prompts(loaded: Loaded, dialogues: Sequence[Located], room: int = 0) -> list[Prompt]:
    """What the model reads before the last message of each dialogue, given with the place that errors name.

    The code that made the prompts of training makes these, and an answer ends where a turn of training did. Of a
    dialogue that is too long the oldest messages are left out, unless training cut tokens; `room` tokens are left for
    an answer.
    """
    card, model = loaded.card, loaded.model
    if not dialogues:
        return []
    if card.chat is None or isinstance(model, Encoder):
        raise ConfigError(f"{loaded.folder} was not trained on dialogues", cure="thetahat generate continues a text")
    is_pair = isinstance(model, EncoderDecoder)
    cuts_tokens = card.over_long in {"truncate-left", "truncate-right"}
    options = ChatOptions(
        load_template(card.chat),
        card.source_room if is_pair else card.context - room,
        shares_prefixes=False,
        over_long=card.over_long if cuts_tokens else "keep-last-turns",
        streams=2 if is_pair else 1,
    )
    encoder = DialogueEncoder(loaded.tokenizer, options)
    encoded = list(encoder.encode(dialogues))
    ends = encoder.turn_ends()
    if ends.text:
        logger.info("no token of the template ends a turn: an answer ends before the text %r", ends.text)
    special = {*loaded.tokenizer.special.values()}
    prompts: list[Prompt] = []
    for one, (_, where) in zip(encoded, dialogues, strict=True):
        tokens, cut = _read(one, None if is_pair else card.context - room)
        if cut := cut + one.prompt_cut:
            logger.warning("%s is longer than the context: %d tokens of it are not read", where, cut)
        tokens_of_end = ends.tokens | ({one.sequences[-1][-1].tokens[-1]} & special)
        prompts.append(Prompt(tokens, tokens_of_end, (ends.text,) if ends.text else (), cut, slides=False))
    return prompts


def _read(encoded: Encoded, room: int | None) -> tuple[list[int], int]:
    """Of two spans the first, which an encoder reads; of one span what is not asked, and how much of it is too long."""
    first, *others = encoded.sequences[-1]
    read = [
        token for token, part in zip(first.tokens, first.part, strict=True) if encoded.parts[part].is_prompt or others
    ]
    cut = max(len(read) - room, 0) if room else 0
    return read[cut:], cut
