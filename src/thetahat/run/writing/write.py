"""What a model writes after prompts: drawn, searched for, or filled in."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from logging import getLogger
from typing import Any

from thetahat.core.errors import ConfigError, DataError
from thetahat.core.plain import counted
from thetahat.core.random import generator
from thetahat.core.special import MASK
from thetahat.data.read.prompt import ENDED, PROMPT_CUT, STOP_TEXT
from thetahat.data.tokens.tokenizer import Tokenizer
from thetahat.generation.beam import Beam, search
from thetahat.generation.infill import infill
from thetahat.generation.rows import DecodingBatch, begin_decoding
from thetahat.generation.sample import Sampling, draw
from thetahat.generation.writing import Ended, Ends, Writing
from thetahat.model.decoder import Decoder
from thetahat.model.encoder import Encoder
from thetahat.model.encoder_decoder import EncoderDecoder
from thetahat.run.writing.prompt import Prompt, Speaker

Shows = Callable[[int, int], None]  # how many are done, and of how many
logger = getLogger("thetahat")


@dataclass(frozen=True, slots=True)
class Answer:
    """A text that was written."""

    text: str
    ended: Ended
    stop_text: str = ""  # that ended it, and is no part of it
    num_tokens: int = 0
    prompt_tokens_cut: int = 0  # at the beginning of the prompt, not read

    def to_dict(self) -> dict[str, Any]:
        """What is printed about it beside the text."""
        stopped = {STOP_TEXT: self.stop_text} if self.ended == "stop" else {}
        return {ENDED: self.ended, **stopped, PROMPT_CUT: self.prompt_tokens_cut}


def write(
    speaker: Speaker,
    prompts: Sequence[Prompt],
    how: Sampling | Beam,
    batch_size: int = 64,
    numbers: Sequence[int] | None = None,
    shows: Shows | None = None,
) -> list[Answer]:
    """What a decoder or an encoder-decoder writes after each prompt, those of like length together.

    The i-th is drawn with a generator of its own, a function of (seed, i): it is the same text whatever the others are
    and however many are read at once, unless rounding decides between two tokens. `numbers` may replace i. `shows` is
    told how many texts have ended, and of how many.
    """
    if isinstance(speaker.model, Encoder):
        raise ConfigError("an encoder writes no text", cure=f"a prompt with {MASK} in it is filled")
    _say_cut(speaker, prompts)
    found: dict[int, Answer] = {}
    order = sorted(range(len(prompts)), key=lambda number: -len(prompts[number].tokens))
    for first in range(0, len(order), batch_size):
        some = order[first : first + batch_size]
        draws = [place if numbers is None else numbers[place] for place in some]
        told = None if shows is None else partial(_tell, shows, len(found), len(prompts))
        texts = _written(speaker, [prompts[place] for place in some], how, draws, told)
        found |= {place: _answer(speaker, prompts[place], text) for place, text in zip(some, texts, strict=True)}
        if shows:
            shows(len(found), len(prompts))
    answers = [found[number] for number in range(len(prompts))]
    _say_slid(speaker, prompts, answers)
    return answers


def _tell(shows: Shows, before: int, total: int, texts: Sequence[Writing]) -> None:
    """Of texts that are written together, those that have ended are done."""
    shows(before + sum(text.ended is not None for text in texts), total)


def _written(
    speaker: Speaker,
    prompts: Sequence[Prompt],
    how: Sampling | Beam,
    numbers: Sequence[int],
    told: Callable[[Sequence[Writing]], None] | None = None,
) -> Sequence[Writing]:
    rows, texts = _rows(speaker, prompts, how), _texts(speaker, prompts, how)
    if isinstance(how, Beam):
        return search(rows, how, texts)
    for _ in draw(rows, how, [generator(how.seed, "generate", number) for number in numbers], texts):
        if told:
            told(texts)
    return texts


def drawn(speaker: Speaker, prompt: Prompt, how: Sampling) -> Generator[str, None, Answer]:
    """The text that a decoder draws, piece by piece as it becomes certain."""
    _say_cut(speaker, [prompt])
    rows, (text,) = _rows(speaker, [prompt], how), _texts(speaker, [prompt], how)
    for _ in draw(rows, how, [generator(how.seed, "generate")], [text]):
        if piece := text.take():
            yield piece
    found = _answer(speaker, prompt, text)
    _say_slid(speaker, [prompt], [found])
    return found


def _rows(speaker: Speaker, prompts: Sequence[Prompt], how: Sampling | Beam) -> DecodingBatch:
    assert not isinstance(speaker.model, Encoder)
    tokens, context = [prompt.tokens for prompt in prompts], speaker.card.context
    start = speaker.tokenizer.frames.target.before
    return begin_decoding(speaker.model, tokens, context, how.max_tokens, start, opens=opens_prompts(speaker))


def _texts(speaker: Speaker, prompts: Sequence[Prompt], how: Sampling | Beam) -> list[Writing]:
    """A text of n tokens behind a prompt of m needs m + n - 1 positions, as it does in training."""
    rooms = [None if prompt.slides else speaker.card.context + 1 - _num_read(speaker, prompt) for prompt in prompts]
    ends = [
        Ends(prompt.end_tokens, prompt.end_texts, how.stop, how.max_tokens, room)
        for prompt, room in zip(prompts, rooms, strict=True)
    ]
    tokenizer = speaker.tokenizer
    prefixes = [b"" if prompt.goes_on else tokenizer.prefix for prompt in prompts]
    return [Writing(some, tokenizer.token_bytes, prefix) for some, prefix in zip(ends, prefixes, strict=True)]


def _num_read(speaker: Speaker, prompt: Prompt) -> int:
    """How many positions the decoder reads before it writes; one where an encoder reads the prompt."""
    is_alone = isinstance(speaker.model, Decoder)
    return min(len(prompt.tokens), speaker.card.context) if is_alone else len(speaker.tokenizer.frames.target.before)


def _num_cut(speaker: Speaker, prompt: Prompt) -> int:
    """How many tokens of a prompt are not read."""
    return prompt.tokens_cut + _num_over(speaker, prompt)


def _num_over(speaker: Speaker, prompt: Prompt) -> int:
    """How many tokens of a prompt a decoder has no room for."""
    return max(len(prompt.tokens) - speaker.card.context, 0) if isinstance(speaker.model, Decoder) else 0


def _answer(speaker: Speaker, prompt: Prompt, text: Writing) -> Answer:
    assert text.ended is not None
    return Answer(text.text, text.ended, text.stop_text, len(text.tokens), _num_cut(speaker, prompt))


def _say_cut(speaker: Speaker, prompts: Sequence[Prompt]) -> None:
    """Dialogues are named one by one, where they become prompts; texts are counted."""
    cuts = [_num_cut(speaker, prompt) for prompt in prompts if prompt.slides]
    if num_cut := sum(cut > 0 for cut in cuts):
        end = (
            "beginning"
            if isinstance(speaker.model, EncoderDecoder) and speaker.card.over_long == "truncate-right"
            else "end"
        )
        logger.warning(
            "%d of %s too long: their %s is read, %d tokens are not read",
            num_cut,
            counted(len(cuts), "prompt is", "prompts are"),
            end,
            sum(cuts),
        )


def _say_slid(speaker: Speaker, prompts: Sequence[Prompt], answers: Sequence[Answer]) -> None:
    context = speaker.card.context
    pairs = zip(prompts, answers, strict=True)
    if slid := sum(_num_read(speaker, prompt) + found.num_tokens - 1 > context for prompt, found in pairs):
        logger.warning(
            "%d of %s outgrew the context of %d tokens: the later half of what had been read was read on",
            slid, counted(len(answers), "text"), context,
        )  # fmt: skip


def opens_prompts(speaker: Speaker) -> bool:
    """Whether all of a prompt sees all of it, as a prefix language model has learned."""
    return speaker.card.factorization.opens_prompts


def fill(speaker: Speaker, text: str) -> str:
    """The text with each mask in it replaced by the model's surest guess, one at a time."""
    model, tokenizer = speaker.model, speaker.tokenizer
    mask = tokenizer.named.get(MASK)
    name = MASK if mask is None else tokenizer.piece(mask)
    if not isinstance(model, Encoder) or mask is None or name not in text:
        raise ConfigError(f"{text[:40]!r} has nothing to fill", cure=f"a prompt with {name} in it, and a masked model")
    ((_, tokens),) = tokenizer.rendered([(("", ()), (text, _others(tokenizer, text, name)))])
    read, room = tokenizer.frames.text.around(tokens.ids), speaker.card.context
    if len(read) > room:
        raise DataError(f"the text has {len(read):,} tokens, where the model reads {room:,}", cure="a shorter text")
    (filled,) = infill(model, [read], mask, num_tokens=tokenizer.vocab_size)
    return tokenizer.decode(filled)


def _others(tokenizer: Tokenizer, text: str, name: str) -> list[tuple[int, int]]:
    """Where in a text the names of other special tokens than this stand, which are text there."""
    return [match.span() for match in tokenizer.special_names.finditer(text) if match[0] != name]
