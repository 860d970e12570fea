"""Text from a model."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from logging import getLogger

from thetahat.core.errors import ConfigError
from thetahat.core.random import generator
from thetahat.core.special import MASK
from thetahat.generation.beam import Beam, search
from thetahat.generation.infill import infill
from thetahat.generation.rows import begin
from thetahat.generation.sample import Sampling, draw_texts, generate as generate_ids
from thetahat.model.decoder import Decoder
from thetahat.model.encoder import Encoder
from thetahat.verbs.load import Loaded

logger = getLogger("thetahat")


def generate(loaded: Loaded, prompt: str, sampling: Sampling) -> Iterator[str]:
    """Yields the continuation of `prompt` as text, as soon as whole characters are there.

    A decoder continues, an encoder-decoder answers, and an encoder fills what stands as <|mask|> in the prompt.
    """
    match loaded.model:
        case Decoder():
            yield from _continue(loaded, loaded.model, prompt, sampling)
        case Encoder():
            yield fill(loaded, prompt)
        case _:
            yield from answer(loaded, [prompt], sampling)


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is read before a text is written."""

    tokens: Sequence[int]
    start: int  # from which an encoder-decoder writes
    end: int  # with which the text ends


def answer(loaded: Loaded, prompts: Sequence[str], how: Sampling | Beam, batch_size: int = 64) -> list[str]:
    """What a decoder or an encoder-decoder writes after each text."""
    return write(loaded, text_prompts(loaded, prompts), how, batch_size)


def text_prompts(loaded: Loaded, texts: Sequence[str]) -> list[Prompt]:
    """Texts as the prompts that they are in training."""
    end = loaded.tokenizer.end_of_text
    return [Prompt([end, *tokens], end, end) for tokens in loaded.tokenizer.encode(texts)]


def write(loaded: Loaded, prompts: Sequence[Prompt], how: Sampling | Beam, batch_size: int = 64) -> list[str]:
    """What a decoder or an encoder-decoder writes after each prompt, those of like length together.

    The i-th is drawn with a generator of its own, a function of (seed, i): whatever the others are and however many are
    read at once, it is the same text, but where rounding turns the scale.
    """
    model, context = loaded.model, loaded.config.data.context
    if isinstance(model, Encoder):
        raise ConfigError("an encoder writes no text", cure=f"a prompt with {MASK} in it is filled")
    if isinstance(model, Decoder) and (cut := sum(len(prompt.tokens) > context for prompt in prompts)):
        logger.warning(
            "%d of %d prompts are longer than the context: their last %d tokens are read", cut, len(prompts), context
        )
    texts: dict[int, str] = {}
    for numbers in _batches(prompts, batch_size):
        batch, first = [prompts[number].tokens for number in numbers], prompts[numbers[0]]
        rows = begin(model, batch, context, how.max_tokens, first.start, opens=opens_prompts(loaded))
        match how:
            case Beam():
                found = search(rows, how, first.end)
            case Sampling():
                draws = [generator(how.seed, "generate", number) for number in numbers]
                found = draw_texts(rows, how, draws, first.end)
        texts |= {number: loaded.tokenizer.decode(tokens) for number, tokens in zip(numbers, found, strict=True)}
        if len(prompts) > batch_size:
            logger.info("%d of %d texts written", len(texts), len(prompts))
    return [texts[number] for number in range(len(prompts))]


def opens_prompts(loaded: Loaded) -> bool:
    """Whether all of a prompt sees all of it, as a prefix language model has learned."""
    return loaded.config.objective.factorization.opens_prompts


def _batches(prompts: Sequence[Prompt], batch_size: int) -> Iterator[list[int]]:
    """The numbers of the prompts that are read at once: of one start and one end, the longest first."""

    def ends(number: int) -> tuple[int, int]:
        return prompts[number].start, prompts[number].end

    order = sorted(range(len(prompts)), key=lambda number: (ends(number), -len(prompts[number].tokens)))
    for _, some in groupby(order, ends):
        alike = list(some)
        yield from (alike[first : first + batch_size] for first in range(0, len(alike), batch_size))


def fill(loaded: Loaded, text: str) -> str:
    """The text with each <|mask|> in it replaced by the model's surest guess, one at a time."""
    model, tokenizer = loaded.model, loaded.tokenizer
    mask = tokenizer.symbols.mask
    pieces = text.split(MASK)
    if not isinstance(model, Encoder) or mask is None or len(pieces) == 1:
        raise ConfigError(f"{text[:40]!r} has nothing to fill", cure=f"a prompt with {MASK} in it, and a masked model")
    ids = [tokenizer.end_of_text]
    for index, tokens in enumerate(tokenizer.encode(pieces)):
        ids += [*([mask] if index else []), *tokens]
    (filled,) = infill(model, [[*ids, tokenizer.end_of_text]], mask)
    return tokenizer.decode(filled)


def _continue(loaded: Loaded, model: Decoder, prompt: str, sampling: Sampling) -> Iterator[str]:
    """Token ids are decoded together, since a character may span several: what ends in half a character waits."""
    tokenizer = loaded.tokenizer
    ids = [tokenizer.end_of_text, *tokenizer.encode([prompt])[0]]
    if (left_out := len(ids) - loaded.config.data.context) > 0:
        logger.warning("the prompt is longer than the context: its first %d tokens are not read", left_out)
    new: list[int] = []
    shown = ""
    context, opens = loaded.config.data.context, opens_prompts(loaded)
    for token in generate_ids(model, ids, sampling, context=context, end=tokenizer.end_of_text, opens=opens):
        new.append(token)
        text = tokenizer.decode(new)
        if text.endswith("\N{REPLACEMENT CHARACTER}") and len(text) - len(shown) < 4:
            continue
        yield text[len(shown) :]
        shown = text
    rest = tokenizer.decode(new)[len(shown) :]
    if rest:
        yield rest
