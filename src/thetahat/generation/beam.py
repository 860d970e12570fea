"""Searches for the most likely continuation, several at a time."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, final

import torch
from jaxtyping import Float
from msgspec import Meta
from torch import Tensor

from thetahat.core.config import Config
from thetahat.generation.rows import Continuer, DecodingBatch, begin_decoding
from thetahat.generation.writing import Ends, Writing


class Beam(Config, kw_only=True):
    """How many beams to keep, and how texts of different lengths are compared."""

    num_beams: Annotated[int, Meta(ge=1)] = 5
    """How many texts are kept at once."""
    length_exponent: Annotated[float, Meta(ge=0)] = 1.0
    """The exponent of the length that divides a log-probability when texts are compared; 0: nothing is divided."""
    max_tokens: Annotated[int, Meta(ge=1)] = 256
    """The most tokens to write."""
    stop: tuple[Annotated[str, Meta(min_length=1)], ...] = ()
    """Texts before which a text ends."""


@dataclass(frozen=True, slots=True)
class Extension:
    """One more token after one of the beams."""

    log_prob: float  # of the beam and the token, nats
    beam: int
    token: int


def beam_search(
    model: Continuer,
    prompts: Sequence[Sequence[int]],
    beam: Beam,
    *,
    context: int,
    end: int,
    start: int | None = None,
) -> list[list[int]]:
    """The tokens that `search` finds for each prompt before `end`; an encoder-decoder starts from `start`, or `end`."""
    rows = begin_decoding(model, prompts, context, beam.max_tokens, [end if start is None else start])
    ends = [Ends(frozenset({end}), max_tokens=beam.max_tokens)] * len(prompts)
    texts = [Writing(some, [b""] * model.head.weight.shape[0]) for some in ends]
    return [text.tokens for text in search(rows, beam, texts)]


@torch.inference_mode()
def search(rows: DecodingBatch, beam: Beam, texts: Sequence[Writing]) -> list[Writing]:
    r"""For each prompt x the continuation y found with the highest $\log \Pr(y \mid x) / |y|^a$.

    $a$ is `length_exponent`, and $|y|$ counts all tokens, also those that end it. Of the continuations by one token of
    all beams, in the order of their log-probability, those among the first `num_beams` that a token ends are set aside,
    and the first `num_beams` that none does go on; of these, those that a stop text or their length ends are set aside,
    too. A search is over when `num_beams` have ended, or when no beam can come to beat the best that has. One beam is
    greedy decoding. Nothing is drawn. The given texts are empty, one a prompt; others are returned.

    Plain division, not the $(5 + |y|)^a / 6^a$ of Wu et al., Google's Neural Machine Translation System, 2016 (arXiv
    1609.08144): with it, $a = 1$ compares by nats a token.
    """
    searches = [Search(beam, text.ends, [text]) for text in texts]
    num_extensions = beam.num_beams * (1 + max(len(text.ends.tokens) for text in texts))
    active = searches
    while True:
        log_probs = torch.tensor([one.log_probs for one in active], dtype=torch.float64)
        found = extensions(rows.read(), log_probs, num_extensions, texts[0].num_tokens)
        width = log_probs.shape[1]
        kept = [one.advance(found[place]) for place, one in enumerate(active)]
        going = [place for place, one in enumerate(active) if not one.is_over]
        if not going:
            return [one.best for one in searches]
        rows.select([place * width + parent for place in going for parent in kept[place]])
        active = [active[place] for place in going]
        rows.append([(text.tokens or [0])[-1] for one in active for text in one.texts])


def extensions(
    logits: Float[Tensor, "N V"], log_probs: Float[Tensor, "B n"], number: int, num_tokens: int | None = None
) -> list[list[Extension]]:
    """For each search the most likely continuations by one of the first `num_tokens` tokens, the most likely first.

    With k tokens that end a text, k continuations of a beam end at most: among 1 + k times as many as beams, there are
    as many as beams that do not.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    written = logits[:, :num_tokens]
    tops, tokens = written.topk(min(number, written.shape[1]))  # by logit, as by log-probability within a beam
    each = (tops - logits.logsumexp(-1, keepdim=True)).double().cpu()
    totals = (log_probs[:, :, None] + each.view(*log_probs.shape, -1)).flatten(1)
    best, places = totals.topk(min(number, totals.shape[1]))
    chosen = tokens.cpu().view(len(log_probs), -1).gather(1, places)
    beams = places // tokens.shape[1]
    columns = zip(best.tolist(), beams.tolist(), chosen.tolist(), strict=True)
    return [[Extension(*values) for values in zip(*row, strict=True)] for row in columns]


@final
@dataclass
class Search:
    """The beams of one prompt, and the best text that has ended."""

    beam: Beam
    ends: Ends
    texts: list[Writing]
    log_probs: list[float] = field(default_factory=lambda: [0.0])  # nats; -inf: it has ended, or there are fewer beams
    best: Writing = field(init=False)
    best_score: float = -torch.inf
    num_ended: int = 0
    is_over: bool = False

    def __post_init__(self) -> None:
        self.best = self.texts[0]

    def advance(self, found: Sequence[Extension]) -> list[int]:
        """Goes on with the best of these extensions, and returns the beam that each continues."""
        for extension in found[: self.beam.num_beams]:
            if extension.token in self.ends.tokens:
                self._set_aside(extension.log_prob, self._longer(extension), num_end_tokens=1)
        going = [extension for extension in found if extension.token not in self.ends.tokens][: self.beam.num_beams]
        going += [Extension(-torch.inf, 0, 0)] * (self.beam.num_beams - len(going))
        self.texts = [self._longer(extension) for extension in going]
        self.log_probs = [extension.log_prob for extension in going]
        for place, text in enumerate(self.texts):
            if text.ended is not None:
                self._set_aside(self.log_probs[place], text)
                self.log_probs[place] = -torch.inf
        self.is_over = self.num_ended >= self.beam.num_beams or self._bound() <= self.best_score
        return [extension.beam for extension in going]

    def _longer(self, extension: Extension) -> Writing:
        text = self.texts[extension.beam].copy()
        if text.ended is None:  # else no beam goes on from it: its log-probability is -inf
            text.add(extension.token)
        return text

    def _set_aside(self, log_prob: float, text: Writing, num_end_tokens: int = 0) -> None:
        """Counts a text that goes on no further, and keeps it if it is the best of them."""
        if log_prob == -torch.inf:
            return
        self.num_ended += 1
        score = log_prob / (len(text.tokens) + num_end_tokens) ** self.beam.length_exponent
        if score > self.best_score:
            self.best, self.best_score = text, score

    def _bound(self) -> float:
        """No beam can end with a higher score: log-probabilities only fall, and no text is longer."""
        return max(self.log_probs) / self.ends.limit**self.beam.length_exponent
