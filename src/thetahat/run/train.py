"""The training loop is a generator: `for report in train(config): ...`."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import torch

from thetahat.core import store
from thetahat.distribution.world import World, join_world
from thetahat.ledger.summary import Summary, summarize
from thetahat.run.base import resolved
from thetahat.run.blame import check_parameters
from thetahat.run.config import RunConfig, set_up
from thetahat.run.folder.checkpoint import folder_of, save, settle
from thetahat.run.folder.folder import choose_folder
from thetahat.run.log.report import Report, metrics_line, to_plain
from thetahat.run.prepare import Prepared
from thetahat.run.signals import Interrupted, Stop, listening
from thetahat.run.start import Running, fingerprints, start_or_resume
from thetahat.run.state import State
from thetahat.run.step import StepReport, step
from thetahat.scoring.likelihood import Abandoned, Watch, ledger_rows, score_corpus


def train(
    config: RunConfig, folder: Path | None = None, *, fresh: bool = False, max_minutes: float | None = None
) -> Iterator[Report]:
    """Trains, or goes on training: the same config in the same folder continues from its newest whole checkpoint.

    A finished run yields nothing. Step 0 is saved before step 1, so that from then on there is always a checkpoint.
    """
    folder, config = choose_folder(config, folder, fresh=fresh), resolved(config)
    device, world = set_up(config), join_world(config.device)
    with ExitStack() as held:
        world.first_does(lambda: held.enter_context(store.holding(folder)))
        run = start_or_resume(config, folder, device, world)
        if run is None:
            return world.leave()
        state, wish = run.state, 0
        if run.is_new:
            _save(run)  # step 0
        started = last = time.perf_counter()
        with listening() as stop:
            while run.pending or state.step < state.num_steps:
                done = run.pending or step(state, run.feed.batches(state.step), world, run.ledger.note(state.step + 1))
                held_out, run.pending = _evaluate_if_due(run, done, stop)
                now = time.perf_counter()
                state.seconds, spent, last = state.seconds + now - last, now - last, now
                if run.log and not run.pending:
                    batch = run.feed.fingerprint(done.step - 1)
                    run.log.append(metrics_line(done, state, held_out, batch=batch, seconds=spent))
                if run.ledger.is_full(state.step):
                    run.ledger.write(state.step, world)
                wish = _agree(stop, max_minutes is not None and now - started >= 60 * max_minutes, world)
                saved = _save(run, held_out) if wish or _is_due(state, config.checkpoint.every) else None
                if not run.pending:
                    yield Report(done, state.num_steps, state.seconds, state.tokens, held_out, saved)
                if wish:
                    break
        world.leave()
    if wish > 0 and (run.pending or state.step < state.num_steps):
        raise Interrupted(wish, f"stopped after step {state.step}; saved {folder_of(folder, state.step)}")


def evaluate(
    state: State, prepared: Prepared, world: World, is_abandoned: Callable[[], bool] | None = None
) -> Summary | None:
    """How likely the held-out part is, by the policy and the dtype that `thetahat score` uses: all of it, exactly."""
    if prepared.held_out is None:
        return None
    state.model.eval()
    policy, stops = state.config.policy(), is_abandoned or (lambda: False)
    try:
        likelihoods = score_corpus(state.model, prepared.held_out, policy, world, state.device, Watch(stops=stops))
    finally:
        state.model.train()
    return summarize(ledger_rows(likelihoods, prepared.held_out))


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
    run.ledger.write(state.step, run.world)

    def write() -> Path:
        beside = {
            "metrics_bytes": run.log.settle() if run.log else 0,
            "data": fingerprints(run.prepared),
            "labels": run.prepared.labels,
            "pending": to_plain(run.pending),
            "ledger": run.ledger.files,
        }
        target = save(state, run.folder, run.prepared.tokenizer, beside)
        settle(run.folder, target, keep)
        return target

    return run.world.first_does(write)
