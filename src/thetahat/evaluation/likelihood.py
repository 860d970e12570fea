"""How likely a corpus is under a model: every token once, exact sums, the same in training and in `score`."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Float
from msgspec import Meta
from numpy.typing import NDArray
from torch import Tensor

from thetahat.core.batch import Batch
from thetahat.core.config import Config
from thetahat.data.corpus import Corpus
from thetahat.data.pack import Pieces, gather, windows
from thetahat.distribution.world import World
from thetahat.evaluation.interval import BLOCK_TOKENS, exact_sum
from thetahat.evaluation.ledger import LedgerRow, blocks_of
from thetahat.model.precision import Dtype, computing_in
from thetahat.objective.factorization import causal
from thetahat.objective.log_prob import chunked_token_log_probs
from thetahat.objective.objective import Model

CHUNK_SIZE = 8192  # tokens whose logits exist at once
WIDTHS = (
    16  # rows are as wide as a multiple of it: kernels round the smallest products and the ends of vectors otherwise
)


class EvaluationConfig(Config, kw_only=True):
    """How held-out text is scored, in the loop and by `score` alike."""

    every: Annotated[int, Meta(ge=0)] = 0  # steps; 0: only at the end
    stride: Annotated[int, Meta(ge=1)] | None = None  # of the windows over long documents; None: half the context
    batch_size: Annotated[int, Meta(ge=1)] = 16  # windows read at once


@dataclass(frozen=True, slots=True)
class Policy:
    """Everything but the weights and the text that a document's likelihood may depend on."""

    context: int
    stride: int
    batch_size: int = 16
    dtype: Dtype = "float32"
    deterministic: bool = False  # bitwise the same for every batch size, order and number of ranks

    def describe(self) -> str:
        """As it is stored beside the numbers."""
        return f"window(stride={self.stride}), context={self.context}, dtype={self.dtype}"


@dataclass(frozen=True, slots=True)
class Likelihoods:
    """The log-probability of every token of a corpus, and their exact sums."""

    token_log_prob: NDArray[np.float64]  # [targets], documents one after the other, nats
    document_start: NDArray[np.int64]  # [documents + 1], where each begins in it
    log_prob: NDArray[np.float64]  # [documents], nats


class Abandoned(Exception):
    """Somebody asked to stop while a corpus was being scored, so there is no number."""


def _never() -> bool:
    return False


@torch.no_grad()
def score_corpus(
    model: Model,
    corpus: Corpus,
    policy: Policy,
    world: World,
    device: torch.device,
    is_abandoned: Callable[[], bool] = _never,
) -> Likelihoods:
    r"""$\log \Pr_\theta(x_j \mid \text{context})$ of every token of every document, each exactly once.

    A document that fits into the context is read whole; of a longer one, strided windows are read and each token is
    scored in the window that gives it the most context. Sums are exact, so their order does not matter.
    Windows are padded to a width that depends on their own length alone, and read with others of that width; in
    deterministic mode each is read alone, so that no product of matrices knows what else is being scored.
    As soon as `is_abandoned` on one rank, all raise Abandoned.
    """
    pieces = windows(corpus.lengths, policy.context, policy.stride)
    start = np.concatenate([[0], np.cumsum(corpus.lengths - 1)]).astype(np.int64)
    found = np.zeros(int(start[-1]), dtype=np.float64)
    size = 1 if policy.deterministic else policy.batch_size
    for width, group in _groups(pieces, size)[world.rank :: world.size]:
        if is_abandoned():
            break
        batch = causal(gather(corpus, pieces, group), width=width)
        with computing_in(policy.dtype, device):
            log_probs = _log_probs(model, batch.to(device)).cpu().numpy()
        for row, window in zip(log_probs, group, strict=True):
            _place(found, row, pieces, int(window), start)
    if world.any(is_abandoned()):
        raise Abandoned
    found = world.sum(torch.from_numpy(found)).numpy()
    sums = [exact_sum(found[first:last]) for first, last in pairwise(start)]
    return Likelihoods(found, start, np.array(sums, dtype=np.float64))


def _groups(pieces: Pieces, size: int) -> list[tuple[int, NDArray[np.int64]]]:
    """Windows of one width, at most `size` together, the widest first."""
    widths = -(-pieces.positions // WIDTHS) * WIDTHS
    by_width = np.argsort(-widths, kind="stable")
    runs = np.split(by_width, np.flatnonzero(np.diff(widths[by_width])) + 1)
    return [(int(widths[run[0]]), run[first : first + size]) for run in runs for first in range(0, len(run), size)]


def _log_probs(model: Model, batch: Batch) -> Float[Tensor, "B T"]:
    hidden_ND = model.hidden(batch.inputs).flatten(0, 1)
    log_probs_N = chunked_token_log_probs(hidden_ND, model.logits, batch.targets.flatten(), chunk_size=CHUNK_SIZE)
    return log_probs_N.to(torch.float64).view_as(batch.targets)


def _place(
    found: NDArray[np.float64], row: NDArray[np.float64], pieces: Pieces, window: int, start: NDArray[np.int64]
) -> None:
    """Copies the scored part of one window to its tokens' places; position p of a window answers for token p + 1."""
    begin, first, stop = (int(x[window]) for x in (pieces.start, pieces.scored_from, pieces.stop))
    base = int(start[pieces.document[window]]) - 1  # target j of a document is its token j + 1
    found[base + first : base + stop] = row[first - begin - 1 : stop - begin - 1]


def ledger_rows(likelihoods: Likelihoods, corpus: Corpus, policy: Policy) -> list[LedgerRow]:
    """A row for each document; the long ones with their blocks, which intervals over few documents need."""
    rows: list[LedgerRow] = []
    for index in range(corpus.num_documents):
        first, last = (int(edge) for edge in likelihoods.document_start[index : index + 2])
        part, num_tokens = corpus.part(index), last - first
        nats, tokens = likelihoods.token_log_prob[first:last], corpus.sequence(index)[1:]
        row = LedgerRow(
            id=part.id,
            document=part.document,
            source=part.source,
            part=part.name,
            role=part.role,
            num_tokens=num_tokens,
            num_bytes=corpus.num_bytes_of(index),
            context_length=min(policy.context, num_tokens),
            log_prob=float(likelihoods.log_prob[index]),
            weight=part.weight,
            blocks=blocks_of(nats, corpus.token_bytes[tokens]) if num_tokens > BLOCK_TOKENS else (),
        )
        rows.append(row)
    return rows
