"""Samples continuations, one token at a time, reading each token once."""

from collections.abc import Iterator, Sequence
from typing import Annotated

import torch
from jaxtyping import Float
from msgspec import Meta
from torch import Tensor

from thetahat.core.batch import Inputs
from thetahat.core.config import Config
from thetahat.core.errors import ConfigError
from thetahat.core.random import generator
from thetahat.core.visibility import Visibility
from thetahat.model.cache import Cache
from thetahat.model.decoder import Decoder


class Sampling(Config, kw_only=True):
    """Which of the likely next tokens to take."""

    temperature: Annotated[float, Meta(ge=0, le=1000)] = 1.0  # 0: always the most likely
    top_k: Annotated[int, Meta(ge=0)] = 0  # keep this many of the most likely; 0: all
    top_p: Annotated[float, Meta(gt=0, le=1)] = 1.0  # keep the fewest whose probabilities reach this sum
    max_tokens: Annotated[int, Meta(ge=1)] = 256
    seed: int = 0


@torch.inference_mode()
def generate(
    model: Decoder, prompt: Sequence[int], sampling: Sampling, *, context: int, end: int | None = None
) -> Iterator[int]:
    """Yields token ids after `prompt` until `end` (not yielded) or `max_tokens`.

    When the context is full, the later half of what was read is read again and goes on from there.
    """
    if not prompt:
        raise ConfigError("the prompt has no token", cure="begin with the tokenizer's <|endoftext|>")
    draw = generator(sampling.seed, "generate")
    read = list(prompt[-context:])
    cache = _empty_cache(model, context)
    pending = read
    for _ in range(sampling.max_tokens):
        logits_V = _read(model, pending, cache)
        token = choose(logits_V.float().cpu(), sampling, draw)
        if token == end:
            return
        yield token
        read.append(token)
        pending = [token]
        if cache.length + 1 > context:
            read = read[-(context // 2 or 1) :]
            cache, pending = _empty_cache(model, context), read


def choose(logits: Float[Tensor, " V"], sampling: Sampling, draw: torch.Generator) -> int:
    r"""One token from $\mathrm{softmax}(z / \text{temperature})$, restricted to `top_k` and then to `top_p`.

    Nucleus sampling: Holtzman et al., The Curious Case of Neural Text Degeneration, 2020 (arXiv 1904.09751).
    """
    if sampling.temperature == 0:
        return int(logits.argmax())
    probabilities, order = (logits.double() / sampling.temperature).softmax(-1).sort(descending=True, stable=True)
    if sampling.top_k:
        probabilities[sampling.top_k :] = 0
    before = probabilities.cumsum(0) - probabilities
    probabilities[before >= sampling.top_p * probabilities.sum()] = 0
    return int(order[torch.multinomial(probabilities, 1, generator=draw)])


def _empty_cache(model: Decoder, context: int) -> Cache:
    return Cache(model.config, 1, context, model.head.weight)


def _read(model: Decoder, tokens: Sequence[int], cache: Cache) -> Float[Tensor, " V"]:
    """The logits after the last of these tokens; a single token sees the whole cache, many see each other causally."""
    ids = torch.tensor([list(tokens)], device=model.device)
    position = torch.arange(cache.length, cache.length + len(tokens), device=model.device)[None]
    is_first = cache.length == 0
    width = len(tokens) if is_first else cache.length + 1
    piece = torch.zeros(1, width, dtype=torch.int64, device=model.device)
    visibility = Visibility(piece[:, :1] if not is_first else piece, is_causal=is_first, is_plain=True)
    return model.logits(model.hidden(Inputs(ids, position, visibility), cache)[0, -1:])[0]
