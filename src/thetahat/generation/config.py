"""What a run writes while it trains."""

from typing import Annotated

from msgspec import Meta

from thetahat.core.config import Config


class SamplesConfig(Config, kw_only=True):
    """Texts that are written while a run trains; samples.jsonl has them."""

    prompts: tuple[str, ...] = ()
    """Texts that are continued, of a model of dialogues messages that are answered; none: nothing is written."""
    every: Annotated[int, Meta(ge=0)] = 0
    """Steps between two times; 0: with each evaluation."""
    max_tokens: Annotated[int, Meta(ge=1)] = 64
    """The most tokens of a text."""
    temperature: Annotated[float, Meta(ge=0, le=1000)] = 0.8
    """What logits are divided by; 0: always the most likely token. A prompt has the same random numbers each time."""
