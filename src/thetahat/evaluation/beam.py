"""The likeliest text: beam search."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Float
from msgspec import Meta
from torch import Tensor

from thetahat.core.config import Config
from thetahat.evaluation.writing import begin
from thetahat.model.decoder import Decoder
from thetahat.model.encoder_decoder import EncoderDecoder


class Beam(Config, kw_only=True):
    """How widely to search."""

    num_beams: Annotated[int, Meta(ge=1, le=1024)] = 5
    length_exponent: Annotated[float, Meta(ge=0, le=10)] = 1.0  # 0: the likeliest; 1: by nats per token
    max_tokens: Annotated[int, Meta(ge=1)] = 256


@dataclass(frozen=True, slots=True)
class Found:
    """A text, and how likely it is after its prompt."""

    tokens: tuple[int, ...]  # without the end
    log_prob: float  # nats, the end included where it was reached
    score: float  # log_prob / length^alpha, what the search ranks by


@torch.inference_mode()
def beam_search(
    model: Decoder | EncoderDecoder, prompts: Sequence[Sequence[int]], beam: Beam, *, end: int
) -> list[Found]:
    r"""For each prompt the text y of the highest $\log \Pr(y \mid x) / |y|^\alpha$ that a beam search finds.

    |y| counts the end. Of `num_beams` beginnings each step keeps the likeliest continuations; those that end leave the
    beam. A row is done when no beginning can still beat what has ended: its log-probability only falls, so
    $\log \Pr / \mathrm{max\_tokens}^\alpha$ bounds what it may become. Deterministic: ties go to the earlier beam and
    the smaller id. Wu et al., Google's Neural Machine Translation System, 2016 (arXiv 1609.08144), with |y| itself.
    """
    writing = begin(model, prompts, beam.max_tokens, end)
    searches = [_Search(beam, end) for _ in prompts]
    logits = writing.start()
    width = 1
    for step in range(1, beam.max_tokens + 1):
        log_probs = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1).double().cpu()
        chosen = [search.step(log_probs[i * width : (i + 1) * width], step) for i, search in enumerate(searches)]
        width = beam.num_beams
        if all(search.is_done for search in searches) or step == beam.max_tokens:
            break
        rows = torch.tensor([i * (1 if step == 1 else width) + one for i, (at, _) in enumerate(chosen) for one in at])
        tokens = torch.tensor([token for _, new in chosen for token in new])
        writing.take(rows.to(model.device))
        logits = writing.read(tokens.to(model.device))
    return [search.best() for search in searches]


class _Search:
    """One prompt's beam."""

    def __init__(self, beam: Beam, end: int) -> None:
        self.beam, self.end = beam, end
        self.texts: list[tuple[int, ...]] = [()]
        self.log_prob = torch.zeros(1, dtype=torch.float64)
        self.ended: list[Found] = []
        self.is_done = False

    def step(self, log_probs: Float[Tensor, "B V"], length: int) -> tuple[list[int], list[int]]:
        """The beginnings that go on, by their places in the beam, and the token that each goes on with."""
        size = self.beam.num_beams
        if self.is_done:
            return [0] * size, [self.end] * size
        total = self.log_prob[:, None] + log_probs
        vocabulary = total.shape[1]
        values, places = total.flatten().sort(descending=True, stable=True)
        live: list[tuple[int, int, float]] = []
        for value, place in zip(values[: 2 * size].tolist(), places[: 2 * size].tolist(), strict=True):
            at, token = divmod(place, vocabulary)
            if token == self.end:
                self._end(self.texts[at], value, length)
            elif len(live) < size and value > float("-inf"):
                live.append((at, token, value))
        self.is_done = not live or self._cannot_improve(live[0][2])
        if self.is_done:
            return [0] * size, [self.end] * size
        live += [(live[0][0], live[0][1], float("-inf"))] * (size - len(live))  # a beam wider than what there is
        self.texts = [(*self.texts[at], token) for at, token, _ in live]
        self.log_prob = torch.tensor([value for _, _, value in live], dtype=torch.float64)
        return [at for at, _, _ in live], [token for _, token, _ in live]

    def best(self) -> Found:
        """What has ended with the highest score; where nothing has, the best beginning."""
        if not self.ended:
            self._end(self.texts[0], float(self.log_prob[0]), max(len(self.texts[0]), 1))
        return max(self.ended, key=lambda found: found.score)

    def _end(self, text: tuple[int, ...], log_prob: float, length: int) -> None:
        self.ended.append(Found(text, log_prob, log_prob / length**self.beam.length_exponent))

    def _cannot_improve(self, best: float) -> bool:
        """Whether every beginning is already worse than what has ended would need to be."""
        limit = best / self.beam.max_tokens**self.beam.length_exponent
        return bool(self.ended) and max(found.score for found in self.ended) >= limit
