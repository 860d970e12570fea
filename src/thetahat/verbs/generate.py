"""Text from a model."""

from collections.abc import Iterator
from logging import getLogger

from thetahat.evaluation.generate import Sampling, generate as generate_ids
from thetahat.verbs.load import Loaded

logger = getLogger("thetahat")


def generate(loaded: Loaded, prompt: str, sampling: Sampling) -> Iterator[str]:
    """Yields the continuation of `prompt` as text, as soon as whole characters are there.

    Token ids are decoded together, since a character may span several: what ends in half a character waits.
    """
    tokenizer = loaded.tokenizer
    ids = [tokenizer.end_of_text, *tokenizer.encode([prompt])[0]]
    if (left_out := len(ids) - loaded.config.data.context) > 0:
        logger.warning("the prompt is longer than the context: its first %d tokens are not read", left_out)
    new: list[int] = []
    shown = ""
    stream = generate_ids(loaded.model, ids, sampling, context=loaded.config.data.context, end=tokenizer.end_of_text)
    for token in stream:
        new.append(token)
        text = tokenizer.decode(new)
        if text.endswith("\N{REPLACEMENT CHARACTER}") and len(text) - len(shown) < 4:
            continue
        yield text[len(shown) :]
        shown = text
    rest = tokenizer.decode(new)[len(shown) :]
    if rest:
        yield rest
