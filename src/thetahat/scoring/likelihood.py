"""How likely a corpus is under a model: each target once, exact sums, the same code in training and in `score`."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, Protocol, final, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from thetahat.core.batch import Batch
from thetahat.core.transfer import later, onto
from thetahat.core.work.eager import is_compiled
from thetahat.core.work.threads import at_once, of_threads
from thetahat.data.corpus.corpus import Corpus, Ints
from thetahat.data.order.pack import Pieces, enumerate_counts
from thetahat.data.order.plan import gather, plan_scoring
from thetahat.distribution import heartbeat
from thetahat.distribution.pieces import is_sharded, reading
from thetahat.distribution.world import ALONE, World
from thetahat.ledger.ledger import LedgerRow, blocks_of
from thetahat.ledger.policy import Policy
from thetahat.model.attention.kernels import kernels_of_any_shape
from thetahat.model.precision import computing_in
from thetahat.objective.config import ObjectiveConfig
from thetahat.objective.log_prob import judged
from thetahat.objective.objective import Model
from thetahat.objective.scoring import scored_batches
from thetahat.scoring.grouping import MULTIPLE, end_to_end, one_by_one, side_by_side
from thetahat.scoring.together import as_many, in_rounds
from thetahat.statistics.interval import BLOCK_TOKENS, exact_sum

LOGITS_ON_CPU, LOGITS_ON_GPU = 2**19, 2**24  # logits of a group that exist at once: 2 and 64 MiB in float32
ROOM_ON_CPU, ROOM_ON_GPU = 640, 2**14  # positions of a group: enough for full speed, in little memory


@dataclass(frozen=True, slots=True)
class Likelihoods:
    """The log-probability of every target of a corpus, and their exact sums over each part that has targets."""

    token_log_prob: NDArray[np.float64]  # [targets], parts one after the other, nats
    tokens: NDArray[np.int64]  # [targets], their places in the corpus
    context_length: NDArray[np.int64]  # [targets], how many tokens each could see
    part: NDArray[np.int64]  # [parts with targets], index in the corpus's parts
    start: NDArray[np.int64]  # [parts with targets + 1], where each begins in `token_log_prob`
    log_prob: NDArray[np.float64]  # [parts with targets], nats
    is_greedy: NDArray[np.bool_]  # [parts with targets], whether at each of its targets no other token was likelier
    ranked: NDArray[np.float64]  # [targets, 2 k], of a classifier: the k likeliest labels, the first first; their nats


class Abandoned(Exception):
    """Scoring was stopped by its hook `stops` before the end, so there is no number."""


class ScoredTokens(NamedTuple):
    """The targets of one group of windows that was read together."""

    token: NDArray[np.int64]  # [n], places in the corpus; a sentinel counts for its span's first token
    log_prob: NDArray[np.float64]  # [n], nats
    context_length: NDArray[np.int64]  # [n]
    is_missed: NDArray[np.float64]  # [n], 1.0 where another token was likelier
    ranked: NDArray[np.float64]  # [n, 2 k], of a classifier the k likeliest labels and their nats; else k is 0


@runtime_checkable
class Journal(Protocol):
    """Where results are kept while a corpus is being scored, so that a later start goes on."""

    def known(self) -> Mapping[int, ScoredTokens]:
        """The results of an earlier start, by the number of the group."""
        ...

    def add(self, number: int, scored: ScoredTokens) -> None:
        """Keeps the results of one group; the journal decides when it writes them to disk."""
        ...


@dataclass(frozen=True, slots=True)
class ScoringHooks:
    """Called while a corpus is scored, to stop it, to show progress, to keep results; none of it changes a number.

    Of a classifier, `num_ranked` says how many of the likeliest labels are kept beside the target.
    """

    stops: Callable[[], bool] = lambda: False  # called between groups; if it is true on one rank, all raise Abandoned
    shows: Callable[[int, int], None] = lambda done, total: None  # targets scored and to be scored, of this rank
    journal: Journal | None = None
    num_ranked: int = 1


@torch.no_grad()
def score_corpus(
    model: Model,
    corpus: Corpus,
    policy: Policy,
    world: World,
    device: torch.device,
    hooks: ScoringHooks = ScoringHooks(),
) -> Likelihoods:
    r"""$\log \Pr_\theta(x_j \mid \text{context})$ of every token of every document, each exactly once.

    A document that fits into the context is read whole, a dialogue in one pass for all of its turns; of a longer one,
    strided windows are read and each token is scored in the window that gives it the most context. Sums are exact, so
    their order does not matter.
    On a CPU windows are packed into rows without padding. Elsewhere, and where a source is read, those of much the same
    length stand side by side. In deterministic mode each is read alone, so that no product of matrices knows what else
    is being scored.
    """
    reader = Reader(model, corpus, policy, device, hooks.num_ranked, world)
    kinds = 4 + 2 * reader.num_ranked  # nats, whether a target, context, misses; labels and their nats
    found = np.zeros((kinds, len(corpus.tokens)), dtype=np.float64)
    is_known = torch.zeros(len(reader.groups), dtype=torch.int64)  # the first rank decides, so that all skip the same
    for number, scored in hooks.journal.known().items() if hooks.journal and world.is_first else ():
        _enter(found, scored)
        is_known[number] = 1
    mine = world.layout.reader
    left = (world.sum_of_all(is_known) == 0).nonzero()[:, 0].tolist()[mine.rank :: mine.size]
    total, done, waiting = sum(reader.num_tokens(number) for number in left), 0, set(left)
    numbers: Iterator[int] = itertools.takewhile(lambda _: not hooks.stops(), left)
    if is_sharded(model):
        numbers = in_rounds(left, world, hooks.stops)
    with computing_in(policy.dtype, device), reading(model):  # around all groups, so that parameters are cast once
        for number, scored in reader.score(numbers):
            if number not in waiting:
                continue
            waiting.remove(number)
            _enter(found, scored)
            if hooks.journal:
                hooks.journal.add(number, scored)
            done += reader.num_tokens(number)
            hooks.shows(done, total)
            heartbeat.moves()
    if world.any(hooks.stops()):
        raise Abandoned
    return _likelihoods(world.sum(torch.from_numpy(found)).numpy(), corpus)


def _enter(found: NDArray[np.float64], scored: ScoredTokens) -> None:
    """Adds the results of one group to the rows of `found`, at the places of its targets in the corpus."""
    np.add.at(found[0], scored.token, scored.log_prob)
    found[1, scored.token] = 1.0
    found[2, scored.token] = scored.context_length
    np.add.at(found[3], scored.token, scored.is_missed)
    found[4:, scored.token] = scored.ranked.T


@final
class Reader:
    """A corpus cut into groups of windows that are read together: a function of corpus, policy and device alone."""

    def __init__(
        self,
        model: Model,
        corpus: Corpus,
        policy: Policy,
        device: torch.device,
        num_ranked: int = 0,
        world: World = ALONE,
    ) -> None:
        self.model, self.world = model, world
        self.num_ranked = min(num_ranked, model.head.num_outputs) if corpus.layout.predicts_label else 0
        self.corpus = corpus
        self.policy = policy
        self.device = device
        self.plan = plan_scoring(corpus, policy.context, policy.stride)
        room = min(policy.context * policy.batch_size, ROOM_ON_CPU if device.type == "cpu" else ROOM_ON_GPU)
        if policy.deterministic:
            self.groups = one_by_one(self.plan.pieces)
        elif device.type == "cpu" and not _reads_source(policy):
            packed, self.groups = end_to_end(self.plan.pieces, room)
            self.plan = replace(self.plan, pieces=packed)
        else:
            self.groups = side_by_side(self.plan.pieces, room)

    def num_tokens(self, number: int) -> int:
        """About how many targets a group has."""
        pieces, index = self.plan.pieces, self.groups[number]
        return int((pieces.stop[index] - pieces.scored_from[index]).sum())

    def score(self, numbers: Iterable[int]) -> Iterator[tuple[int, ScoredTokens]]:
        """The targets of each of these groups, in their order.

        While a GPU reads one group, the host prepares the next. On a CPU several groups are read at once, each by one
        thread; the last few, which are too few for that or short, are read one after the other by all threads.
        Which ones these are depends on the whole corpus and not on what is left of it, so that scoring that goes on
        gives the same bits. In deterministic mode one thread reads each group, so that the bits do not depend on the
        number of threads either.
        """
        if self.device.type != "cpu":
            with of_threads(1):  # the host's work here is so small that more threads cost more than they save
                yield from _in_order(self._start, numbers)
            return
        if is_compiled(self.model) or is_sharded(self.model):
            yield from _in_order(self._start, numbers)
            return
        threads, workers = torch.get_num_threads(), self._num_workers()
        each, edge = threads // workers, (len(self.groups) - 1) // workers * workers
        if self.policy.deterministic:
            each, edge = 1, len(self.groups)
        for is_last, some in itertools.groupby(numbers, lambda number: number >= edge):
            yield from at_once(self.score_group, some, *((1, threads) if is_last else (workers, each)))

    def _num_workers(self) -> int:
        """How many groups are read at once on a CPU: limited by the threads and by the positions of a batch."""
        widest = self.policy.context if self.policy.deterministic else max(self.policy.context, ROOM_ON_CPU)
        by_room = self.policy.context * self.policy.batch_size // widest
        return max(1, min(torch.get_num_threads(), by_room))

    def score_group(self, number: int) -> ScoredTokens:
        """The targets of one group."""
        return self._start(number)()

    @torch.no_grad()
    def _start(self, number: int) -> Callable[[], ScoredTokens]:
        """Starts the forward passes; calling the function that it returns waits for their results."""
        index = self.groups[number]
        token = _places(self.corpus, self.plan.pieces, index)
        packed, policy = gather(self.corpus, self.plan, index), self.policy
        move, room = partial(onto, device=self.device), LOGITS_ON_CPU if self.device.type == "cpu" else LOGITS_ON_GPU
        found: list[Callable[[], ScoredTokens]] = []
        objective, row_length = ObjectiveConfig(factorization=policy.factorization), self._row_length(index)
        batches = scored_batches(packed, objective, self.corpus.symbols, policy.passes, row_length)
        world = self.world if is_sharded(self.model) else ALONE
        for batch, counts in as_many([*batches], world) if world.size > 1 else ((batch, True) for batch in batches):
            supervised = (batch.weights.flatten() > 0).nonzero()[:, 0]
            with computing_in(policy.dtype, self.device), kernels_of_any_shape(self.device):
                values = later(_values(self.model, batch.map(move), move(supervised), room, self.num_ranked))
            seen = context_lengths(batch, hides_targets=policy.factorization.hides_targets)
            where, seen = (tensor.flatten()[supervised].numpy() for tensor in (batch.origin, seen))
            if counts:
                found.append(partial(_scored, token[where], seen, values))
        return lambda: _joined([one() for one in found])

    def _row_length(self, index: Ints) -> int | None:
        """Positions of a row; None where an encoder reads first: both sides then are as long as their longest row."""
        if _reads_source(self.policy):
            return None
        pieces = self.plan.pieces
        row = np.unique(pieces.row[index], return_inverse=True)[1]
        return -(-int(np.bincount(row, pieces.size[index]).max()) // MULTIPLE) * MULTIPLE


def _in_order(
    start: Callable[[int], Callable[[], ScoredTokens]], numbers: Iterable[int]
) -> Iterator[tuple[int, ScoredTokens]]:
    """Each group with its targets; the next group is started before the results of one are waited for."""
    waiting: tuple[int, Callable[[], ScoredTokens]] | None = None
    for number in numbers:
        ahead = number, start(number)
        if waiting:
            yield waiting[0], waiting[1]()
        waiting = ahead
    if waiting:
        yield waiting[0], waiting[1]()


NOTHING = ScoredTokens(np.empty(0, np.int64), np.empty(0), np.empty(0, np.int64), np.empty(0), np.empty((0, 0)))


def _scored(token: Ints, seen: Ints, values: Callable[[], Tensor]) -> ScoredTokens:
    log_prob, is_missed, *ranked = values().numpy()
    return ScoredTokens(token, log_prob, seen, is_missed, np.array(ranked).reshape(len(ranked), len(token)).T)


def _joined(batches: list[ScoredTokens]) -> ScoredTokens:
    return ScoredTokens(*(np.concatenate(values) for values in zip(*batches, strict=True))) if batches else NOTHING


def context_lengths(batch: Batch, *, hides_targets: bool) -> Int[Tensor, "B T"]:
    """How many tokens each target could see: those before it, or the whole of its piece; and all that an encoder read.

    Where targets are hidden, neither the target nor what is hidden with it counts.
    """
    inputs, piece = batch.inputs, batch.inputs.visibility.piece.clamp(min=0)
    if inputs.visibility.is_causal:
        seen = inputs.position + 1
    else:
        is_read = inputs.visibility.piece >= 0
        counts = is_read & (batch.weights == 0) if hides_targets else is_read
        size = int(piece.max()) + 1
        seen = torch.bincount(piece.flatten(), counts.flatten().double(), size).long()[piece]
    if inputs.source is not None:
        of_source = inputs.source.inputs.visibility.piece
        sizes = torch.bincount(of_source[of_source >= 0], minlength=int(inputs.source.piece.max()) + 1)
        seen = seen + sizes[inputs.source.piece.clamp(min=0)]
    return seen


def _likelihoods(found: NDArray[np.float64], corpus: Corpus) -> Likelihoods:
    """The targets in the order of their parts, from what was found for each token of the corpus."""
    tokens = np.flatnonzero(found[1])
    part = corpus.part_of(tokens)
    order = np.argsort(part, kind="stable")
    tokens, part = tokens[order], part[order]
    parts, first = np.unique(part, return_index=True)
    start = np.append(first, len(part)).astype(np.int64)
    nats, seen = found[0, tokens], found[2, tokens].astype(np.int64)
    sums = np.array([exact_sum(nats[low:high]) for low, high in itertools.pairwise(start)], dtype=np.float64)
    misses = np.add.reduceat(found[3, tokens], first) if len(first) else first
    return Likelihoods(nats, tokens, seen, parts.astype(np.int64), start, sums, misses == 0, found[4:, tokens].T)


def _places(corpus: Corpus, pieces: Pieces, index: Ints) -> Ints:
    """The places in the corpus of the tokens that `gather` gives for these pieces."""
    start = pieces.start[index]
    piece, position = enumerate_counts(pieces.stop[index] - start)
    return (corpus.offsets[pieces.span[index]] + start)[piece] + position


def _reads_source(policy: Policy) -> bool:
    """Whether an encoder reads something first, so that a window takes two rows."""
    return policy.factorization.reads_source


def _values(
    model: Model, batch: Batch, supervised: Int[Tensor, " n"], room: int, num_ranked: int
) -> Float[Tensor, "m n"]:
    """The log-probability of each target, and 1 where another token is likelier; the likeliest labels, and their nats.

    Of equally likely labels the first comes first, as in argmax.
    """
    # kernels round differently for odd numbers of rows: the first target is repeated up to a multiple
    padded = torch.nn.functional.pad(supervised, (0, -len(supervised) % MULTIPLE))
    hidden_ND, targets_N = model.hidden(batch.inputs).flatten(0, 1)[padded], batch.targets.flatten()[padded]
    told = judged(hidden_ND, model.head, targets_N, room=room)
    found = [told.log_prob, told.is_missed.double()]
    if num_ranked:
        logits_NL = model.head(hidden_ND)
        logits_NL = logits_NL.to(torch.promote_types(logits_NL.dtype, torch.float32))
        logits_NL, labels_NL = (
            some[:, :num_ranked] for some in torch.sort(logits_NL, dim=-1, descending=True, stable=True)
        )
        found += [*labels_NL.double().T, *(logits_NL.double() - told.log_normalizer[:, None]).T]
    return torch.stack(found)[:, : len(supervised)]


def bytes_of(likelihoods: Likelihoods, corpus: Corpus) -> NDArray[np.int64]:
    """[targets], the bytes of the text behind each."""
    return corpus.bytes_at(likelihoods.tokens)


def ledger_rows(likelihoods: Likelihoods, corpus: Corpus, labels: Sequence[str] = ()) -> list[LedgerRow]:
    """A row for each part with targets; the long ones with their blocks, which intervals over few documents need.

    Those of a classifier have the target and the likeliest label, where its `labels` are given.
    """
    parts, start = likelihoods.part, likelihoods.start
    if not len(parts):
        return []
    num_bytes, num_tokens = bytes_of(likelihoods, corpus), np.diff(start)
    is_whole = num_tokens >= corpus.part_tokens[parts]
    of_targets = np.add.reduceat(num_bytes, start[:-1])
    size = np.where(is_whole, corpus.column["parts.num_bytes"][parts], of_targets)
    seen = np.maximum.reduceat(likelihoods.context_length, start[:-1])
    is_unknown = corpus.is_unknown(likelihoods.tokens)
    unknown = (np.add.reduceat(values, start[:-1]) for values in (is_unknown.astype(np.int64), num_bytes * is_unknown))
    told = corpus.column["parts.is_lossless"][parts]
    counts = zip(*(values.tolist() for values in (num_tokens, size, seen, told, *unknown)), strict=True)
    found = zip(itertools.pairwise(start.tolist()), counts, likelihoods.log_prob.tolist(), strict=True)
    named = zip(corpus.describe(parts), corpus.digests(parts), _predictions(likelihoods, corpus, labels), strict=True)
    return [
        LedgerRow(
            id=part.id,
            document=part.document,
            source=part.source,
            part=part.name,
            role=part.role,
            num_tokens=count[0],
            num_bytes=count[1],
            context_length=count[2],
            log_prob=log_prob,
            weight=part.weight,
            digest=digest,
            blocks=blocks_of(likelihoods.token_log_prob[slice(*edge)], num_bytes[slice(*edge)])
            if count[0] > BLOCK_TOKENS
            else (),
            is_lossless=count[3],
            num_unknown=count[4],
            unknown_bytes=count[5],
            **predicted,
        )
        for (edge, count, log_prob), (part, digest, predicted) in zip(found, named, strict=True)
    ]


def _predictions(likelihoods: Likelihoods, corpus: Corpus, labels: Sequence[str]) -> list[dict[str, Any]]:
    """What the row of each part says of labels; nothing where there are none."""
    if not (corpus.layout.predicts_label and labels):
        return [{}] * len(likelihoods.part)
    first = likelihoods.start[:-1]  # a label is the only target of its part
    targets, ranked = corpus.tokens[likelihoods.tokens[first]].tolist(), likelihoods.ranked[first]
    predicted, nats = ranked[:, 0].astype(np.int64).tolist(), ranked[:, ranked.shape[1] // 2].tolist()
    return [
        {"label": labels[target], "predicted": labels[best], "predicted_log_prob": log_prob}
        for target, best, log_prob in zip(targets, predicted, nats, strict=True)
    ]
