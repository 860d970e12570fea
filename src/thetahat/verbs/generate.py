"""Text from a model."""

from collections.abc import Iterator, Sequence
from logging import getLogger

from thetahat.core.batch import MASK
from thetahat.core.errors import ConfigError
from thetahat.evaluation.beam import Beam, beam_search
from thetahat.evaluation.generate import Sampling, generate as generate_ids, generate_batch
from thetahat.evaluation.infill import infill
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


def answer(loaded: Loaded, prompts: Sequence[str], how: Sampling | Beam, batch_size: int = 64) -> list[str]:
    """What a decoder or an encoder-decoder writes after each prompt, those of like length together."""
    model, tokenizer = loaded.model, loaded.tokenizer
    if isinstance(model, Encoder):
        raise ConfigError("an encoder writes no text", cure=f"a prompt with {MASK} in it is filled")
    end, context = tokenizer.end_of_text, loaded.config.data.context
    ids = [[end, *tokens] for tokens in tokenizer.encode(prompts)]
    order = sorted(range(len(ids)), key=lambda index: -len(ids[index]))
    texts: dict[int, str] = {}
    for first in range(0, len(order), batch_size):
        chosen = order[first : first + batch_size]
        batch = [ids[index] for index in chosen]
        match how:
            case Beam():
                found = beam_search(model, batch, how, context=context, end=end)
            case Sampling():
                found = generate_batch(model, batch, how, context=context, end=end)
        texts |= {index: tokenizer.decode(tokens) for index, tokens in zip(chosen, found, strict=True)}
    return [texts[index] for index in range(len(prompts))]


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
    for token in generate_ids(model, ids, sampling, context=loaded.config.data.context, end=tokenizer.end_of_text):
        new.append(token)
        text = tokenizer.decode(new)
        if text.endswith("\N{REPLACEMENT CHARACTER}") and len(text) - len(shown) < 4:
            continue
        yield text[len(shown) :]
        shown = text
    rest = tokenizer.decode(new)[len(shown) :]
    if rest:
        yield rest
