"""A few sequences of a run's own data, and the trainer's own step on them, cut in any way."""

from collections.abc import Sequence
from dataclasses import dataclass, replace as replace_fields
from typing import final

import numpy as np
import torch
from jaxtyping import Float, Int
from msgspec.structs import replace
from torch import Tensor

from thetahat.core.batch import Batch, Inputs
from thetahat.core.random import generator
from thetahat.core.visibility import Visibility
from thetahat.data.pack import Pieces, lay, take
from thetahat.data.plan import Draw, gather
from thetahat.distribution.world import World
from thetahat.model.precision import Dtype, computing_in
from thetahat.objective.factorization import factor
from thetahat.objective.log_prob import build_log_probs, token_log_probs
from thetahat.run.config import RunConfig
from thetahat.run.prepare import Prepared
from thetahat.run.state import State, first_state
from thetahat.run.step import step

NUM_SEQUENCES = 8
MAX_POSITIONS = 128  # of a sequence: the more terms a sum has, the more of its last bits are rounding


@dataclass(frozen=True, slots=True)
class Outcome:
    """The value (nats per unit of weight) and the gradient of one step."""

    value: float
    gradients: dict[str, Tensor]


@final
class Bench:
    """Sequences of unequal lengths from the first batches of a run, and the model as it begins, in one dtype."""

    def __init__(self, config: RunConfig, prepared: Prepared, dtype: Dtype) -> None:
        still = replace(config.model, dropout=0.0)
        free = replace(config.optimization, clip=None)
        self.prepared = prepared
        self.config = replace(config, dtype=dtype, compile=False, model=still, optimization=free)
        self.vocab_size = prepared.tokenizer.vocab_size
        self.device = torch.device(config.device)
        self.corpus = prepared.train
        self.pieces = _uneven(prepared, config.seed)
        self.longest = int(self.pieces.positions.max())

    def state(self) -> State:
        """Step 0."""
        return first_state(self.config, self.vocab_size, 1, self.device)

    def batch(self, pieces: Pieces, width: int | None = None) -> Batch:
        """These pieces as one micro-batch."""
        plan = replace_fields(self.prepared.order.plan(0), pieces=pieces)
        packed = gather(self.corpus, plan, np.arange(len(pieces)), Draw(self.config.seed))
        return factor(packed, self.config.objective, self.corpus.symbols, width)

    def rows(self, pieces: Pieces | None = None) -> Pieces:
        """One piece a row."""
        return lay(pieces or self.pieces, self.longest, "none")

    def packed(self) -> Pieces:
        """As many pieces in a row as the longest leaves room for."""
        return lay(self.pieces, self.longest, "best-fit")

    def places(self, pieces: Pieces) -> Int[Tensor, "B T"]:
        """Which piece of its row lies where, -1 for padding: counted here by hand, not read off a batch."""
        width = max(int(pieces.positions[pieces.row == row].sum()) for row in range(pieces.num_rows))
        places = torch.full((pieces.num_rows, width), -1)
        for row in range(pieces.num_rows):
            column = 0
            for number, length in enumerate(pieces.positions[pieces.row == row].tolist()):
                places[row, column : column + length] = number
                column += length
        return places

    def outcome(self, batches: Sequence[Batch], world: World | None = None, chunk_size: int | None = None) -> Outcome:
        """Runs the trainer's step from the beginning on these micro-batches; its gradient is left on the parameters."""
        state = self.state()
        if chunk_size is not None:
            state.log_probs = build_log_probs(chunk_size, compiles=False)
        report = step(state, batches, world or World())
        gradients = {name: p.grad for name, p in state.model.named_parameters() if p.grad is not None}
        divisor = 1.0 if self.config.objective.normalization == "sum" else report.total.weight.item()
        return Outcome(report.total.log_prob.item() / divisor, gradients)

    def prefix_by_prefix(self, max_positions: int) -> tuple[Outcome, Outcome]:
        """The step on shortened sequences, and the definition read literally: one pass for every single token.

        The literal side shares neither the factorization, nor the masks, nor the log-softmax with the trainer.
        """
        short = _shortened(self.pieces, np.full(len(self.pieces), max_positions))
        trained = self.outcome([self.batch(self.rows(short))])
        model = self.state().model
        total, weight = torch.zeros((), dtype=torch.float64, device=self.device), 0.0
        for index in range(len(short)):
            sequence = self.corpus.span(int(short.span[index]))
            begin, first, stop = (int(edge[index]) for edge in (short.start, short.scored_from, short.stop))
            counts = self._weight_of(short, index)
            for place in range(first, stop):
                prefix = torch.from_numpy(sequence[begin:place]).to(self.device)[None]
                with computing_in(self.config.dtype, self.device):
                    logits = model.logits(model.hidden(_plain(prefix))[0, -1:])[0]
                wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
                total = total + counts * wide.log_softmax(-1)[int(sequence[place])].double()
                weight += counts
        divisor = 1.0 if self.config.objective.normalization == "sum" else weight
        (-total / divisor).backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        return trained, Outcome(total.item() / divisor, gradients)

    @torch.no_grad()
    def log_probs(self, batch: Batch) -> Float[Tensor, "B T"]:
        """Of every target, at the beginning."""
        model, batch = self.state().model, batch.to(self.device)
        with computing_in(self.config.dtype, self.device):
            hidden = model.hidden(batch.inputs).flatten(0, 1)
            return token_log_probs(hidden, model.logits, batch.targets.flatten()).view_as(batch.targets)

    def _weight_of(self, pieces: Pieces, index: int) -> float:
        plan, document = self.prepared.order.plan(0), int(self.corpus.column["spans.document"][pieces.span[index]])
        weight = float(self.corpus.column["documents.weight"][document])
        return (
            weight / int(plan.record_tokens[document]) if self.config.objective.normalization == "sequence" else weight
        )


def perturbed(batch: Batch, where: Tensor, vocab_size: int) -> Batch:
    """The batch with other tokens read at some places."""
    tokens = torch.where(where, (batch.inputs.tokens + 1) % vocab_size, batch.inputs.tokens)
    return replace_fields(batch, inputs=replace_fields(batch.inputs, tokens=tokens))


def _plain(tokens: Tensor) -> Inputs:
    position = torch.arange(tokens.shape[1], device=tokens.device)[None]
    return Inputs(tokens, position, Visibility(torch.zeros_like(tokens), is_plain=True))


def _uneven(prepared: Prepared, seed: int) -> Pieces:
    """The first pieces in the order of training, the first as it is and the others shortened to unequal lengths."""
    plan, index = prepared.order.batch(0)
    pieces = take(plan, index[:NUM_SEQUENCES])
    shares = torch.rand(len(pieces), generator=generator(seed, "verify")).numpy()
    shares[0] = 1.0
    return _shortened(pieces, np.maximum(1, shares * np.minimum(pieces.positions, MAX_POSITIONS)).astype(np.int64))


def _shortened(pieces: Pieces, max_positions: np.ndarray) -> Pieces:
    stop = np.minimum(pieces.stop, np.maximum(pieces.start + 1 + max_positions, pieces.scored_from + 1))
    return replace_fields(pieces, stop=stop, size=stop - pieces.start - 1)
