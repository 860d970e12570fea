"""The training loop is a generator: `for report in train(config): ...`."""

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from logging import getLogger
from pathlib import Path
from typing import Any

import torch

from thetahat.core import store
from thetahat.core.errors import FolderError, ModelError
from thetahat.core.total import Total
from thetahat.distribution.world import World, join_world
from thetahat.evaluation.ledger import Summary, summarize
from thetahat.evaluation.likelihood import Abandoned, ledger_rows, score_corpus
from thetahat.run.blame import check_parameters
from thetahat.run.checkpoint import folder_of, newest_verified, read_progress, restore, save, settle
from thetahat.run.config import RunConfig, resolve, set_up
from thetahat.run.feed import Feed
from thetahat.run.folder import choose_folder, enter
from thetahat.run.log import MetricsLog, read_last
from thetahat.run.prepare import Prepared, prepare
from thetahat.run.signals import Interrupted, Stop, listening
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


@dataclass(slots=True)
class Running:
    """What the loop holds on to."""

    folder: Path
    world: World
    prepared: Prepared
    state: State
    feed: Feed
    log: MetricsLog | None  # on the first rank
    pending: StepReport | None = None  # a step whose evaluation was broken off: made, but not yet reported


def train(
    config: RunConfig, folder: Path | None = None, *, fresh: bool = False, max_minutes: float | None = None
) -> Iterator[Report]:
    """Trains, or goes on training: the same config in the same folder continues from its newest whole checkpoint.

    A finished run yields nothing. Step 0 is saved before step 1, so that from then on there is always a checkpoint.
    """
    folder, config = choose_folder(config, folder, fresh=fresh), resolve(config)
    device, world = set_up(config), join_world(config.device)
    with ExitStack() as held:
        world.first_does(lambda: held.enter_context(store.holding(folder)))
        run = _start_or_resume(config, folder, device, world)
        if run is None:
            return world.leave()
        state, wish = run.state, 0
        started = last = time.perf_counter()
        with listening() as stop:
            while run.pending or state.step < state.num_steps:
                done = run.pending or step(state, run.feed.batches(state.step), world)
                held_out, run.pending = _evaluate_if_due(run, done, stop)
                now = time.perf_counter()
                state.seconds, spent, last = state.seconds + now - last, now - last, now
                if run.log and not run.pending:
                    run.log.append(_line(done, run, held_out, spent))
                wish = _agree(stop, max_minutes is not None and now - started >= 60 * max_minutes, world)
                saved = _save(run, held_out) if wish or _is_due(state, config.checkpoint.every) else None
                if not run.pending:
                    yield Report(done, state.num_steps, state.seconds, state.tokens, held_out, saved)
                if wish:
                    break
        world.leave()
    if wish > 0 and (run.pending or state.step < state.num_steps):
        raise Interrupted(wish, f"stopped after step {state.step}; saved {folder_of(folder, state.step)}")


def _start_or_resume(config: RunConfig, folder: Path, device: torch.device, world: World) -> Running | None:
    """Everything before the loop; None where the run is finished."""
    world.first_does(lambda: enter(folder, config))
    newest = find_newest(folder, config, world)
    progress: Mapping[str, Any] = read_progress(newest) if newest else {"metrics_bytes": 0, "pending": None}
    if newest and progress["step"] == progress["num_steps"] and not progress["pending"]:
        return None
    prepared = prepare(config, folder, world)
    state = first_state(config, prepared.tokenizer.vocab_size, prepared.num_steps, device)
    if newest:
        _check_data(prepared, progress["data"], folder)
        restore(state, newest)
        if world.is_first:
            logger.info("going on from %s", newest)
    log = MetricsLog(folder / METRICS, progress["metrics_bytes"]) if world.is_first else None
    feed = Feed(prepared, world, ahead=device.type != "cpu")  # a CPU has no time to spare
    run = Running(folder, world, prepared, state, feed, log, _from_plain(progress["pending"]))
    if not newest:
        _save(run)
    return run


def find_newest(folder: Path, config: RunConfig, world: World) -> Path | None:
    """The newest whole checkpoint, None at the very beginning; says which newer ones are damaged.

    Where all are, nothing is done: to start over would be to lose them without a word.
    """
    newest, rejected = newest_verified(folder, config)
    world.barrier()  # everyone has looked before anything changes
    if world.is_first:
        for one in rejected:
            logger.warning("checkpoint %s is not used: %s", one.folder.name, one.reason)
    if newest:
        world.first_does(lambda: settle(folder, newest, config.checkpoint.keep))
    elif rejected or _has_lines(folder / METRICS):
        shown = "".join(f"\n    {one.folder.name}: {one.reason}" for one in rejected) or " is there any more"
        raise ModelError(
            f"{folder} was trained before, and no checkpoint can be used:{shown}",
            cure="--fresh to start over in a folder beside it, or put a checkpoint back from a copy",
        )
    return newest


def _has_lines(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def evaluate(
    state: State, prepared: Prepared, world: World, is_abandoned: Callable[[], bool] | None = None
) -> Summary | None:
    """How likely the held-out part is, by the policy and the dtype that `thetahat score` uses: all of it, exactly."""
    if prepared.held_out is None:
        return None
    state.model.eval()
    policy, stops = state.config.policy(), is_abandoned or (lambda: False)
    try:
        likelihoods = score_corpus(state.model, prepared.held_out, policy, world, state.device, stops)
    finally:
        state.model.train()
    return summarize(ledger_rows(likelihoods, prepared.held_out, policy))


def _evaluate_if_due(run: Running, done: StepReport, stop: Stop) -> tuple[Summary | None, StepReport | None]:
    """The evaluation if it is time for one; if somebody asks to stop meanwhile, the step waits for the next start."""
    if not _is_due(run.state, run.state.config.evaluation.every):
        return None, None
    try:
        return evaluate(run.state, run.prepared, run.world, lambda: stop.number > 0), None
    except Abandoned:
        return None, done


def _agree(stop: Stop, is_late: bool, world: World) -> int:
    """Why all ranks stop now: the number of a signal that one of them got, -1: it is late; 0: they go on."""
    reasons = {signal.SIGTERM: stop.number == signal.SIGTERM, signal.SIGINT: stop.number == signal.SIGINT, -1: is_late}
    votes = world.sum(torch.tensor(list(reasons.values()), dtype=torch.int64)).tolist()
    return next((int(reason) for reason, count in zip(reasons, votes, strict=True) if count), 0)


def _check_data(prepared: Prepared, then: list[str], folder: Path) -> None:
    """Exact resume needs the same text, to the byte."""
    if _data(prepared) != then:
        raise FolderError(
            f"{folder} was trained on other text: what its config names has changed since",
            cure="bring the text back as it was to go on, or --fresh to start with what is there now",
        )


def _data(prepared: Prepared) -> list[str]:
    return [corpus.fingerprint for corpus in (prepared.train, prepared.held_out) if corpus]


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


def _is_due(state: State, every: int) -> bool:
    """After the last step, and after each `every` (0: only then)."""
    return state.step == state.num_steps or (every > 0 and state.step % every == 0)


def _save(run: Running, held_out: Summary | None = None) -> Path | None:
    """Saves on the first rank; everyone learns whether it worked.

    Only a checkpoint that an uninterrupted run saves too can be the best.
    """
    state, keep = run.state, run.state.config.checkpoint.keep
    check_parameters(state)
    best = state.best_bits_per_byte
    if held_out and _is_due(state, state.config.checkpoint.every) and (best is None or held_out.bits_per_byte < best):
        state.best_bits_per_byte, state.best_step = held_out.bits_per_byte, state.step

    def write() -> Path:
        beside = {
            "metrics_bytes": run.log.settle() if run.log else 0,
            "data": _data(run.prepared),
            "pending": _to_plain(run.pending),
        }
        target = save(state, run.folder, run.prepared.tokenizer, beside)
        settle(run.folder, target, keep)
        return target

    return run.world.first_does(write)


def _to_plain(done: StepReport | None) -> dict[str, Any] | None:
    """A step as JSON holds it, to the bit."""
    if done is None:
        return None
    total = {"log_prob": done.total.log_prob.item(), "weight": done.total.weight.item()}
    return asdict(done) | {"total": total, "gradient_norm": done.gradient_norm.item()}


def _from_plain(plain: Mapping[str, Any] | None) -> StepReport | None:
    if plain is None:
        return None
    log_prob, weight, norm = (
        torch.tensor(value, dtype=torch.float64)
        for value in (plain["total"]["log_prob"], plain["total"]["weight"], plain["gradient_norm"])
    )
    total = Total(log_prob, weight)
    return StepReport(plain["step"], total, plain["num_tokens"], norm, plain["learning_rate_factor"])


def _line(done: StepReport, run: Running, held_out: Summary | None, seconds: float) -> dict[str, Any]:
    """One line of metrics.jsonl; `seconds` and `tokens_per_second` are the only fields that a repeated run changes."""
    line = {
        "step": done.step,
        "tokens": run.state.tokens,
        "log_likelihood_per_token": done.total.mean().item(),
        "gradient_norm": done.gradient_norm.item(),
        "learning_rate_factor": done.learning_rate_factor,
        "batch": run.feed.fingerprint(done.step - 1),
    }
    if held_out:
        line |= {f"held_out_{name}": value for name, value in held_out.to_dict().items()}
    return line | {"seconds": run.state.seconds, "tokens_per_second": done.num_tokens / seconds}
