"""How likely a corpus is under a model: every token once, exact sums, the same in training and in `score`."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Float, Int
from msgspec import Meta
from numpy.typing import NDArray
from torch import Tensor

from thetahat.core.batch import Batch
from thetahat.core.config import Config, kind_of
from thetahat.data.corpus import Corpus
from thetahat.data.pack import Pieces, enumerate_counts, unit_pieces
from thetahat.data.plan import gather, plan_scoring
from thetahat.distribution.world import World
from thetahat.evaluation.interval import BLOCK_TOKENS, exact_sum
from thetahat.evaluation.ledger import LedgerRow, blocks_of
from thetahat.model.precision import Dtype, computing_in
from thetahat.objective.config import ObjectiveConfig
from thetahat.objective.log_prob import token_log_probs
from thetahat.objective.objective import Model
from thetahat.objective.scoring import questions

CHUNK_SIZE = 8192  # tokens whose logits exist at once; on the CPU, fewer stay in its caches:
CPU_CHUNK_SIZE = 1024
WIDTHS = (
    16  # rows are as wide as a multiple of it: kernels round the smallest products and the ends of vectors otherwise
)


_CAUSAL = ObjectiveConfig()


class EvaluationConfig(Config, kw_only=True):
    """How held-out text is scored, in the loop and by `score` alike."""

    every: Annotated[int, Meta(ge=0)] = 0  # steps; 0: only at the end
    stride: Annotated[int, Meta(ge=1)] | None = None  # of the windows over long documents; None: half the context
    batch_size: Annotated[int, Meta(ge=1)] = 16  # windows read at once
    passes: Annotated[int, Meta(ge=0)] = 0  # of a masked model: one token in so many is masked at once; 0: one alone


@dataclass(frozen=True, slots=True)
class Policy:
    """Everything but the weights and the text that a document's likelihood may depend on."""

    context: int
    stride: int
    batch_size: int = 16
    dtype: Dtype = "float32"
    deterministic: bool = False  # bitwise the same for every batch size, order and number of ranks
    objective: ObjectiveConfig = _CAUSAL
    passes: int = 0

    def describe(self) -> str:
        """As it is stored beside the numbers."""
        how = f"window(stride={self.stride}), context={self.context}, dtype={self.dtype}"
        kind = kind_of(self.objective.factorization)
        masks = f", 1 in {self.passes} masked at once" if self.passes else ", each token masked alone"
        return {"causal": how, "masked": f"pseudo-likelihood{masks}, {how}"}.get(kind, f"{kind}, {how}")


@dataclass(frozen=True, slots=True)
class Likelihoods:
    """The log-probability of every token that a corpus asks, and their exact sums over each part."""

    token_log_prob: NDArray[np.float64]  # [asked tokens], parts one after the other, nats
    tokens: NDArray[np.int64]  # [asked tokens], their places in the corpus
    part: NDArray[np.int64]  # [asked parts], index in the corpus's parts
    start: NDArray[np.int64]  # [asked parts + 1], where each begins in `token_log_prob`
    log_prob: NDArray[np.float64]  # [asked parts], nats
    is_greedy: NDArray[np.bool_]  # [asked parts], whether at each of its tokens no other was likelier


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
    plan = plan_scoring(corpus, policy.context, policy.stride)
    found = np.zeros((3, len(corpus.tokens)), dtype=np.float64)  # nats, whether asked, how often another was likelier
    size = 1 if policy.deterministic else policy.batch_size
    for width, group in _groups(plan.pieces, size)[world.rank :: world.size]:
        if is_abandoned():
            break
        index = unit_pieces(plan.pieces, group)
        token = _places(corpus, plan.pieces, index)
        packed = gather(corpus, plan, index)
        for batch in questions(packed, policy.objective, corpus.symbols, policy.passes, width):
            asked = (batch.weights.flatten() > 0).nonzero()[:, 0]
            with computing_in(policy.dtype, device):
                answers = _answers(model, batch.to(device), asked.to(device)).cpu().numpy()
            where = token[batch.origin.flatten()[asked].numpy()]
            np.add.at(found[0], where, answers[0])  # a sentinel counts for its span's first token
            np.add.at(found[2], where, answers[1])
            found[1, where] = 1.0
    if world.any(is_abandoned()):
        raise Abandoned
    return _likelihoods(world.sum(torch.from_numpy(found)).numpy(), corpus)


def _likelihoods(found: NDArray[np.float64], corpus: Corpus) -> Likelihoods:
    """What was found for each token of the corpus that was asked, in the order of the parts."""
    tokens = np.flatnonzero(found[1])
    part = corpus.part_of(tokens)
    order = np.argsort(part, kind="stable")
    tokens, part = tokens[order], part[order]
    asked, first = np.unique(part, return_index=True)
    start = np.append(first, len(part)).astype(np.int64)
    nats = found[0, tokens]
    sums = np.array([exact_sum(nats[low:high]) for low, high in pairwise(start)], dtype=np.float64)
    misses = np.add.reduceat(found[2, tokens], first) if len(first) else first
    return Likelihoods(nats, tokens, asked.astype(np.int64), start, sums, misses == 0)


def _places(corpus: Corpus, pieces: Pieces, index: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where in the corpus each token lies that `gather` gives for these pieces."""
    piece, position = enumerate_counts((pieces.stop - pieces.start)[index])
    return (corpus.offsets[pieces.span] + pieces.start)[index][piece] + position


def _groups(pieces: Pieces, size: int) -> list[tuple[int, NDArray[np.int64]]]:
    """Units of one width, at most `size` together, the widest first."""
    widest = np.maximum(pieces.size, pieces.stop - pieces.start - 1)  # a source takes up no room of its own
    units = pieces.unit_starts
    widths = -(-np.maximum.reduceat(widest, units) // WIDTHS) * WIDTHS if len(units) else widest
    by_width = np.argsort(-widths, kind="stable")
    runs = np.split(by_width, np.flatnonzero(np.diff(widths[by_width])) + 1)
    return [(int(widths[run[0]]), run[first : first + size]) for run in runs for first in range(0, len(run), size)]


def _answers(model: Model, batch: Batch, asked: Int[Tensor, " n"]) -> Float[Tensor, "2 n"]:
    """The log-probability of each target that is asked, and 1 where another token is likelier, a chunk at a time."""
    padded = torch.nn.functional.pad(asked, (0, -len(asked) % WIDTHS))  # with the first place, for the kernels' sake
    hidden_ND, targets_N = model.hidden(batch.inputs).flatten(0, 1)[padded], batch.targets.flatten()[padded]
    size = CPU_CHUNK_SIZE if hidden_ND.is_cpu else CHUNK_SIZE
    chunks = zip(hidden_ND.split(size), targets_N.split(size), strict=True)
    return torch.cat([_chunk(model.logits(hidden), targets) for hidden, targets in chunks], dim=1)[:, : len(asked)]


def _chunk(logits: Float[Tensor, "N V"], targets: Int[Tensor, " N"]) -> Float[Tensor, "2 N"]:
    log_prob = token_log_probs(logits, lambda logits: logits, targets)
    is_missed = logits.amax(-1) > logits.gather(-1, targets[:, None])[:, 0]
    return torch.stack([log_prob.to(torch.float64), is_missed.to(torch.float64)])


def ledger_rows(likelihoods: Likelihoods, corpus: Corpus, policy: Policy) -> list[LedgerRow]:
    """A row for each part that is asked; the long ones with their blocks, which intervals over few documents need."""
    return [_row(likelihoods, corpus, policy, index) for index in range(len(likelihoods.part))]


def _row(likelihoods: Likelihoods, corpus: Corpus, policy: Policy, index: int) -> LedgerRow:
    first, last = (int(edge) for edge in likelihoods.start[index : index + 2])
    number, num_tokens = int(likelihoods.part[index]), last - first
    part, tokens = corpus.part(number), likelihoods.tokens[first:last]
    seen = corpus.seen_before(int(tokens[-1]))
    return LedgerRow(
        id=part.id,
        document=part.document,
        source=part.source,
        part=part.name,
        role=part.role,
        num_tokens=num_tokens,
        num_bytes=int(corpus.column["parts.num_bytes"][number]),
        context_length=min(policy.context, seen),
        log_prob=float(likelihoods.log_prob[index]),
        weight=part.weight,
        digest=corpus.digest(number),
        blocks=blocks_of(likelihoods.token_log_prob[first:last], corpus.token_bytes[corpus.tokens[tokens]])
        if num_tokens > BLOCK_TOKENS
        else (),
    )
