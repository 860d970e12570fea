"""The training loop is a generator: `for report in train(config): ...`."""

import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from typing import Any

from thetahat.core import store
from thetahat.distribution.world import World, join_world
from thetahat.evaluation.ledger import Summary, summarize
from thetahat.evaluation.likelihood import ledger_rows, score_corpus
from thetahat.run.checkpoint import all_checkpoints, newest_verified, prune, read_progress, restore, save
from thetahat.run.config import RunConfig, resolve, set_up
from thetahat.run.folder import choose_folder, enter
from thetahat.run.log import MetricsLog, read_last
from thetahat.run.prepare import Prepared, prepare
from thetahat.run.signals import Interrupted, listening
from thetahat.run.state import State, first_state
from thetahat.run.step import StepReport, step

METRICS = "metrics.jsonl"
logger = getLogger("thetahat")


@dataclass(frozen=True, slots=True)
class Report:
    """What happened in one turn of the loop."""

    step: StepReport
    num_steps: int
    seconds: float  # of training so far, evaluations and saves included
    tokens: int  # targets so far
    held_out: Summary | None  # where it was evaluated
    checkpoint: Path | None  # where one was saved


def train(
    config: RunConfig, folder: Path | None = None, *, fresh: bool = False, max_minutes: float | None = None
) -> Iterator[Report]:
    """Trains, or goes on training: the same config in the same folder continues from its newest whole checkpoint.

    A finished run yields nothing. Step 0 is saved before step 1, so that from then on there is always a checkpoint.
    """
    config = resolve(config)
    device, world = set_up(config), join_world(config.device)
    folder = choose_folder(config, folder, fresh=fresh)
    with store.holding(folder) if world.is_first else nullcontext():
        world.first_does(lambda: enter(folder, config))
        prepared = prepare(config, folder, world)
        state = first_state(config, prepared.tokenizer.vocab_size, prepared.num_steps, device)
        metrics_bytes = resume(state, folder, world)
        log = MetricsLog(folder / METRICS, metrics_bytes) if world.is_first else None
        if state.step == 0:
            _save(state, folder, prepared, log, world)
        started = last = time.perf_counter()
        with listening() as stop:
            while state.step < state.num_steps:
                position = state.step
                done = step(state, prepared.batches(position, world), world)
                is_last = state.step == state.num_steps
                held_out = None
                if is_last or _is_due(state.step, config.evaluation.every):
                    held_out = evaluate(state, prepared, world)
                now = time.perf_counter()
                state.seconds, spent, last = state.seconds + now - last, now - last, now
                if log:
                    log.append(_line(done, state, held_out, prepared.order.fingerprint(position), spent))
                is_late = max_minutes is not None and now - started >= 60 * max_minutes
                is_stopped = world.any(bool(stop.number) or is_late)
                saved = None
                if is_last or is_stopped or _is_due(state.step, config.checkpoint.every):
                    saved = _save(state, folder, prepared, log, world, held_out)
                yield Report(done, state.num_steps, state.seconds, state.tokens, held_out, saved)
                if is_stopped and not is_last:
                    if stop.number:
                        raise Interrupted(stop.number, f"stopped after step {state.step}; saved {saved}")
                    break
    world.leave()


def evaluate(state: State, prepared: Prepared, world: World) -> Summary | None:
    """How likely the held-out part is, by the policy and the dtype that `thetahat score` uses: all of it, exactly."""
    if prepared.held_out is None:
        return None
    state.model.eval()
    policy = state.config.policy()
    likelihoods = score_corpus(state.model, prepared.held_out, policy, world, state.device)
    state.model.train()
    return summarize(ledger_rows(likelihoods, prepared.held_out, policy))


def resume(state: State, folder: Path, world: World) -> int:
    """Restores the newest whole checkpoint of this config, if there is one; returns the length of the metrics then."""
    newest, rejected = newest_verified(folder, state.config)
    world.barrier()
    if world.is_first:
        for one in rejected:
            logger.warning("checkpoint %s is not used: %s", one.folder.name, one.reason)
        if newest:
            logger.info("going on from %s", newest)
        elif all_checkpoints(folder):
            logger.warning("no checkpoint can be used: starting from step 0")
    return restore(state, newest) if newest else 0


def result(folder: Path, config: RunConfig) -> dict[str, Any]:
    """What a run has come to: the last line of its metrics and its newest whole checkpoint."""
    newest, _ = newest_verified(folder, resolve(config))
    progress = read_progress(newest) if newest else {"step": 0, "tokens": 0, "seconds": 0.0}
    return {
        "step": progress["step"],
        "tokens": progress["tokens"],
        "log_likelihood_per_token": read_last(folder / METRICS, "log_likelihood_per_token"),
        "held_out_bits_per_byte": read_last(folder / METRICS, "held_out_bits_per_byte"),
        "seconds": progress["seconds"],
        "checkpoint": str(newest) if newest else None,
    }


def _is_due(step_number: int, every: int) -> bool:
    return every > 0 and step_number % every == 0


def _save(
    state: State,
    folder: Path,
    prepared: Prepared,
    log: MetricsLog | None,
    world: World,
    held_out: Summary | None = None,
) -> Path | None:
    """Saves on the first rank; everyone learns whether it worked."""
    improves = held_out is not None and held_out.bits_per_byte < (state.best_bits_per_byte or float("inf"))
    if improves and held_out:
        state.best_bits_per_byte = held_out.bits_per_byte

    def write() -> Path:
        target = save(state, folder, prepared.tokenizer, log.settle() if log else 0)
        if improves:
            store.write_text(folder / "checkpoints" / "best", target.name)
        prune(folder, state.config.checkpoint.keep)
        return target

    return world.first_does(write)


def _line(done: StepReport, state: State, held_out: Summary | None, batch: str, seconds: float) -> dict[str, Any]:
    """One line of metrics.jsonl; `seconds` and `tokens_per_second` are the only fields that a repeated run changes."""
    line = {
        "step": done.step,
        "tokens": state.tokens,
        "log_likelihood_per_token": done.total.mean().item(),
        "gradient_norm": done.gradient_norm.item(),
        "learning_rate_factor": done.learning_rate_factor,
        "batch": batch,
    }
    if held_out:
        line |= {f"held_out_{name}": value for name, value in held_out.to_dict().items()}
    return line | {"seconds": state.seconds, "tokens_per_second": done.num_tokens / seconds}
