"""Text from a model."""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from logging import getLogger
from typing import Any, final

from thetahat.core.errors import ConfigError
from thetahat.core.random import generator
from thetahat.core.special import MASK, Frame
from thetahat.data.read.prompt import ENDED, PROMPT_CUT, STOP_TEXT
from thetahat.data.tokens.tokenizer import Tokenizer
from thetahat.generation.beam import Beam, search
from thetahat.generation.infill import infill
from thetahat.generation.rows import DecodingBatch, begin_decoding
from thetahat.generation.sample import Sampling, draw
from thetahat.generation.writing import Ended, Ends, Writing
from thetahat.model.decoder import Decoder
from thetahat.model.encoder import Encoder
from thetahat.verbs.load import Loaded

logger = getLogger("thetahat")


def generate(loaded: Loaded, prompt: str, how: Sampling | Beam) -> "Stream":
    """The continuation of `prompt` as text, piece by piece as it becomes certain, and at last why it ended.

    A decoder continues, an encoder-decoder answers, and an encoder fills what stands as its mask, <|mask|> or as its
    tokenizer calls it, in the prompt.
    """
    if isinstance(loaded.model, Encoder):
        return Stream(_whole(Answer(fill(loaded, prompt), "end")))
    (asked,) = text_prompts(loaded, [prompt])
    if isinstance(loaded.model, Decoder) and isinstance(how, Sampling):
        return Stream(_drawn(loaded, asked, how))
    return Stream(_whole(write(loaded, [asked], how)[0]))


@final
class Stream:
    """A text as it is written; `answer` is what it was, once all of it has come."""

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


@dataclass(frozen=True, slots=True)
class Answer:
    """A text that was written."""

    text: str
    ended: Ended
    stop_text: str = ""  # that ended it, and is no part of it
    num_tokens: int = 0
    prompt_tokens_cut: int = 0  # at the beginning of the prompt, not read

    def to_dict(self) -> dict[str, Any]:
        """What is said about it beside the text."""
        stopped = {STOP_TEXT: self.stop_text} if self.ended == "stop" else {}
        return {ENDED: self.ended, **stopped, PROMPT_CUT: self.prompt_tokens_cut}


def answer(loaded: Loaded, prompts: Sequence[str], how: Sampling | Beam, batch_size: int = 64) -> list[Answer]:
    """What a decoder or an encoder-decoder writes after each text."""
    return write(loaded, text_prompts(loaded, prompts), how, batch_size)


def text_prompts(loaded: Loaded, texts: Sequence[str]) -> list[Prompt]:
    """Texts as the prompts that they are in training."""
    tokenizer, factorization = loaded.tokenizer, loaded.card.factorization
    frame = tokenizer.frames.source if factorization.reads_source else Frame(tokenizer.frames.text.before)
    return [Prompt(_spelled(tokenizer, factorization.prompt(text), frame), tokenizer.ends) for text in texts]


def _spelled(tokenizer: Tokenizer, pieces: Sequence[str], frame: Frame) -> list[int]:
    """The ids of texts and, between them, of names of special tokens, in their frame."""
    ids = tokenizer.tokens(pieces[:1])[0].ids
    for name, text in zip(pieces[1::2], tokenizer.tokens(pieces[2::2], goes_on=True), strict=True):
        ids += [tokenizer.symbols.special[name], *text.ids]
    return frame.around(ids)


def write(
    loaded: Loaded,
    prompts: Sequence[Prompt],
    how: Sampling | Beam,
    batch_size: int = 64,
    numbers: Sequence[int] | None = None,
) -> list[Answer]:
    """What a decoder or an encoder-decoder writes after each prompt, those of like length together.

    The i-th is drawn with a generator of its own, a function of (seed, i): whatever the others are and however many are
    read at once, it is the same text, but where rounding turns the scale. `numbers` may stand for i.
    """
    if isinstance(loaded.model, Encoder):
        raise ConfigError("an encoder writes no text", cure=f"a prompt with {MASK} in it is filled")
    _say_cut(loaded, prompts)
    found: dict[int, Answer] = {}
    order = sorted(range(len(prompts)), key=lambda number: -len(prompts[number].tokens))
    for first in range(0, len(order), batch_size):
        some = order[first : first + batch_size]
        draws = [place if numbers is None else numbers[place] for place in some]
        texts = _written(loaded, [prompts[place] for place in some], how, draws)
        found |= {place: _answer(loaded, prompts[place], text) for place, text in zip(some, texts, strict=True)}
        if len(prompts) > batch_size:
            logger.info("%d of %d texts written", len(found), len(prompts))
    answers = [found[number] for number in range(len(prompts))]
    _say_slid(loaded, prompts, answers)
    return answers


def _written(
    loaded: Loaded, prompts: Sequence[Prompt], how: Sampling | Beam, numbers: Sequence[int]
) -> Sequence[Writing]:
    rows, ends, token_bytes = _rows(loaded, prompts, how), _ends(loaded, prompts, how), loaded.tokenizer.token_bytes
    if isinstance(how, Beam):
        return search(rows, how, ends, token_bytes)
    texts = [Writing(some, token_bytes) for some in ends]
    for _ in draw(rows, how, [generator(how.seed, "generate", number) for number in numbers], texts):
        pass
    return texts


def _drawn(loaded: Loaded, prompt: Prompt, how: Sampling) -> "Generator[str, None, Answer]":
    _say_cut(loaded, [prompt])
    rows, (ends,) = _rows(loaded, [prompt], how), _ends(loaded, [prompt], how)
    text = Writing(ends, loaded.tokenizer.token_bytes)
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


def _ends(loaded: Loaded, prompts: Sequence[Prompt], how: Sampling | Beam) -> list[Ends]:
    """A text of n tokens behind a prompt of m needs m + n - 1 positions, as it does in training."""
    rooms = [None if prompt.slides else loaded.card.context + 1 - _num_read(loaded, prompt) for prompt in prompts]
    return [
        Ends(prompt.end_tokens, prompt.end_texts, how.stop, how.max_tokens, room)
        for prompt, room in zip(prompts, rooms, strict=True)
    ]


def _num_read(loaded: Loaded, prompt: Prompt) -> int:
    """How many positions the decoder reads before it writes: an encoder reads the prompt, and it begins anew."""
    is_alone = isinstance(loaded.model, Decoder)
    return min(len(prompt.tokens), loaded.card.context) if is_alone else len(loaded.tokenizer.frames.target.before)


def _num_cut(loaded: Loaded, prompt: Prompt) -> int:
    """How many tokens of a prompt are not read."""
    over = len(prompt.tokens) - loaded.card.context if isinstance(loaded.model, Decoder) else 0
    return prompt.tokens_cut + max(over, 0)


def _answer(loaded: Loaded, prompt: Prompt, text: Writing) -> Answer:
    assert text.ended is not None
    return Answer(text.text, text.ended, text.stop_text, len(text.tokens), _num_cut(loaded, prompt))


def _say_cut(loaded: Loaded, prompts: Sequence[Prompt]) -> None:
    context = loaded.card.context
    over = [len(prompt.tokens) - context for prompt in prompts if len(prompt.tokens) > context]
    if over and isinstance(loaded.model, Decoder):
        logger.warning(
            "%d of %d prompts are longer than the context: their last %d tokens are read, %d tokens are not read",
            len(over), len(prompts), context, sum(over),
        )  # fmt: skip


def _say_slid(loaded: Loaded, prompts: Sequence[Prompt], answers: Sequence[Answer]) -> None:
    context = loaded.card.context
    pairs = zip(prompts, answers, strict=True)
    if slid := sum(_num_read(loaded, prompt) + found.num_tokens - 1 > context for prompt, found in pairs):
        logger.warning(
            "%d of %d texts outgrew the context of %d tokens: the later half of what had been read was read on",
            slid, len(answers), context,
        )  # fmt: skip


def opens_prompts(loaded: Loaded) -> bool:
    """Whether all of a prompt sees all of it, as a prefix language model has learned."""
    return loaded.card.factorization.opens_prompts


def fill(loaded: Loaded, text: str) -> str:
    """The text with each mask in it replaced by the model's surest guess, one at a time."""
    model, tokenizer = loaded.model, loaded.tokenizer
    mask = tokenizer.symbols.mask
    name = MASK if mask is None else tokenizer.piece(mask)
    if not isinstance(model, Encoder) or mask is None or name not in text:
        raise ConfigError(f"{text[:40]!r} has nothing to fill", cure=f"a prompt with {name} in it, and a masked model")
    ((_, tokens),) = tokenizer.rendered([(("", ()), (text, _others(tokenizer, text, name)))])
    (filled,) = infill(model, [tokenizer.frames.text.around(tokens.ids)], mask)
    return tokenizer.decode(filled)


def _others(tokenizer: Tokenizer, text: str, name: str) -> list[tuple[int, int]]:
    """Where in a text the names of other special tokens than this stand, which are text there."""
    return [match.span() for match in tokenizer.special_names.finditer(text) if match[0] != name]
