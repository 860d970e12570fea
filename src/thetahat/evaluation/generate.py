"""Samples continuations, one token at a time, reading each token once."""

import math
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
from thetahat.evaluation.writing import begin
from thetahat.model.cache import Cache
from thetahat.model.decoder import Decoder
from thetahat.model.encoder import Encoder
from thetahat.model.encoder_decoder import EncoderDecoder


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


@torch.inference_mode()
def generate_batch(
    model: Decoder | EncoderDecoder, prompts: Sequence[Sequence[int]], sampling: Sampling, *, end: int
) -> list[list[int]]:
    """The continuation of each prompt by a decoder, or its answer by an encoder-decoder, without `end`.

    Row i draws from a stream of its own, (seed, i), so its text does not depend on whom it is written with.
    """
    writing = begin(model, prompts, sampling.max_tokens, end)
    draws = [generator(sampling.seed, "generate", row) for row in range(len(prompts))]
    texts: list[list[int]] = [[] for _ in prompts]
    is_done = [False] * len(prompts)
    logits = writing.start()
    for step in range(sampling.max_tokens):
        choices = [choose(row, sampling, draw) for row, draw in zip(logits.float().cpu(), draws, strict=True)]
        for row, token in enumerate(choices):
            is_done[row] = is_done[row] or token == end
            if not is_done[row]:
                texts[row].append(token)
        if all(is_done) or step + 1 == sampling.max_tokens:
            break
        logits = writing.read(torch.tensor(choices, device=model.device))
    return texts


@torch.inference_mode()
def infill(model: Encoder, tokens: Sequence[int], mask: int, num_steps: int) -> list[int]:
    r"""The tokens with every `mask` replaced: in each of `num_steps` the surest guesses become text.

    Of m masks left with s steps to go, $\lceil m / s \rceil$ are filled: those of the highest
    $\max_v \log \Pr(v \mid \text{what stands})$. Ghazvininejad et al., Mask-Predict, 2019 (arXiv 1904.09324), without
    masking again what was filled.
    """
    ids = torch.tensor([list(tokens)], device=model.device)
    position = torch.arange(ids.shape[1], device=model.device)[None]
    visibility = Visibility(torch.zeros_like(ids), is_causal=False)
    for steps_left in range(num_steps, 0, -1):
        places = (ids[0] == mask).nonzero()[:, 0]
        if not len(places):
            break
        logits_NV = model.logits(model.hidden(Inputs(ids, position, visibility))[0, places]).float()
        logits_NV[:, mask] = -math.inf
        best = logits_NV.log_softmax(-1).max(-1)
        surest = best.values.argsort(descending=True, stable=True)[: -(-len(places) // steps_left)]
        ids[0, places[surest]] = best.indices[surest]
    return ids[0].tolist()


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
