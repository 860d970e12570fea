"""A few sequences of a run's own data, and the trainer's own step on them, in micro-batches of any form."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace as replace_fields
from functools import cached_property
from typing import final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int64
from msgspec.structs import replace
from torch import Tensor

from thetahat.core.batch import Batch, Packed, Symbols
from thetahat.core.random import generator
from thetahat.data.order.pack import Pieces, lay, take, unit_pieces
from thetahat.data.order.plan import Draw, gather
from thetahat.distribution.pieces import fill, gradient_of
from thetahat.distribution.world import ALONE, World
from thetahat.model.config import Dtype
from thetahat.model.precision import computing_in
from thetahat.objective.chunked import Chunked
from thetahat.objective.factorization import factor
from thetahat.objective.log_prob import reference
from thetahat.run.base import load_base
from thetahat.run.config import RunConfig
from thetahat.run.prepare import Prepared
from thetahat.run.state import State, first_state
from thetahat.run.step import step

NUM_SEQUENCES = 8
MAX_POSITIONS = 128  # of a sequence: longer sums have larger rounding errors
NEARBY = 2.0**-12  # by how much of themselves parameters are moved to round otherwise


@dataclass(frozen=True, slots=True)
class Outcome:
    """The value (nats per unit of weight) and the gradient of one step."""

    value: float
    gradients: dict[str, Tensor]
    loads: Int64[Tensor, "R E"] | None = None  # of experts, where there are any


@final
class Bench:
    """Sequences of different lengths from the first batch of a run, and the model at step 0, in one dtype."""

    def __init__(self, config: RunConfig, prepared: Prepared, dtype: Dtype) -> None:
        still = replace(config.model, dropout=0.0)
        free = replace(config.optimization, clip=None)
        self.prepared = prepared
        self.config = replace(config, dtype=dtype, float8=False, compile=False, model=still, optimization=free)
        self.vocab_size = prepared.tokenizer.vocab_size
        self.device = torch.device(config.device)
        self.corpus = prepared.train
        self.pieces = _uneven(prepared, config.seed)
        self.units = np.arange(len(self.pieces.unit_starts))
        starts = self.pieces.unit_starts
        self.longest = int(np.add.reduceat(self.pieces.size, starts).max())

    def unpenalised(self) -> "Bench":
        """The same without penalties and without further targets, which are no part of a likelihood."""
        objective = self.config.objective
        plain = replace(
            objective,
            z_loss=0.0,
            balance=replace(objective.balance, sequence=0.0, router_z=0.0),
            future=tuple(0.0 for _ in objective.future),
        )
        return Bench(replace(self.config, objective=plain), self.prepared, self.config.dtype)

    @torch.no_grad()
    def state(self, world: World = ALONE, draw: int = 0) -> State:
        """Step 0, with the parameters of the base where there is one, in pieces where the world says so.

        With a draw other than 0 they are moved by it, in one process.
        """
        state = first_state(self.config, self.vocab_size, 1, self.device, len(self.prepared.labels), world=world)
        if self.config.base:
            for name, parameter in state.model.named_parameters():
                fill(parameter, self._first[name])
        if draw:
            chance = generator(self.config.seed, "verify nearby", draw)
            for parameter in state.model.parameters():
                factor = 1 + NEARBY * torch.empty(parameter.shape, dtype=torch.float64).uniform_(
                    -1, 1, generator=chance
                )
                parameter.copy_((parameter.double() * factor.to(parameter.device)).float())  # the same in every dtype
        return state

    @cached_property
    def _first(self) -> dict[str, Tensor]:
        """The parameters of step 0 of a run with a base, read once."""
        num_labels = len(self.prepared.labels)
        state = first_state(self.config, self.vocab_size, 1, self.device, num_labels)
        load_base(state.model, self.config, num_labels)
        return {name: parameter.detach() for name, parameter in state.model.named_parameters()}

    def packed(self, pieces: Pieces) -> Packed:
        """The tokens of these pieces."""
        plan = replace_fields(self.prepared.order.plan(0), pieces=pieces)
        return gather(self.corpus, plan, np.arange(len(pieces)), Draw(self.config.seed))

    def factor(self, packed: Packed, row_length: int | None = None) -> Batch:
        """Their inputs and targets under the objective of the run."""
        return factor(packed, self.config.objective, self.corpus.symbols, row_length)

    def batch(self, pieces: Pieces, row_length: int | None = None) -> Batch:
        """These pieces as one micro-batch."""
        return self.factor(self.packed(pieces), row_length)

    def rows(self, units: Int[np.ndarray, " n"] | None = None) -> Pieces:
        """One sequence a row, all of them or some."""
        chosen = self.units if units is None else units
        return lay(take(self.pieces, unit_pieces(self.pieces, chosen)), self.longest, "none")

    def in_few_rows(self) -> Pieces:
        """As many sequences in a row as the longest leaves room for."""
        return lay(self.pieces, self.longest, "best-fit")

    def outcome(
        self, batches: Sequence[Batch], world: World = ALONE, chunk_size: int | None = None, draw: int = 0
    ) -> Outcome:
        """Runs the trainer's step from the beginning on these micro-batches; its gradient is left on the parameters."""
        state = self.state(world, draw)
        if chunk_size is not None:
            state.kernel = Chunked(chunk_size)
        report = step(state, batches, world)
        found = {name: one for name, p in state.model.named_parameters() if (one := gradient_of(p)) is not None}
        homes = world.homes(found)
        gradients = {name: world.whole(one, homes[name]) for name, one in found.items()}
        divisor = self.config.objective.step_divisor(report.total.weight.item())
        return Outcome(report.total.log_prob.item() / divisor, gradients, report.routed and report.routed.loads)

    @torch.no_grad()
    def log_probs(self, batch: Batch, targets: Int[Tensor, "B T"]) -> Float[Tensor, "B T"]:
        """The log-probabilities of `targets` in place of the batch's own, at step 0."""
        model, batch, targets = self.state().model, batch.to(self.device), targets.to(self.device)
        with computing_in(self.config.dtype, self.device):
            hidden = model.hidden(batch.inputs).flatten(0, 1)
            return reference(hidden, model.head, targets.flatten()).log_prob.view_as(targets)

    def leak(self) -> float:
        """The largest change of a log-probability, in nats, when another sequence in its row is changed."""
        pieces = self.in_few_rows()
        is_first = np.ones(len(pieces), dtype=np.bool_)  # of the first unit of its row
        is_first[1:] = pieces.row[1:] != pieces.row[:-1]
        first_unit = set(pieces.unit[is_first].tolist())
        changed = torch.tensor([int(unit) in first_unit for unit in pieces.unit])
        packed = self.packed(pieces)
        return self._change(packed, changed[packed.piece], ~changed[packed.piece])

    def look_ahead(self) -> float:
        """The largest change, in nats, of the log-probability of a target when the target itself is changed."""
        pieces = self.rows()
        packed = self.packed(pieces)
        batch = self.factor(packed)
        sees_itself = batch.inputs.tokens == batch.targets  # 80-10-10 leaves some as they are
        target = batch.origin[(batch.weights != 0) & ~sees_itself].unique()
        unit = torch.from_numpy(pieces.unit)[packed.piece[target]]  # one in each: later targets may change
        first = torch.ones_like(unit, dtype=torch.bool)
        first[1:] = unit[1:] != unit[:-1]
        where = torch.zeros(len(packed.tokens), dtype=torch.bool)
        where[target[first]] = True
        return self._change(packed, where, where)

    def _change(self, packed: Packed, where: Bool[Tensor, " N"], watched: Bool[Tensor, " N"]) -> float:
        changed = _others(packed.tokens, self.corpus.symbols)
        other = replace_fields(packed, tokens=torch.where(where, changed, packed.tokens))
        batch = self.factor(packed)
        before, after = self.log_probs(batch, batch.targets), self.log_probs(self.factor(other), batch.targets)
        is_text = batch.targets == packed.tokens[batch.origin]  # not a sentinel or an end, which have another's origin
        counted = ((batch.weights != 0) & is_text & watched[batch.origin]).to(before.device)
        return float((after - before)[counted].abs().max()) if bool(counted.any()) else 0.0


def _others(tokens: Int[Tensor, " N"], symbols: Symbols) -> Int[Tensor, " N"]:
    """Each token of text replaced by another of the same kind, so that the same units are masked."""
    other = torch.arange(symbols.vocab_size)
    for kind in (symbols.begins_word & ~symbols.is_special, ~symbols.begins_word & ~symbols.is_special):
        ids = kind.nonzero()[:, 0]
        other[ids] = ids.roll(-1)
    return other[tokens]


def shortened(pieces: Pieces, max_positions: Int[np.ndarray, " P"]) -> Pieces:
    """The pieces with at most so many positions each, and at least one target."""
    stop = np.minimum(pieces.stop, np.maximum(pieces.start + 1 + max_positions, pieces.scored_from + 1))
    return replace_fields(pieces, stop=stop, size=pieces.size + stop - pieces.stop)


def _uneven(prepared: Prepared, seed: int) -> Pieces:
    """The first sequences in the order of training; those of plain text are shortened, except the first."""
    first = prepared.order.batch(0).pieces
    if prepared.train.column["parts.is_prompt"].any():
        sizes = np.add.reduceat(first.size, first.unit_starts)
        short = np.argsort(sizes > 2 * MAX_POSITIONS, kind="stable")[:NUM_SEQUENCES]
        return take(first, unit_pieces(first, np.sort(short)))
    pieces = take(first, np.arange(min(NUM_SEQUENCES, len(first))))
    shares = torch.rand(len(pieces), generator=generator(seed, "verify")).numpy()
    shares[0] = 1.0
    return shortened(pieces, np.maximum(1, shares * np.minimum(pieces.positions, MAX_POSITIONS)).astype(np.int64))


def paths(bench: Bench, pieces: Pieces) -> Iterator[tuple[int, list[int], list[int]]]:
    """Each piece with the tokens before it on its path (in a pair: what the encoder reads), and its own tokens."""
    tokens = [
        bench.corpus.span(int(span))[start:stop].tolist()
        for span, start, stop in zip(pieces.span, pieces.start, pieces.stop, strict=True)
    ]
    before: list[list[int]] = []
    for piece, above in enumerate(pieces.parent.tolist()):
        parent = piece - above
        if not above:
            before.append([])
        elif bench.corpus.layout.has_source:
            before.append(tokens[parent])
        else:
            before.append([*before[parent], *tokens[parent][:-1]])
        yield piece, before[piece], tokens[piece]
