"""Searches for the most likely continuation, several at a time."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, final

import torch
from jaxtyping import Float
from msgspec import Meta
from torch import Tensor

from thetahat.core.config import Config
from thetahat.generation.rows import Continuer, Rows, begin


class Beam(Config, kw_only=True):
    """How widely to search, and how texts of unequal lengths compare."""

    num_beams: Annotated[int, Meta(ge=1)] = 5
    length_exponent: Annotated[float, Meta(ge=0)] = 1.0  # of the length that log-probabilities are divided by; 0: not
    max_tokens: Annotated[int, Meta(ge=1)] = 256


@dataclass(frozen=True, slots=True)
class Candidate:
    """One more token after one of the beams."""

    log_prob: float  # of the beam and the token, nats
    beam: int
    token: int


@torch.inference_mode()
def beam_search(
    model: Continuer,
    prompts: Sequence[Sequence[int]],
    beam: Beam,
    *,
    context: int,
    end: int,
    start: int | None = None,
) -> list[list[int]]:
    """What `search` finds for each prompt; an encoder-decoder starts from `start`, or from `end` where that is None."""
    if not prompts:
        return []
    return search(begin(model, prompts, context, beam.max_tokens, end if start is None else start), beam, end)


@torch.inference_mode()
def search(rows: Rows, beam: Beam, end: int) -> list[list[int]]:
    r"""For each prompt x the continuation y found with the highest $\log \Pr(y \mid x) / |y|^a$, without its `end`.

    $a$ is `length_exponent`, and $|y|$ counts `end`. A continuation ends with `end`, or has `max_tokens` tokens. Of the
    continuations by one token of all beams, in the order of their log-probability, those among the first `num_beams`
    that end are set aside, and the first `num_beams` that do not go on. A search is over when `num_beams` have ended,
    or when no beam can come to beat the best that has. One beam is greedy decoding. Nothing is drawn.

    Plain division, not the $(5 + |y|)^a / 6^a$ of Wu et al., Google's Neural Machine Translation System, 2016 (arXiv
    1609.08144): with it, $a = 1$ compares by nats a token.
    """
    searches = [Search(beam, end) for _ in rows.texts]
    active = searches
    for _ in range(beam.max_tokens):
        log_probs = torch.tensor([one.log_probs for one in active], dtype=torch.float64)
        found = candidates(rows.read(), log_probs, beam.num_beams)
        width = log_probs.shape[1]
        kept = [one.advance(found[place]) for place, one in enumerate(active)]
        going = [place for place, one in enumerate(active) if not one.is_over]
        if not going:
            break
        rows.select([place * width + parent for place in going for parent in kept[place]])
        active = [active[place] for place in going]
        rows.append([text[-1] for one in active for text in one.texts])
    return [one.best for one in searches]


def candidates(logits: Float[Tensor, "N V"], log_probs: Float[Tensor, "B n"], num_beams: int) -> list[list[Candidate]]:
    """For each search the most likely continuations by a token, twice as many as beams, the most likely first.

    At most one continuation of a beam ends, so among these are as many as beams that do not.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    tops, tokens = logits.topk(min(2 * num_beams, logits.shape[1]))  # by logit, as by log-probability within a beam
    each = (tops - logits.logsumexp(-1, keepdim=True)).double().cpu()
    totals = (log_probs[:, :, None] + each.view(*log_probs.shape, -1)).flatten(1)
    best, places = totals.topk(min(2 * num_beams, totals.shape[1]))
    chosen = tokens.cpu().view(len(log_probs), -1).gather(1, places)
    beams = places // tokens.shape[1]
    columns = zip(best.tolist(), beams.tolist(), chosen.tolist(), strict=True)
    return [[Candidate(*values) for values in zip(*row, strict=True)] for row in columns]


@final
@dataclass
class Search:
    """The beams of one prompt, and the best that has ended."""

    beam: Beam
    end: int
    texts: list[list[int]] = field(default_factory=lambda: [[]])
    log_probs: list[float] = field(default_factory=lambda: [0.0])  # nats; -inf: there were not that many candidates
    best: list[int] = field(default_factory=list[int])
    best_score: float = -torch.inf
    num_ended: int = 0
    is_over: bool = False

    def advance(self, found: Sequence[Candidate]) -> list[int]:
        """Goes on with the best of these candidates, and returns the beam that each continues."""
        for candidate in found[: self.beam.num_beams]:
            if candidate.token == self.end:
                self._set_aside(self.texts[candidate.beam], candidate.log_prob, len(self.texts[candidate.beam]) + 1)
        going = [candidate for candidate in found if candidate.token != self.end][: self.beam.num_beams]
        going += [Candidate(-torch.inf, 0, 0)] * (self.beam.num_beams - len(going))
        self.texts = [[*self.texts[candidate.beam], candidate.token] for candidate in going]
        self.log_probs = [candidate.log_prob for candidate in going]
        if len(self.texts[0]) == self.beam.max_tokens:
            for text, log_prob in zip(self.texts, self.log_probs, strict=True):
                self._set_aside(text, log_prob, len(text))
        self.is_over = self.num_ended >= self.beam.num_beams or self._bound() <= self.best_score
        return [candidate.beam for candidate in going]

    def _set_aside(self, text: list[int], log_prob: float, length: int) -> None:
        """Counts a text that goes on no further, and keeps it if it is the best of them."""
        if log_prob == -torch.inf:
            return
        self.num_ended += 1
        score = log_prob / length**self.beam.length_exponent
        if score > self.best_score:
            self.best, self.best_score = text, score

    def _bound(self) -> float:
        """No beam can end with a higher score: log-probabilities only fall, and no text is longer."""
        return max(self.log_probs) / self.beam.max_tokens**self.beam.length_exponent
