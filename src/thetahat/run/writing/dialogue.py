"""Dialogues as the prompts that they are in training."""

from collections.abc import Sequence
from logging import getLogger

from thetahat.core.errors import ConfigError
from thetahat.data.chat.encode import ChatOptions, DialogueEncoder
from thetahat.data.chat.template import load_template
from thetahat.data.config import ChatConfig
from thetahat.data.read.dialogue import Dialogue
from thetahat.data.tokens.encoded import Encoded
from thetahat.model.encoder import Encoder
from thetahat.model.encoder_decoder import EncoderDecoder
from thetahat.run.writing.prompt import REFUSING, Prompt, Speaker, too_long

logger = getLogger("thetahat")

_UNBOUNDED = 1 << 30  # positions

Located = tuple[Dialogue, str]  # a dialogue, and the place that errors name


def check_talks(speaker: Speaker, cure: str = "") -> ChatConfig:
    """How the model was taught to write dialogues; ConfigError if it was not."""
    if speaker.card.chat is None or isinstance(speaker.model, Encoder):
        raise ConfigError(
            f"{speaker.folder} was not trained on dialogues and has no chat template",
            cure=cure or f"thetahat generate {speaker.folder}, which continues a text",
        )
    return speaker.card.chat


def dialogue_prompts(
    speaker: Speaker, dialogues: Sequence[Located], room: int = 0, *, whole: bool = False
) -> list[Prompt]:
    """What the model reads before the last message of each dialogue, given with the place that errors name.

    The code that made the prompts of training makes these, and an answer ends where a turn of training did. What is too
    long, with `room` tokens for an answer, becomes what it became in training (card.over_long): an error, which names
    the place, under error and drop; else the oldest messages are left out, unless training cut tokens. `whole`: nothing
    is cut or refused, and the caller sees to it.
    """
    if not dialogues:
        return []
    is_pair = isinstance(speaker.model, EncoderDecoder)
    room = speaker.card.source_room if is_pair else speaker.card.context - room
    refuses = speaker.card.over_long in REFUSING
    encoder = DialogueEncoder(speaker.tokenizer, _options(speaker, _UNBOUNDED if whole or refuses else room))
    encoded = list(encoder.encode(dialogues))
    ends = encoder.turn_ends()
    if ends.text:
        logger.info("no token of the template ends a turn: an answer ends before the text %r", ends.text)
    special = {*speaker.tokenizer.special.values()}
    prompts: list[Prompt] = []
    for one, (_, where) in zip(encoded, dialogues, strict=True):
        tokens, cut = _read(one, None if is_pair or whole or refuses else room)
        if refuses and not whole and len(tokens) > room:
            raise too_long(speaker, f"{where} has {len(tokens):,} tokens", room, "--over-long keep-last-turns")
        if cut := cut + one.prompt_cut:
            logger.warning("%s is longer than the context: %d tokens of it are not read", where, cut)
        tokens_of_end = ends.tokens | ({one.sequences[-1][-1].tokens[-1]} & special)
        goes_on = speaker.tokenizer.goes_on(tokens[-1])
        texts = (ends.text,) if ends.text else ()
        prompts.append(Prompt(tokens, tokens_of_end, texts, cut, slides=False, goes_on=goes_on))
    return prompts


def _options(speaker: Speaker, context: int) -> ChatOptions:
    policy, is_pair = speaker.card.over_long, isinstance(speaker.model, EncoderDecoder)
    return ChatOptions(
        load_template(check_talks(speaker)),
        context,
        shares_prefixes=False,
        over_long=policy if policy in {"truncate-left", "truncate-right"} else "keep-last-turns",
        streams=2 if is_pair else 1,
    )


def _read(encoded: Encoded, room: int | None) -> tuple[list[int], int]:
    """The tokens that are read before a reply, of one span its prompts, of two the first; and how many are cut."""
    first, *others = encoded.sequences[-1]
    read = [
        token for token, part in zip(first.tokens, first.part, strict=True) if encoded.parts[part].is_prompt or others
    ]
    cut = max(len(read) - room, 0) if room else 0
    return read[cut:], cut
