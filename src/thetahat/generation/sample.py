"""Samples continuations, one token at a time, reading each token once."""

from collections.abc import Iterator, Sequence
from typing import Annotated

import torch
from jaxtyping import Float, Int
from msgspec import Meta
from torch import Tensor

from thetahat.core.config import Config
from thetahat.core.random import generator
from thetahat.generation.rows import Continuer, Rows, begin


class Sampling(Config, kw_only=True):
    """Which of the likely next tokens to take."""

    temperature: Annotated[float, Meta(ge=0, le=1000)] = 1.0  # 0: always the most likely
    top_k: Annotated[int, Meta(ge=0)] = 0  # keep this many of the most likely; 0: all
    top_p: Annotated[float, Meta(gt=0, le=1)] = 1.0  # keep the fewest whose probabilities reach this sum
    max_tokens: Annotated[int, Meta(ge=1)] = 256
    seed: int = 0


@torch.inference_mode()
def generate(
    model: Continuer,
    prompt: Sequence[int],
    sampling: Sampling,
    *,
    context: int,
    end: int | None = None,
    opens: bool = False,
) -> Iterator[int]:
    """Yields token ids after `prompt` until `end` (not yielded) or `max_tokens`.

    When the context is full, the later half of what was read is read again and goes on from there. An encoder-decoder
    reads `prompt` as its source, and starts from `end`; a prefix model's prompt `opens` (`Rows`).
    """
    draw = generator(sampling.seed, "generate")
    rows = begin(model, [prompt], context, sampling.max_tokens, end, opens=opens)
    for _ in range(sampling.max_tokens):
        token = choose(rows.read()[0].float().cpu(), sampling, draw)
        if token == end:
            return
        yield token
        rows.append([token])


@torch.inference_mode()
def generate_batch(
    model: Continuer,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    context: int,
    end: int | None = None,
    start: int | None = None,
) -> list[list[int]]:
    """The continuation of each prompt, as `generate` yields it, all read together.

    Row i draws from a generator of its own, a function of (seed, i), so it does not depend on the other prompts beyond
    rounding. An encoder-decoder starts from `start`, or from `end` where that is None.
    """
    if not prompts:
        return []
    draws = [generator(sampling.seed, "generate", row) for row in range(len(prompts))]
    rows = begin(model, prompts, context, sampling.max_tokens, end if start is None else start)
    return draw_texts(rows, sampling, draws, end)


@torch.inference_mode()
def draw_texts(
    rows: Rows, sampling: Sampling, draws: Sequence[torch.Generator], end: int | None = None
) -> list[list[int]]:
    """What is drawn behind each row until `end` (not in it) or `max_tokens`, with a generator each."""
    texts: list[list[int]] = [[] for _ in draws]
    active = list(range(len(draws)))
    for _ in range(sampling.max_tokens):
        tokens = choose_each(rows.read().float(), sampling, [draws[row] for row in active])
        going = [place for place, token in enumerate(tokens) if token != end]
        for place in going:
            texts[active[place]].append(tokens[place])
        if not going:
            break
        if len(going) < len(active):  # what has ended is read no further
            rows.select(going)
        active = [active[place] for place in going]
        rows.append([tokens[place] for place in going])
    return texts


def choose(logits: Float[Tensor, " V"], sampling: Sampling, draw: torch.Generator) -> int:
    r"""One token from $\mathrm{softmax}(z / \text{temperature})$, restricted to `top_k` and then to `top_p`.

    Nucleus sampling: Holtzman et al., The Curious Case of Neural Text Degeneration, 2020 (arXiv 1904.09751).
    """
    return choose_each(logits[None], sampling, [draw])[0]


def choose_each(logits: Float[Tensor, "B V"], sampling: Sampling, draws: Sequence[torch.Generator]) -> list[int]:
    """`choose` for each row, with a generator each."""
    if sampling.temperature == 0:
        return logits.argmax(-1).tolist()
    probabilities, order = _kept(logits.cpu(), sampling)
    drawn = [torch.multinomial(row, 1, generator=draw) for row, draw in zip(probabilities, draws, strict=True)]
    return order.gather(-1, torch.stack(drawn))[:, 0].tolist()


def _kept(logits: Float[Tensor, "B V"], sampling: Sampling) -> tuple[Float[Tensor, "B V"], Int[Tensor, "B V"]]:
    """Probabilities in falling order, 0 where a token may not be drawn, and the tokens that they belong to."""
    probabilities, order = (logits.double() / sampling.temperature).softmax(-1).sort(descending=True, stable=True)
    if sampling.top_k:
        probabilities[:, sampling.top_k :] = 0
    before = probabilities.cumsum(-1) - probabilities
    probabilities[before >= sampling.top_p * probabilities.sum(-1, keepdim=True)] = 0
    return probabilities, order
