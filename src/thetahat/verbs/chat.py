"""The next turn of a dialogue."""

from collections.abc import Mapping, Sequence
from logging import getLogger
from typing import Any, Literal

from thetahat.core.errors import ConfigError
from thetahat.data.chat.encode import ChatOptions, DialogueEncoder
from thetahat.data.chat.template import load_template
from thetahat.data.config import ChatConfig
from thetahat.data.read.dialogue import Dialogue
from thetahat.data.read.prompt import unanswered
from thetahat.data.tokens.encoded import Encoded
from thetahat.generation.beam import Beam
from thetahat.generation.sample import Sampling
from thetahat.model.encoder import Encoder
from thetahat.model.encoder_decoder import EncoderDecoder
from thetahat.verbs.generate import REFUSING, Answer, Prompt, too_long, with_policy, write
from thetahat.verbs.load import Loaded

logger = getLogger("thetahat")

_UNBOUNDED = 1 << 30  # positions

Located = tuple[Dialogue, str]  # a dialogue, and the place that errors name


def answer(loaded: Loaded, messages: Sequence[Mapping[str, Any]], how: Sampling | Beam) -> Answer:
    """What the model says after these messages, in the words of the template that it was trained with."""
    where = "the dialogue"
    dialogues = [(unanswered({"messages": [*messages]}, where), where)]
    (found,) = written_anew(loaded, dialogues, write(loaded, dialogue_prompts(loaded, dialogues), how), how, [0])
    return found


def written_anew(
    loaded: Loaded,
    dialogues: Sequence[Located],
    found: Sequence[Answer],
    how: Sampling | Beam,
    numbers: Sequence[int],
) -> list[Answer]:
    """The answers; one that the context had no room for is written again, behind half a context of its dialogue.

    So training does: it reads less of a dialogue where the reply is longer. `numbers` are those of the generators.
    """
    cut = [place for place, one in enumerate(found) if one.ended == "context"]
    if not cut or isinstance(loaded.model, EncoderDecoder) or loaded.card.over_long in REFUSING:
        return [*found]
    shorter = dialogue_prompts(loaded, [dialogues[place] for place in cut], room=loaded.card.context // 2)
    again = write(loaded, shorter, how, loaded.inference.evaluation.batch_size, [numbers[place] for place in cut])
    replaced = dict(zip(cut, again, strict=True))
    return [replaced.get(place, one) for place, one in enumerate(found)]


def check_talks(loaded: Loaded, cure: str = "") -> ChatConfig:
    """How the model was taught to write dialogues; ConfigError if it was not."""
    if loaded.card.chat is None or isinstance(loaded.model, Encoder):
        raise ConfigError(
            f"{loaded.folder} was not trained on dialogues and has no chat template",
            cure=cure or f"thetahat generate {loaded.folder}, which continues a text",
        )
    return loaded.card.chat


def dialogue_prompts(
    loaded: Loaded, dialogues: Sequence[Located], room: int = 0, *, whole: bool = False
) -> list[Prompt]:
    """What the model reads before the last message of each dialogue, given with the place that errors name.

    The code that made the prompts of training makes these, and an answer ends where a turn of training did. What is too
    long, with `room` tokens for an answer, becomes what it became in training (card.over_long): an error, which names
    the place, under error and drop; else the oldest messages are left out, unless training cut tokens. `whole`: nothing
    is cut or refused, and the caller sees to it.
    """
    if not dialogues:
        return []
    is_pair = isinstance(loaded.model, EncoderDecoder)
    room = loaded.card.source_room if is_pair else loaded.card.context - room
    refuses = loaded.card.over_long in REFUSING
    encoder = DialogueEncoder(loaded.tokenizer, _options(loaded, _UNBOUNDED if whole or refuses else room))
    encoded = list(encoder.encode(dialogues))
    ends = encoder.turn_ends()
    if ends.text:
        logger.info("no token of the template ends a turn: an answer ends before the text %r", ends.text)
    special = {*loaded.tokenizer.special.values()}
    prompts: list[Prompt] = []
    for one, (_, where) in zip(encoded, dialogues, strict=True):
        tokens, cut = _read(one, None if is_pair or whole or refuses else room)
        if refuses and not whole and len(tokens) > room:
            raise too_long(loaded, f"{where} has {len(tokens):,} tokens", room, "--over-long keep-last-turns")
        if cut := cut + one.prompt_cut:
            logger.warning("%s is longer than the context: %d tokens of it are not read", where, cut)
        tokens_of_end = ends.tokens | ({one.sequences[-1][-1].tokens[-1]} & special)
        goes_on = loaded.tokenizer.goes_on(tokens[-1])
        texts = (ends.text,) if ends.text else ()
        prompts.append(Prompt(tokens, tokens_of_end, texts, cut, slides=False, goes_on=goes_on))
    return prompts


def question_prompts(
    loaded: Loaded, dialogues: Sequence[Located], over_long: Literal["error", "truncate-left"]
) -> list[Prompt]:
    """What is read before choices: under "error" all of it, since what asks the questions refuses those too long."""
    if over_long == "error":
        return dialogue_prompts(loaded, dialogues, whole=True)
    cuts = loaded.card.over_long not in REFUSING
    return dialogue_prompts(loaded if cuts else with_policy(loaded, "keep-last-turns"), dialogues)


def _options(loaded: Loaded, context: int) -> ChatOptions:
    policy, is_pair = loaded.card.over_long, isinstance(loaded.model, EncoderDecoder)
    return ChatOptions(
        load_template(check_talks(loaded)),
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
