"""Samples continuations, one token at a time; each token is read once."""

from collections.abc import Iterator, Sequence
from typing import Annotated

import torch
from jaxtyping import Float, Int
from msgspec import Meta
from torch import Tensor

from thetahat.core.config import Config
from thetahat.generation.rows import DecodingBatch
from thetahat.generation.writing import Writing


class Sampling(Config, kw_only=True):
    """How the next token is drawn, and where a text ends."""

    temperature: Annotated[float, Meta(ge=0, le=1000)] = 1.0
    """What logits are divided by; 0: always the most likely token."""
    top_k: Annotated[int, Meta(ge=0)] = 0
    """Draw from this many of the most likely tokens; 0: from all."""
    top_p: Annotated[float, Meta(gt=0, le=1)] = 1.0
    """Draw from the fewest tokens whose probabilities reach this sum."""
    max_tokens: Annotated[int, Meta(ge=1)] = 256
    """The most tokens to write."""
    stop: tuple[Annotated[str, Meta(min_length=1)], ...] = ()
    """Texts that end a text, and are no part of it."""
    seed: int = 0
    """The number that the draws come from."""


@torch.inference_mode()
def draw(
    rows: DecodingBatch, sampling: Sampling, draws: Sequence[torch.Generator], texts: Sequence[Writing]
) -> Iterator[Sequence[Writing]]:
    """Adds a token to each text that has not ended, until all have, and yields after each round.

    Row i of `rows` belongs to text i, and `draws[i]` draws its tokens. A text that has ended is not read any more.
    """
    active = list(range(len(texts)))
    while True:
        logits = rows.read().float()[:, : texts[0].num_tokens]
        tokens = choose_each(logits, sampling, [draws[row] for row in active])
        for row, token in zip(active, tokens, strict=True):
            texts[row].add(token)
        yield texts
        going = [place for place, row in enumerate(active) if texts[row].ended is None]
        if not going:
            return
        if len(going) < len(active):
            rows.select(going)
        active = [active[place] for place in going]
        rows.append([tokens[place] for place in going])


def choose_each(logits: Float[Tensor, "B V"], sampling: Sampling, draws: Sequence[torch.Generator]) -> list[int]:
    r"""For each row a token from $\mathrm{softmax}(z / \text{temperature})$, restricted to `top_k` and then to `top_p`.

    Each row has a generator of its own. Nucleus sampling: Holtzman et al., The Curious Case of Neural Text
    Degeneration, 2020 (arXiv 1904.09751).
    """
    if sampling.temperature == 0:
        return logits.argmax(-1).tolist()
    probabilities, order = _kept(logits.cpu(), sampling)
    drawn = [torch.multinomial(row, 1, generator=draw) for row, draw in zip(probabilities, draws, strict=True)]
    return order.gather(-1, torch.stack(drawn))[:, 0].tolist()


def _kept(logits: Float[Tensor, "B V"], sampling: Sampling) -> tuple[Float[Tensor, "B V"], Int[Tensor, "B V"]]:
    """Probabilities in decreasing order, 0 for tokens that may not be drawn, and the tokens that they belong to."""
    probabilities, order = (logits.double() / sampling.temperature).softmax(-1).sort(descending=True, stable=True)
    if sampling.top_k:
        probabilities[:, sampling.top_k :] = 0
    before = probabilities.cumsum(-1) - probabilities
    probabilities[before >= sampling.top_p * probabilities.sum(-1, keepdim=True)] = 0
    return probabilities, order
