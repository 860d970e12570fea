"""Text from a model."""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from typing import final

from msgspec import structs

from thetahat.data.config import OverLong
from thetahat.generation.beam import Beam
from thetahat.generation.sample import Sampling
from thetahat.model.decoder import Decoder
from thetahat.model.encoder import Encoder
from thetahat.run.writing.prompt import fitted, text_prompts
from thetahat.run.writing.write import Answer, drawn, fill, write
from thetahat.verbs.load import Loaded


def generate(loaded: Loaded, prompt: str, how: Sampling | Beam) -> "Stream":
    """The continuation of `prompt` as text, piece by piece as it becomes certain, and at last why it ended.

    A decoder continues, an encoder-decoder answers, and an encoder fills what stands as its mask, <|mask|> or as its
    tokenizer calls it, in the prompt.
    """
    if isinstance(loaded.model, Encoder):
        return Stream(_whole(Answer(fill(loaded, prompt), "end")))
    (given,) = fitted(loaded, text_prompts(loaded, [prompt]), ["the prompt"])
    if isinstance(loaded.model, Decoder) and isinstance(how, Sampling):
        return Stream(drawn(loaded, given, how))
    return Stream(_whole(write(loaded, [given], how)[0]))


@final
class Stream:
    """The pieces of a text as they are written; when all have come, `answer` has the whole."""

    answer: "Answer"

    def __init__(self, pieces: "Generator[str, None, Answer]") -> None:
        self._pieces = pieces

    def __iter__(self) -> Iterator[str]:
        self.answer = yield from self._pieces


def answer(loaded: Loaded, prompts: Sequence[str], how: Sampling | Beam, batch_size: int = 64) -> list[Answer]:
    """What a decoder or an encoder-decoder writes after each text."""
    places = [f"prompt {number}" for number in range(1, len(prompts) + 1)]
    return write(loaded, fitted(loaded, text_prompts(loaded, prompts), places), how, batch_size)


def with_policy(loaded: Loaded, over_long: OverLong) -> Loaded:
    """The model with another rule for what is too long to be read than that of its training."""
    return replace(loaded, card=structs.replace(loaded.card, over_long=over_long))


def _whole(found: Answer) -> Generator[str, None, Answer]:
    yield found.text
    return found
