"""Prompts as a model reads them, and what of them it has no room for."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

from thetahat.core.errors import DataError
from thetahat.core.special import Frame
from thetahat.data.tokens.tokenizer import Tokenizer
from thetahat.model.build import LanguageModel
from thetahat.model.encoder_decoder import EncoderDecoder
from thetahat.run.card import Card

REFUSING = {"error", "drop"}  # under which nothing of what is too long is read


@runtime_checkable
class Speaker(Protocol):
    """A model that can be asked: its weights, its tokenizer and its card, and the folder that errors name."""

    @property
    def model(self) -> LanguageModel: ...  # noqa: D102
    @property
    def tokenizer(self) -> Tokenizer: ...  # noqa: D102
    @property
    def card(self) -> Card: ...  # noqa: D102
    @property
    def folder(self) -> Path: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is read before a text is written, and what ends the text."""

    tokens: Sequence[int]
    end_tokens: frozenset[int]
    end_texts: tuple[str, ...] = ()  # of turns, where no token ends them
    tokens_cut: int = 0  # of what was given, left out already
    slides: bool = True  # whether a text may outgrow the context, in which the later half is then read again
    goes_on: bool = True  # whether what is written goes on with a text, or begins one


def text_prompts(speaker: Speaker, texts: Sequence[str]) -> list[Prompt]:
    """Texts as the prompts that they are in training."""
    tokenizer, factorization = speaker.tokenizer, speaker.card.factorization
    is_pair = factorization.reads_source
    frame = tokenizer.frames.source if is_pair else Frame(tokenizer.frames.text.before)
    return [
        Prompt(
            _spelled(tokenizer, factorization.prompt(text), frame), tokenizer.ends, goes_on=bool(text) and not is_pair
        )
        for text in texts
    ]


def fitted(speaker: Speaker, prompts: Sequence[Prompt], places: Sequence[str]) -> list[Prompt]:
    """The prompts as far as the model reads them, by what its training made of what is too long (card.over_long).

    An encoder reads the beginning or the end of its prompt, as in training. Of a decoder's prompt the end is read.
    Raises DataError, which names the place of the prompt, where training read nothing of what is too long.
    """
    is_pair = isinstance(speaker.model, EncoderDecoder)
    room, policy = speaker.card.source_room if is_pair else speaker.card.context, speaker.card.over_long
    found: list[Prompt] = []
    for prompt, where in zip(prompts, places, strict=True):
        over = len(prompt.tokens) - room
        if over > 0 and (policy in REFUSING or (is_pair and policy == "split")):
            raise too_long(speaker, f"{where} has {len(prompt.tokens):,} tokens", room, "--over-long truncate-left")
        if over > 0 and is_pair:
            frame = speaker.tokenizer.frames.source
            given = prompt.tokens[len(frame.before) : len(prompt.tokens) - len(frame.after)]
            kept = given[:-over] if policy == "truncate-right" else given[over:]
            prompt = replace(prompt, tokens=frame.around(kept), tokens_cut=prompt.tokens_cut + over)
        found.append(prompt)
    return found


def too_long(speaker: Speaker, what: str, room: int, cure: str) -> DataError:
    """The error of a prompt or a dialogue of which training would have read nothing."""
    return DataError(
        f"{what}, where the model reads {room:,}; in its training data.over_long={speaker.card.over_long}",
        cure=f"{cure} reads a part of what is too long, and says so",
    )


def _spelled(tokenizer: Tokenizer, pieces: Sequence[str], frame: Frame) -> list[int]:
    """The ids of texts and, between them, of names of special tokens, in their frame."""
    ids = tokenizer.tokens(pieces[:1])[0].ids
    for name, text in zip(pieces[1::2], tokenizer.tokens(pieces[2::2], goes_on=True), strict=True):
        ids += [tokenizer.named[name], *text.ids]
    return frame.around(ids)
