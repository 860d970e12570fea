"""Texts that are being written, many at once: each token is read once, by decoders and encoder-decoders alike."""

from collections.abc import Sequence
from typing import Protocol, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thetahat.core.batch import Inputs, Source
from thetahat.core.visibility import Visibility
from thetahat.model.attention import compile_mask
from thetahat.model.cache import Cache
from thetahat.model.cross import Look
from thetahat.model.decoder import Decoder
from thetahat.model.encoder_decoder import EncoderDecoder


class Writing(Protocol):
    """Rows of text in the making."""

    def start(self) -> Float[Tensor, "B V"]:
        """The logits of the first token that is written."""
        ...

    def read(self, tokens: Int[Tensor, " B"]) -> Float[Tensor, "B V"]:
        """Reads one token a row and returns the logits of the next."""
        ...

    def take(self, rows: Int[Tensor, " n"]) -> None:
        """Goes on with these rows, in this order; one may go on twice."""
        ...


def begin(model: Decoder | EncoderDecoder, prompts: Sequence[Sequence[int]], max_tokens: int, end: int) -> Writing:
    """The prompts, ready to be continued by a decoder, or to be answered by an encoder-decoder.

    A decoder's prompt is all that stands before; an encoder-decoder's is the source, and it writes after `end`.
    """
    if isinstance(model, Decoder):
        return _Continuing(model, prompts, max_tokens)
    return _Answering(model, prompts, max_tokens, end)


@final
class _Continuing:
    """Prompts of unequal length end in one column: the shorter ones begin later, and nobody sees what is before."""

    def __init__(self, model: Decoder, prompts: Sequence[Sequence[int]], max_tokens: int) -> None:
        self._model = model
        longest = max(map(len, prompts))
        rows = [[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
        pieces = [[-1] * (longest - len(prompt)) + [0] * len(prompt) for prompt in prompts]
        self._tokens, self._keys = torch.tensor(rows, device=model.device), torch.tensor(pieces, device=model.device)
        self._cache = Cache(model.config, len(prompts), longest + max_tokens, model.head.weight)

    def start(self) -> Float[Tensor, "B V"]:
        position = (self._keys >= 0).long().cumsum(1) - 1
        inputs = Inputs(self._tokens, position.clamp(min=0), Visibility(self._keys))
        return self._model.logits(self._model.hidden(inputs, self._cache)[:, -1])

    def read(self, tokens: Int[Tensor, " B"]) -> Float[Tensor, "B V"]:
        position = (self._keys >= 0).sum(1, keepdim=True)
        piece = torch.zeros_like(position)
        self._keys = torch.cat([self._keys, piece], 1)
        inputs = Inputs(tokens[:, None], position, Visibility(piece, keys=self._keys))
        return self._model.logits(self._model.hidden(inputs, self._cache)[:, -1])

    def take(self, rows: Int[Tensor, " n"]) -> None:
        self._keys = self._keys[rows]
        self._cache.take(rows)


@final
class _Answering:
    """Sources are read once; each row of the decoder looks at its own."""

    def __init__(self, model: EncoderDecoder, sources: Sequence[Sequence[int]], max_tokens: int, end: int) -> None:
        self._model, self._end = model, end
        longest = max(map(len, sources))
        rows = [list(source) + [0] * (longest - len(source)) for source in sources]
        pieces = [[0] * len(source) + [-1] * (longest - len(source)) for source in sources]
        tokens, piece = torch.tensor(rows, device=model.device), torch.tensor(pieces, device=model.device)
        position = torch.arange(longest, device=model.device).expand_as(tokens)
        read = Inputs(tokens, position, Visibility(piece, is_causal=False))
        self._mask = Source(read, torch.zeros_like(piece[:, :1])).mask()
        self._look = model.look(model.encode(read), self._mask)
        self._cache = Cache(model.config, len(sources), max_tokens + 1, model.head.weight)

    def start(self) -> Float[Tensor, "B V"]:
        return self.read(torch.full((len(self._mask),), self._end, device=self._mask.device))

    def read(self, tokens: Int[Tensor, " B"]) -> Float[Tensor, "B V"]:
        written = self._cache.length
        keys = torch.zeros(len(tokens), written + 1, dtype=torch.int64, device=tokens.device)
        position = torch.full_like(keys[:, :1], written)
        inputs = Inputs(tokens[:, None], position, Visibility(keys[:, :1], keys=keys))
        return self._model.logits(self._model.decode(inputs, self._look, self._cache)[:, -1])

    def take(self, rows: Int[Tensor, " n"]) -> None:
        self._mask = self._mask[rows]
        attend = compile_mask(self._mask)
        self._look = [Look(look.keys[rows], look.values[rows], attend) for look in self._look]
        self._cache.take(rows)
