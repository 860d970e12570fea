"""Text from a model."""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from logging import getLogger
from typing import Any, final

from msgspec import structs

from thetahat.core.errors import ConfigError, DataError
from thetahat.core.plain import counted
from thetahat.core.random import generator
from thetahat.core.special import MASK, Frame
from thetahat.data.config import OverLong
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
from thetahat.verbs.load import Loaded

Shows = Callable[[int, int], None]  # how many are done, and of how many
REFUSING = {"error", "drop"}  # under which nothing of what is too long is read
logger = getLogger("thetahat")


def generate(loaded: Loaded, prompt: str, how: Sampling | Beam) -> "Stream":
    """The continuation of `prompt` as text, piece by piece as it becomes certain, and at last why it ended.

    A decoder continues, an encoder-decoder answers, and an encoder fills what stands as its mask, <|mask|> or as its
    tokenizer calls it, in the prompt.
    """
    if isinstance(loaded.model, Encoder):
        return Stream(_whole(Answer(fill(loaded, prompt), "end")))
    (given,) = fitted(loaded, text_prompts(loaded, [prompt]), ["the prompt"])
    if isinstance(loaded.model, Decoder) and isinstance(how, Sampling):
        return Stream(_drawn(loaded, given, how))
    return Stream(_whole(write(loaded, [given], how)[0]))


@final
class Stream:
    """The pieces of a text as they are written; when all have come, `answer` has the whole."""

    answer: "Answer"

    def __init__(self, pieces: "Generator[str, None, Answer]") -> None:
        self._pieces = pieces

    def __iter__(self) -> Iterator[str]:
        self.answer = yield from self._pieces


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is read before a text is written, and what ends the text."""

    tokens: Sequence[int]
    end_tokens: frozenset[int]
    end_texts: tuple[str, ...] = ()  # of turns, where no token ends them
    tokens_cut: int = 0  # of what was given, left out already
    slides: bool = True  # whether a text may outgrow the context, in which the later half is then read again
    goes_on: bool = True  # whether what is written goes on with a text, or begins one


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


def answer(loaded: Loaded, prompts: Sequence[str], how: Sampling | Beam, batch_size: int = 64) -> list[Answer]:
    """What a decoder or an encoder-decoder writes after each text."""
    places = [f"prompt {number}" for number in range(1, len(prompts) + 1)]
    return write(loaded, fitted(loaded, text_prompts(loaded, prompts), places), how, batch_size)


def text_prompts(loaded: Loaded, texts: Sequence[str]) -> list[Prompt]:
    """Texts as the prompts that they are in training."""
    tokenizer, factorization = loaded.tokenizer, loaded.card.factorization
    is_pair = factorization.reads_source
    frame = tokenizer.frames.source if is_pair else Frame(tokenizer.frames.text.before)
    return [
        Prompt(
            _spelled(tokenizer, factorization.prompt(text), frame), tokenizer.ends, goes_on=bool(text) and not is_pair
        )
        for text in texts
    ]


def with_policy(loaded: Loaded, over_long: OverLong) -> Loaded:
    """The model with another rule for what is too long to be read than that of its training."""
    return replace(loaded, card=structs.replace(loaded.card, over_long=over_long))


def fitted(loaded: Loaded, prompts: Sequence[Prompt], places: Sequence[str]) -> list[Prompt]:
    """The prompts as far as the model reads them, by what its training made of what is too long (card.over_long).

    An encoder reads the beginning or the end of its prompt, as in training. Of a decoder's prompt the end is read.
    Raises DataError, which names the place of the prompt, where training read nothing of what is too long.
    """
    is_pair = isinstance(loaded.model, EncoderDecoder)
    room, policy = loaded.card.source_room if is_pair else loaded.card.context, loaded.card.over_long
    found: list[Prompt] = []
    for prompt, where in zip(prompts, places, strict=True):
        over = len(prompt.tokens) - room
        if over > 0 and (policy in REFUSING or (is_pair and policy == "split")):
            raise too_long(loaded, f"{where} has {len(prompt.tokens):,} tokens", room, "--over-long truncate-left")
        if over > 0 and is_pair:
            frame = loaded.tokenizer.frames.source
            given = prompt.tokens[len(frame.before) : len(prompt.tokens) - len(frame.after)]
            kept = given[:-over] if policy == "truncate-right" else given[over:]
            prompt = replace(prompt, tokens=frame.around(kept), tokens_cut=prompt.tokens_cut + over)
        found.append(prompt)
    return found


def too_long(loaded: Loaded, what: str, room: int, cure: str) -> DataError:
    """The error of a prompt or a dialogue of which training would have read nothing."""
    return DataError(
        f"{what}, where the model reads {room:,}; in its training data.over_long={loaded.card.over_long}",
        cure=f"{cure} reads a part of what is too long, and says so",
    )


def _spelled(tokenizer: Tokenizer, pieces: Sequence[str], frame: Frame) -> list[int]:
    """The ids of texts and, between them, of names of special tokens, in their frame."""
    ids = tokenizer.tokens(pieces[:1])[0].ids
    for name, text in zip(pieces[1::2], tokenizer.tokens(pieces[2::2], goes_on=True), strict=True):
        ids += [tokenizer.named[name], *text.ids]
    return frame.around(ids)


def write(
    loaded: Loaded,
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
    if isinstance(loaded.model, Encoder):
        raise ConfigError("an encoder writes no text", cure=f"a prompt with {MASK} in it is filled")
    _say_cut(loaded, prompts)
    found: dict[int, Answer] = {}
    order = sorted(range(len(prompts)), key=lambda number: -len(prompts[number].tokens))
    for first in range(0, len(order), batch_size):
        some = order[first : first + batch_size]
        draws = [place if numbers is None else numbers[place] for place in some]
        told = None if shows is None else partial(_tell, shows, len(found), len(prompts))
        texts = _written(loaded, [prompts[place] for place in some], how, draws, told)
        found |= {place: _answer(loaded, prompts[place], text) for place, text in zip(some, texts, strict=True)}
        if shows:
            shows(len(found), len(prompts))
    answers = [found[number] for number in range(len(prompts))]
    _say_slid(loaded, prompts, answers)
    return answers


def _tell(shows: Shows, before: int, total: int, texts: Sequence[Writing]) -> None:
    """Of texts that are written together, those that have ended are done."""
    shows(before + sum(text.ended is not None for text in texts), total)


def _written(
    loaded: Loaded,
    prompts: Sequence[Prompt],
    how: Sampling | Beam,
    numbers: Sequence[int],
    told: Callable[[Sequence[Writing]], None] | None = None,
) -> Sequence[Writing]:
    rows, texts = _rows(loaded, prompts, how), _texts(loaded, prompts, how)
    if isinstance(how, Beam):
        return search(rows, how, texts)
    for _ in draw(rows, how, [generator(how.seed, "generate", number) for number in numbers], texts):
        if told:
            told(texts)
    return texts


def _drawn(loaded: Loaded, prompt: Prompt, how: Sampling) -> "Generator[str, None, Answer]":
    _say_cut(loaded, [prompt])
    rows, (text,) = _rows(loaded, [prompt], how), _texts(loaded, [prompt], how)
    for _ in draw(rows, how, [generator(how.seed, "generate")], [text]):
        if piece := text.take():
            yield piece
    found = _answer(loaded, prompt, text)
    _say_slid(loaded, [prompt], [found])
    return found


def _whole(found: Answer) -> "Generator[str, None, Answer]":
    yield found.text
    return found


def _rows(loaded: Loaded, prompts: Sequence[Prompt], how: Sampling | Beam) -> DecodingBatch:
    assert not isinstance(loaded.model, Encoder)
    tokens, context = [prompt.tokens for prompt in prompts], loaded.card.context
    start = loaded.tokenizer.frames.target.before
    return begin_decoding(loaded.model, tokens, context, how.max_tokens, start, opens=opens_prompts(loaded))


def _texts(loaded: Loaded, prompts: Sequence[Prompt], how: Sampling | Beam) -> list[Writing]:
    """A text of n tokens behind a prompt of m needs m + n - 1 positions, as it does in training."""
    rooms = [None if prompt.slides else loaded.card.context + 1 - _num_read(loaded, prompt) for prompt in prompts]
    ends = [
        Ends(prompt.end_tokens, prompt.end_texts, how.stop, how.max_tokens, room)
        for prompt, room in zip(prompts, rooms, strict=True)
    ]
    tokenizer = loaded.tokenizer
    prefixes = [b"" if prompt.goes_on else tokenizer.prefix for prompt in prompts]
    return [Writing(some, tokenizer.token_bytes, prefix) for some, prefix in zip(ends, prefixes, strict=True)]


def _num_read(loaded: Loaded, prompt: Prompt) -> int:
    """How many positions the decoder reads before it writes; one where an encoder reads the prompt."""
    is_alone = isinstance(loaded.model, Decoder)
    return min(len(prompt.tokens), loaded.card.context) if is_alone else len(loaded.tokenizer.frames.target.before)


def _num_cut(loaded: Loaded, prompt: Prompt) -> int:
    """How many tokens of a prompt are not read."""
    return prompt.tokens_cut + _num_over(loaded, prompt)


def _num_over(loaded: Loaded, prompt: Prompt) -> int:
    """How many tokens of a prompt a decoder has no room for."""
    return max(len(prompt.tokens) - loaded.card.context, 0) if isinstance(loaded.model, Decoder) else 0


def _answer(loaded: Loaded, prompt: Prompt, text: Writing) -> Answer:
    assert text.ended is not None
    return Answer(text.text, text.ended, text.stop_text, len(text.tokens), _num_cut(loaded, prompt))


def _say_cut(loaded: Loaded, prompts: Sequence[Prompt]) -> None:
    """Dialogues are named one by one, where they become prompts; texts are counted."""
    cuts = [_num_cut(loaded, prompt) for prompt in prompts if prompt.slides]
    if num_cut := sum(cut > 0 for cut in cuts):
        end = (
            "beginning"
            if isinstance(loaded.model, EncoderDecoder) and loaded.card.over_long == "truncate-right"
            else "end"
        )
        logger.warning(
            "%d of %s too long: their %s is read, %d tokens are not read",
            num_cut,
            counted(len(cuts), "prompt is", "prompts are"),
            end,
            sum(cuts),
        )


def _say_slid(loaded: Loaded, prompts: Sequence[Prompt], answers: Sequence[Answer]) -> None:
    context = loaded.card.context
    pairs = zip(prompts, answers, strict=True)
    if slid := sum(_num_read(loaded, prompt) + found.num_tokens - 1 > context for prompt, found in pairs):
        logger.warning(
            "%d of %s outgrew the context of %d tokens: the later half of what had been read was read on",
            slid, counted(len(answers), "text"), context,
        )  # fmt: skip


def opens_prompts(loaded: Loaded) -> bool:
    """Whether all of a prompt sees all of it, as a prefix language model has learned."""
    return loaded.card.factorization.opens_prompts


def fill(loaded: Loaded, text: str) -> str:
    """The text with each mask in it replaced by the model's surest guess, one at a time."""
    model, tokenizer = loaded.model, loaded.tokenizer
    mask = tokenizer.named.get(MASK)
    name = MASK if mask is None else tokenizer.piece(mask)
    if not isinstance(model, Encoder) or mask is None or name not in text:
        raise ConfigError(f"{text[:40]!r} has nothing to fill", cure=f"a prompt with {name} in it, and a masked model")
    ((_, tokens),) = tokenizer.rendered([(("", ()), (text, _others(tokenizer, text, name)))])
    read, room = tokenizer.frames.text.around(tokens.ids), loaded.card.context
    if len(read) > room:
        raise DataError(f"the text has {len(read):,} tokens, where the model reads {room:,}", cure="a shorter text")
    (filled,) = infill(model, [read], mask, num_tokens=tokenizer.vocab_size)
    return tokenizer.decode(filled)


def _others(tokenizer: Tokenizer, text: str, name: str) -> list[tuple[int, int]]:
    """Where in a text the names of other special tokens than this stand, which are text there."""
    return [match.span() for match in tokenizer.special_names.finditer(text) if match[0] != name]
