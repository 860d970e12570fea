"""Texts that a model continues together; each token is read once."""

from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from thetahat.core.batch import Inputs, Source
from thetahat.core.errors import ConfigError
from thetahat.core.visibility import Visibility
from thetahat.model.attention.cache import Cache
from thetahat.model.decoder import Decoder
from thetahat.model.encoder_decoder import EncoderDecoder, Reading

Continuer = Decoder | EncoderDecoder


@final
class DecodingBatch:
    """The rows of a batch: what the model has read of each, and what it reads next.

    Shorter rows are padded on their left, with positions counted from their own beginning, so each reads what it would
    read alone. When the context of a row is full, the later half of what it has read is read again, and the text goes
    on from there. With `opens`, every position of a prompt sees all of it, as a prefix language model has learned.
    """

    def __init__(
        self,
        model: Continuer,
        texts: Sequence[Sequence[int]],
        context: int,
        max_tokens: int,
        reading: Reading | None = None,
        *,
        opens: bool = False,
    ) -> None:
        self.model = model
        self.context = context
        self.max_tokens = max_tokens
        self.reading = reading
        self.texts = [list(text[-context:]) for text in texts]
        self._num_open = [len(text) * opens for text in self.texts]
        self._begin()

    def read(self) -> Float[Tensor, "B V"]:
        """Reads the tokens that were appended, and returns the logits after the last token of each row."""
        first, width = self._cache.length, self._waiting.shape[1]
        padded = self._cache.piece
        piece = torch.zeros_like(self._waiting) if padded is None else padded[:, first : first + width]
        is_open = self._is_open if first == 0 else None
        # a single token sees the cache
        lengths = (width,) * len(piece) if padded is None else None
        visibility = Visibility(piece, None, first == 0, is_plain=padded is None, is_open=is_open, lengths=lengths)
        inputs = Inputs(self._waiting, self._position, visibility)
        if isinstance(self.model, Decoder):
            hidden = self.model.hidden(inputs, self._cache)
        else:
            assert self.reading is not None
            hidden = self.model.decode(inputs, self.reading, self._cache)
        return self.model.head(hidden[:, -1])

    def append(self, tokens: Sequence[int]) -> None:
        """Appends a token to each row."""
        for text, token in zip(self.texts, tokens, strict=True):
            text.append(token)
        if self._cache.length + 1 > self.context:
            half = self.context // 2 or 1
            left_out = [len(text) - half if len(text) > self.context else 0 for text in self.texts]
            self.texts = [text[number:] for text, number in zip(self.texts, left_out, strict=True)]
            self._num_open = [max(some - number, 0) for some, number in zip(self._num_open, left_out, strict=True)]
            self._begin()
        else:
            self._waiting = self._column(tokens)
            self._position = self._column([len(text) - 1 for text in self.texts])

    def select(self, rows: Sequence[int]) -> None:
        """Keeps these rows, in this order, before the next token is appended; one may be kept several times."""
        self.texts = [list(self.texts[row]) for row in rows]
        self._num_open = [self._num_open[row] for row in rows]
        index = self._column(rows)[:, 0]
        self._cache.select(index)
        if self.reading is not None:
            self.reading = self.reading.select(index)

    def _begin(self) -> None:
        """Empties the cache: all of each text is read again."""
        lengths = [len(text) for text in self.texts]
        widest = max(lengths)
        padding = self._column([widest - length for length in lengths])
        place = torch.arange(min(self.context, widest + self.max_tokens), device=self.model.device)[None]
        piece = torch.where(place < padding, -1, 0) if min(lengths) < widest else None
        tokens = [[0] * (widest - len(text)) + text for text in self.texts]
        self._waiting = torch.tensor(tokens, device=self.model.device)
        self._position = (place[:, :widest] - padding).clamp(min=0)
        is_open = place[:, :widest] < padding + self._column(self._num_open)
        self._is_open = is_open if any(self._num_open) else None
        like = torch.empty(0, dtype=self.model.head.weight.dtype, device=self.model.device)
        self._cache = Cache(self.model.config, len(lengths), place.shape[1], like, piece)

    def _column(self, values: Sequence[int]) -> Tensor:
        return torch.tensor(values, device=self.model.device)[:, None]


@torch.no_grad()
def begin_decoding(
    model: Continuer,
    prompts: Sequence[Sequence[int]],
    context: int,
    max_tokens: int,
    start: Sequence[int] = (),
    *,
    opens: bool = False,
) -> DecodingBatch:
    """Rows that continue their prompts; of an encoder-decoder, that continue `start` and read their prompts as sources.

    Of a decoder's prompt the last `context` tokens are read, both ways where it `opens`; a source is read whole.
    """
    if not all(prompts):
        raise ConfigError("the prompt has no token", cure="begin with the tokenizer's <|endoftext|>")
    if isinstance(model, Decoder):
        return DecodingBatch(model, prompts, context, max_tokens, opens=opens)
    if not start:
        raise ConfigError(
            "an encoder-decoder needs a token to start from", cure="start with <|endoftext|>, as training does"
        )
    source = Source(
        padded_inputs(prompts, model.device), torch.zeros(len(prompts), 1, dtype=torch.int64, device=model.device)
    )
    return DecodingBatch(model, [start] * len(prompts), context, max_tokens, model.read(source))


def padded_inputs(texts: Sequence[Sequence[int]], device: torch.device) -> Inputs:
    """Texts that are read both ways, one a row, padded at their end."""
    widest = max(map(len, texts))
    tokens = torch.tensor([[*text, *[0] * (widest - len(text))] for text in texts], device=device)
    place = torch.arange(widest, device=device).expand_as(tokens)
    length = torch.tensor([[len(text)] for text in texts], device=device)
    lengths = (widest,) * len(texts) if widest == min(map(len, texts)) else None
    visibility = Visibility(torch.where(place < length, 0, -1), is_causal=False, is_plain=True, lengths=lengths)
    return Inputs(tokens, place, visibility)
