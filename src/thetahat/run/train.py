"""The training loop is a generator: `for report in train(config): ...`."""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from thetahat.core import store
from thetahat.core.batch import Batch
from thetahat.core.errors import NonFiniteError, StoppedError
from thetahat.core.work.eager import as_written
from thetahat.core.work.phases import phase
from thetahat.core.work.regions import DATA, region
from thetahat.distribution import heartbeat
from thetahat.distribution.world import World, join_world
from thetahat.ledger.evaluated import Evaluated, better
from thetahat.ledger.summary import Summary, summarize
from thetahat.objective.log_prob import Told
from thetahat.objective.objective import Note
from thetahat.run.blame.blame import check_parameters
from thetahat.run.card import card_of
from thetahat.run.config import RunConfig
from thetahat.run.diagnosis.watch import GoingBack
from thetahat.run.folder.checkpoint import save, settle
from thetahat.run.folder.files import folder_of
from thetahat.run.folder.folder import choose_folder
from thetahat.run.log.report import Report, evaluation_line, step_line
from thetahat.run.log.rewinds import SKIP_STEPS, skipped_steps
from thetahat.run.log.samples import Sample
from thetahat.run.machine import set_up
from thetahat.run.signals import STOPPING, Interrupted, Stop, listening
from thetahat.run.start import Running, check, corpora_noted, fingerprints, go_back, start_or_resume
from thetahat.run.state import State
from thetahat.run.step import Judge, Skipping, StepReport, step
from thetahat.run.track.child import tracking
from thetahat.scoring.likelihood import Abandoned, ScoringHooks, ledger_rows, score_corpus

Shows = Callable[[int, int], None]


def train(
    config: RunConfig,
    folder: Path | None = None,
    *,
    fresh: bool = False,
    max_minutes: float | None = None,
    evaluating: Shows | None = None,
) -> Iterator[Report]:
    """Trains, or goes on training: the same config in the same folder continues from its newest whole checkpoint.

    A finished run yields nothing. Step 0 is saved before step 1, so that there is always a checkpoint; of a run whose
    config comes from `branch`, the step that it begins from. `max_minutes` include the preparation.
    While what is held out is scored, `evaluating` is told how many of its targets are done, and of how many.
    """
    started = time.perf_counter()
    checked = check(config)
    folder, config = choose_folder(config, folder, fresh=fresh), checked
    device, world = set_up(config), join_world(config.device, config.mesh)
    with ExitStack() as held:
        held.enter_context(heartbeat.naming_lost_ranks(config.heartbeat))
        world.first_does(lambda: store.make_folder(folder.parent))
        world.first_does(lambda: held.enter_context(store.holding(folder)))
        run = start_or_resume(config, folder, device, world)
        if run is None:
            return world.leave()
        held.callback(lambda: run.watch.close() if run.watch else None)
        state, watch, wish = run.state, config.watch, 0
        if run.is_new:
            _save(run)  # step 0, or that of the parent
        ending = held.enter_context(tracking(run.log is not None, config, folder, state.step))
        clock = Clock(state)
        with listening() as stop:
            while run.lacks_evaluation or state.step < state.num_steps:
                done, held_out = None, None
                if not run.lacks_evaluation:
                    try:
                        done = make_step(run, clock)
                    except GoingBack as found:
                        go_back(run, found.alarms)
                        clock.tick()
                        continue
                if run.lacks_evaluation:
                    hooks = ScoringHooks(stops=lambda: stop.number > 0, shows=evaluating or (lambda done, total: None))
                    held_out = _evaluate(run, clock, hooks, is_saved=done is None)
                samples = run.samples() if run.samples and not run.lacks_evaluation else ()
                _stop(run)
                if run.ledger.is_full(state.step):
                    run.ledger.write(state.step, world)
                is_late = max_minutes is not None and time.perf_counter() - started >= 60 * max_minutes
                wish = _agree(stop, is_late, world)
                is_due = done is not None and (wish or watch.saves(state.step, state.num_steps))
                saved = _save(run) if is_due else None
                yield _report(run, clock, done, held_out, saved, samples)
                if wish:
                    break
            world.leave()  # while signals are heard: torchrun sends one to the ranks that are left
        ending.is_finished = not run.lacks_evaluation and state.step == state.num_steps
    if wish > 0 and (run.lacks_evaluation or state.step < state.num_steps):
        raise Interrupted(wish, f"stopped after step {state.step}; saved {folder_of(folder, state.step)}")


def _report(
    run: Running,
    clock: "Clock",
    done: StepReport | None,
    held_out: Summary | None,
    saved: Path | None,
    samples: tuple[Sample, ...],
) -> Report:
    """What an iteration did, with its alarms and the time that an evaluation took."""
    state, alarms = run.state, tuple(run.watch.alarms) if run.watch else ()
    so_far, spent = (state.seconds, state.tokens), clock.take_evaluation()
    return Report(done, state.num_steps, *so_far, held_out, saved, run.held_out_of, spent, alarms, samples)


def make_step(run: Running, clock: "Clock") -> StepReport:
    """The next step of a run: its data, its update with what watches over it, and its line in the log.

    Raises GoingBack where alarms undo updates.
    """
    with region(DATA):
        batches = run.feed.batches(run.state.step)
    compiles = run.state.config.compile and not clock.has_ticked
    with _watched(run, batches) as (note, judge), phase("compiling blocks") if compiles else nullcontext():
        done = step(run.state, batches, run.world, note, judge)
    _log_step(run, done, clock)
    return done


@contextmanager
def _watched(run: Running, batches: Sequence[Batch]) -> Generator[tuple[Note | None, Judge | None]]:
    """What notes the tokens of a step, and what judges its update.

    Where an alarm ends the run it is written down first, and what was trained before it is saved.
    """
    state, watch = run.state, run.watch
    heartbeat.at("forward and backward", state.step + 1, "stall")
    note = run.ledger.note(state.step + 1)
    if watch is None:
        yield note, Skipping(state.config.skip_steps) if state.config.skip_steps else None
        return
    watch.begin(batches)

    def both(batch: Batch, told: Told) -> None:
        watch.note(batch, told)
        if note:
            note(batch, told)

    try:
        yield both, watch
    except NonFiniteError as error:
        watch.write(error.what, error.module)
        raise
    except GoingBack:
        watch.write()  # for who follows the file, before it is cut
        raise
    except StoppedError:
        run.ledger.forget(state.step)
        _save_once(run)
        watch.write()  # behind what the checkpoint counts: whoever goes on makes the step again
        raise
    watch.end(batches)
    watch.write()


def _stop(run: Running) -> None:
    """Saves and raises StoppedError where an alarm that was found after this step, or its evaluation, stops the run."""
    try:
        if run.watch:
            run.watch.stop()
    except StoppedError:
        _save_once(run)
        raise


def _save_once(run: Running) -> None:
    if not folder_of(run.folder, run.state.step).is_dir():
        _save(run)


class Clock:
    """Measures time, and adds it to the seconds of a run."""

    def __init__(self, state: State) -> None:
        self.state, self.last, self.evaluation, self.has_ticked = state, time.perf_counter(), 0.0, False

    def tick(self) -> float:
        """Seconds since the last call."""
        now = time.perf_counter()
        spent, self.last, self.has_ticked = now - self.last, now, True
        self.state.seconds += spent
        return spent

    def take_evaluation(self) -> float:
        """The seconds of the evaluation of this iteration, if there was one."""
        spent, self.evaluation = self.evaluation, 0.0
        return spent


def evaluate(run: Running, hooks: ScoringHooks) -> tuple[Summary | None, dict[str, float]]:
    """The likelihood of what evaluations score, by the policy and the dtype that `thetahat score` uses.

    Of a mixture also the value of each source.
    """
    state, labels = run.state, run.prepared.labels
    if run.evaluated is None:
        return None, {}
    state.model.eval()
    policy = card_of(state.config, labels).policy(state.config.inference)
    on_cpu = state.device.type == "cpu"  # where what is scored lies in rows of many lengths, each a graph of its own
    with _averaged(state), as_written(state.model) if on_cpu else nullcontext():
        try:
            likelihoods = score_corpus(state.model, run.evaluated, policy, run.world, state.device, hooks)
        finally:
            state.model.train()
    rows = ledger_rows(likelihoods, run.evaluated, labels)
    names = sorted({row.source for row in rows}) if state.config.data.sources else []
    return summarize(rows), {name: summarize([row for row in rows if row.source == name]).value for name in names}


@contextmanager
def _averaged(state: State) -> Generator[None]:
    """The moving average in the place of the parameters, where evaluations are of it; these are back afterwards."""
    if state.average is None or not state.config.evaluation.ema:
        yield
        return
    state.average.swap()
    try:
        yield
    finally:
        state.average.swap()


def _log_step(run: Running, done: StepReport, clock: Clock) -> None:
    """Logs a step, and notes whether an evaluation is due after it."""
    state = run.state
    heartbeat.at("log", state.step)
    spent = clock.tick()
    if run.log or (run.watch and run.watch.again):  # else the host need not wait for the numbers
        read = run.prepared.sources(done.step)
        batch, waited = run.feed.fingerprint(done.step - 1), run.feed.waited
        line = step_line(done, state, read, batch=batch, seconds=spent, waited=waited)
        if run.watch:
            run.watch.logged(line)
            line |= run.watch.signals()
        elif done.is_skipped:
            line["skipped"] = [SKIP_STEPS]
        if run.log:
            run.log.append(line)
    run.lacks_evaluation = run.prepared.held_out is not None and state.config.watch.evaluates(
        state.step, state.num_steps
    )


def _evaluate(run: Running, clock: Clock, hooks: ScoringHooks, *, is_saved: bool) -> Summary | None:
    """Makes the evaluation that is due, and logs it; None if a signal comes meanwhile, and then it is still due.

    Only a checkpoint that an uninterrupted run saves too can be the best.
    """
    state = run.state
    heartbeat.at("evaluation", state.step)
    try:
        held_out, sources = evaluate(run, hooks)
    except Abandoned:
        return None
    finally:
        clock.evaluation = clock.tick()
    run.lacks_evaluation = False
    if held_out is None:
        return None
    if run.log:
        run.log.append(evaluation_line(held_out, state, run.held_out_of, sources))
        run.log.settle()
    if run.watch:
        run.watch.evaluated(state.step, held_out)
    if state.config.watch.saves(state.step, state.num_steps):
        documents = 0 if run.held_out_of is None else state.config.evaluation.max_documents or 0
        state.best = better(state.best, Evaluated(held_out.value, state.step, documents))
    if is_saved:
        newest, keep = folder_of(run.folder, state.step), state.config.checkpoint.keep
        run.world.first_does(lambda: settle(run.folder, newest, keep))
    return held_out


def _agree(stop: Stop, is_late: bool, world: World) -> int:
    """Whether all ranks stop now: the number of a signal that one of them got, -1: the time is over, 0: they go on."""
    reasons = {**{int(number): stop.number == number for number in STOPPING}, -1: is_late}
    votes = world.sum_of_all(torch.tensor(list(reasons.values()), dtype=torch.int64)).tolist()
    return next((int(reason) for reason, count in zip(reasons, votes, strict=True) if count), 0)


def _save(run: Running) -> Path | None:
    """Saves, by all ranks together; if that fails on one, all raise. The folder, on the first rank."""
    state, keep = run.state, run.state.config.checkpoint.keep
    heartbeat.at("save", state.step)
    check_parameters(state)
    run.ledger.write(state.step, run.world)

    def beside() -> dict[str, Any]:
        return {
            "metrics_bytes": run.log.settle() if run.log else 0,
            "data": fingerprints(run.prepared),
            "corpora": corpora_noted(run.prepared),
            "labels": run.prepared.labels,
            "ledger": run.ledger.files,
            SKIP_STEPS: sorted(one for one in skipped_steps(run.folder, state.config) if one <= state.step),
            "standing": run.prepared.standing(state.step),
            "diagnosis": run.watch.to_dict() if run.watch else None,
        }

    target = save(state, run.folder, run.prepared.tokenizer, beside, run.world)
    run.world.first_does(lambda: settle(run.folder, target, keep))
    return target if run.world.is_first else None
