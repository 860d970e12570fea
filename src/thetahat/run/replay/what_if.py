"""The same step under another config, or without some of its sequences."""

from collections.abc import Sequence
from dataclasses import dataclass, replace as with_fields

import torch
from msgspec.structs import replace
from torch import Tensor

from thetahat.core.batch import Batch, Inputs
from thetahat.core.config import override
from thetahat.core.errors import ConfigError
from thetahat.distribution.in_turn import InTurn
from thetahat.model.config import Dtype
from thetahat.run.config import RunConfig, changed_keys, is_fixed
from thetahat.run.machine import resolve, set_up
from thetahat.run.replay.again import Again, AsWritten, micro_batches
from thetahat.run.replay.effects import assign, norm_of, parameters_of, sums_of
from thetahat.run.state import State, first_model, state_with
from thetahat.run.step import step

OTHER: dict[Dtype, Dtype] = {"float32": "bfloat16", "bfloat16": "float32", "float64": "float32"}
_OF_THE_BATCH = ("data", "batch_size", "base", "parent", "recipe", "seed")  # or of nothing that a step does


@dataclass(frozen=True, slots=True)
class Change:
    """What is asked to be otherwise."""

    without: tuple[str, ...] = ()  # ids of records, which are neither read nor predicted
    learning_rate_factor: float = 1.0
    changes: tuple[str, ...] = ()  # KEY=VALUE

    def __str__(self) -> str:
        """In one line."""
        rate = f"learning rates x {self.learning_rate_factor:g}" if self.learning_rate_factor != 1 else ""
        without = f"without {', '.join(self.without)}" if self.without else ""
        return "; ".join(one for one in (without, rate, " ".join(self.changes)) if one)

    def __bool__(self) -> bool:
        return bool(str(self))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step does, or would do."""

    name: str
    log_likelihood_per_token: float  # nats, of what it learns from, before the update
    gradient_norm: float
    update: float  # the norm of the update over that of the parameters
    after: float  # nats a target of the batch as it was, behind the update and without dropout


def outcome(name: str, again: Again, state: State, log_likelihood: float, gradient_norm: float) -> Outcome:
    """What a step did that led from the start of `again` to `state`."""
    num_targets = sum(int((micro.batch.weights != 0).sum()) for micro in again.batches)
    end, start = parameters_of(state), again.start.parameters
    moved = {name: end[name].double() - one.to(end[name]).double() for name, one in start.items()}
    after = float(sums_of(state, again.batches).sum()) / num_targets
    return Outcome(name, log_likelihood, gradient_norm, norm_of(moved) / max(norm_of(start), 1e-300), after)


def as_made(again: Again) -> Outcome:
    """What the step did."""
    report = again.report
    return outcome("as it was made", again, again.state, report.total.mean().item(), report.gradient_norm.item())


def in_other_dtype(again: Again) -> Outcome:
    """The step with its products in bfloat16, where they are in float32, and the other way round."""
    config = again.state.config
    rest = ("float8=false",) if config.float8 else ()
    return what_if(again, Change(changes=(f"dtype={OTHER[config.dtype]}", *rest)))


def what_if(again: Again, change: Change) -> Outcome:
    """What the step would have done from the same state, otherwise. Raises ConfigError for what cannot be changed."""
    config = changed(again.state.config, change)
    try:
        state = _state(again, config, set_up(config))
        prepared = with_fields(again.prepared, config=config)
        batches = micro_batches(prepared, again.start.step, again.num_ranks)
        batches = [with_fields(micro, batch=_without(micro.batch, change.without)) for micro in batches]
        counts = [sum(micro.rank == rank for micro in batches) for rank in range(again.num_ranks)]
        in_turn = InTurn(counts, list(state.model.parameters()))
        done = step(state, [micro.batch for micro in batches], in_turn, judge=AsWritten(frozenset()))
        return outcome(str(change), again, state, done.total.mean().item(), done.gradient_norm.item())
    finally:
        set_up(again.state.config)


def changed(config: RunConfig, change: Change) -> RunConfig:
    """The config with these changes; what the state or the batch does not fit, or what merely watches, is an error."""
    other = resolve(override(config, list(change.changes)))
    keys = changed_keys(other, config)
    if change.changes and not keys:
        raise ConfigError(f"{' '.join(change.changes)} changes nothing that a step depends on", cure="leave it out")
    if unfit := [key for key in keys if is_fixed(key) or key.split(".")[0] in _OF_THE_BATCH]:
        raise ConfigError(
            f"{unfit[0]} cannot be another in one step: its state and its sequences stay what they are",
            allowed="optimization.*, objective.*, dtype, model.dropout, micro_batch_size and others of how it computes",
            cure=f"thetahat train --branch RUN {unfit[0]}=..., a run that goes on with it",
        )
    if change.learning_rate_factor == 1:
        return other
    optimization = other.optimization
    rules = {
        name: replace(rule, learning_rate=rule.learning_rate * change.learning_rate_factor)
        for name in ("matrices", "embeddings", "vectors")
        for rule in (getattr(optimization, name),)
    }
    return replace(other, optimization=replace(optimization, **rules))


def check_ids(again: Again, ids: Sequence[str]) -> None:
    """Raises ConfigError for an id of which the step has no sequence."""
    there = dict.fromkeys(part.id for micro in again.batches for part in micro.batch.parts.named())
    if unknown := [one for one in ids if one not in there]:
        shown = list(there)[:12]
        more = f" and {len(there) - len(shown)} more" if len(there) > len(shown) else ""
        raise ConfigError(
            f"step {again.report.step} has no sequence {unknown[0]!r}", allowed=f"{', '.join(shown)}{more}"
        )


def _state(again: Again, config: RunConfig, device: torch.device) -> State:
    """The state before the step, under another config."""
    prepared, num_steps = again.prepared, again.state.num_steps
    if config.max_steps != again.state.config.max_steps:
        num_steps = config.max_steps
    draws = config.adapter is not None  # its modules are made with values
    model = first_model(config, prepared.tokenizer.vocab_size, device, len(prepared.labels), draws=draws)
    state = state_with(model, config, num_steps, device)
    assign(state, again.start.parameters)
    state.optimizer.adopt_state(again.start.optimizer)
    state.step, state.tokens = again.start.step, again.start.tokens
    return state


def _without(batch: Batch, ids: Sequence[str]) -> Batch:
    """The batch in which nothing of these records is predicted, and another token stands for each of theirs.

    All others stay where they are, so that dropout draws the same for them. What is read must change, too: a NaN of
    one sequence reaches the others of its row.
    """
    if not ids:
        return batch
    named = torch.tensor([part.id in ids for part in batch.parts.named()] + [False])
    piece = batch.inputs.visibility.root()
    is_theirs = named[batch.part] & (piece >= 0)
    gone = torch.isin(piece, piece[is_theirs & (batch.weights != 0)])
    source = batch.inputs.source
    if source is not None:
        read = torch.isin(source.inputs.visibility.piece, source.piece[gone])
        source = with_fields(source, inputs=_blank(source.inputs, read))
    inputs = with_fields(_blank(batch.inputs, gone), source=source)
    return with_fields(batch, inputs=inputs, weights=torch.where(gone, 0.0, batch.weights))


def _blank(inputs: Inputs, gone: Tensor) -> Inputs:
    return with_fields(inputs, tokens=torch.where(gone, 0, inputs.tokens))
