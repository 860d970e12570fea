"""Everything before the loop: enters the folder of a run, and begins it, resumes it, or finds it finished."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from typing import Any

import torch

from thetahat.core.errors import FolderError, ModelError, StoppedError, ThetahatError
from thetahat.core.work.phases import phase
from thetahat.data.corpus.corpus import Corpus
from thetahat.data.corpus.subset import part_of_corpus
from thetahat.diagnosis.alarms.again import Again
from thetahat.diagnosis.alarms.alarm import Alarm
from thetahat.distribution import heartbeat
from thetahat.distribution.pieces import is_sharded
from thetahat.distribution.world import ALONE, World
from thetahat.model.stack import recompute
from thetahat.run.base import load_base, new_tokens, resolved
from thetahat.run.branch import inherit, parent_checkpoint, place, take_tokenizer
from thetahat.run.config import RunConfig
from thetahat.run.diagnosis.begin import begin_watch
from thetahat.run.diagnosis.preflight import preflight
from thetahat.run.diagnosis.room import recomputed_layers, tell_room
from thetahat.run.diagnosis.watch import Undone, Watch
from thetahat.run.feed import Feed
from thetahat.run.folder.checkpoint import Rejected, best_of, find_fault, restore, settle
from thetahat.run.folder.checks import write_checks
from thetahat.run.folder.files import all_checkpoints, read_progress, step_of
from thetahat.run.folder.folder import enter, has_begun, leave_nothing, note_beginning
from thetahat.run.folder.moved import run_of
from thetahat.run.folder.starts import is_environment_of_before
from thetahat.run.folder.verified import newest_verified
from thetahat.run.log.ledger import TrainingLedger
from thetahat.run.log.metrics import (
    HELD_OUT,
    METRICS,
    OF_DOCUMENTS,
    SOURCES,
    MetricsLog,
    evaluation_after,
    last_evaluation,
    read_last,
    steps_after,
)
from thetahat.run.log.rewinds import Rewind, comparable, last_made, note_rewind, read_rewinds, skipped_steps
from thetahat.run.prepare import Prepared, check_layout, prepare
from thetahat.run.state import State, first_model, state_with
from thetahat.run.track.sink import check_installed
from thetahat.run.writing.samples import Samples

logger = getLogger("thetahat")


@dataclass(slots=True)
class Running:
    """What the loop works with."""

    folder: Path
    world: World
    prepared: Prepared
    state: State
    feed: Feed
    log: MetricsLog | None  # on the first rank
    ledger: TrainingLedger
    watch: Watch | None  # None: nothing is compared with what is usual
    samples: Samples | None  # on the first rank, and on all that read the model together
    is_new: bool  # nothing was saved yet
    lacks_evaluation: bool  # whether the evaluation after the last step is due and not made yet
    evaluated: Corpus | None  # what evaluations score: all that is held out, or the part that is declared
    held_out_of: int | None  # documents that are held out, where that is a part; None: it is all


def check(config: RunConfig) -> RunConfig:
    """The config as this machine and its base fill it in; raises ConfigError for what it cannot have here.

    It is asked before ranks meet, and reads neither data nor parameters.
    """
    config = resolved(config)
    check_installed(config.track)
    check_layout(config)
    return config


def start_or_resume(config: RunConfig, folder: Path, device: torch.device, world: World) -> Running | None:
    """The run at its newest whole checkpoint, or at step 0; None if it is finished."""
    world.first_does(lambda: enter(folder, config))
    newest = find_newest(folder, config, world)
    progress: Mapping[str, Any] = read_progress(newest) if newest else _NOTHING
    lacks_evaluation = bool(newest) and world.any(world.is_first and _lacks_evaluation(folder, config, progress))
    if newest and progress["step"] == progress["num_steps"] and not lacks_evaluation:
        return None
    try:
        parent = None if newest else parent_checkpoint(config, folder)
        if parent:
            world.first_does(lambda: take_tokenizer(parent, folder))
        prepared = _placed(prepare(config, folder, world), newest, parent)
        tell_room(prepared, device, world)
        state = _state(prepared, device, newest, parent, world)
        recompute(state.model, recomputed_layers(prepared, device, world))
        if newest is None and config.diagnosis.preflight != "off":
            found = preflight(prepared, state, world)
            world.first_does(lambda: write_checks(folder, found))
        samples = _samples(prepared, state, folder, world)
    except ThetahatError:
        if world.is_first and not newest:
            leave_nothing(folder)
        raise
    if newest:
        state.best = best_of(folder, newest)
        if world.is_first:
            logger.info("going on from %s", newest)
    log, ledger, watch = _open(prepared, state, folder, world, newest)
    feed = Feed(prepared, world, ahead=device.type != "cpu")  # on a CPU it would slow the step down
    evaluated, held_out_of = _evaluated(prepared)
    if held_out_of is not None and world.is_first:
        part = (
            f"evaluations score {config.evaluation.max_documents:,} of {held_out_of:,} held-out documents, always these"
        )
        logger.info("%s: evaluation.max_documents=%d", part, config.evaluation.max_documents)
    return Running(
        folder,
        world,
        prepared,
        state,
        feed,
        log,
        ledger,
        watch,
        samples,
        newest is None,
        lacks_evaluation,
        evaluated,
        held_out_of,
    )


def _samples(prepared: Prepared, state: State, folder: Path, world: World) -> Samples | None:
    """What writes samples; where ranks hold the model together all of them write alike, and the first keeps it."""
    first = world.first_does(lambda: Samples(prepared, state, folder))
    if first is None and is_sharded(state.model):
        return Samples(prepared, state, folder, keeps=False)
    return first


def _open(
    prepared: Prepared, state: State, folder: Path, world: World, newest: Path | None
) -> tuple[MetricsLog | None, TrainingLedger, Watch | None]:
    """What a run writes to, cut back to the checkpoint at which it stands, and what watches over it."""
    config, progress = state.config, read_progress(newest) if newest else _NOTHING
    again = steps_after(folder / METRICS, progress["metrics_bytes"]) if newest else {}
    rewinds = read_rewinds(folder)
    # before it, all ranks have read what is cut now
    world.first_does(lambda: note_beginning(folder, config, state.step, is_new=newest is None))
    log = MetricsLog(folder / METRICS, progress["metrics_bytes"], state.step) if world.is_first else None
    ledger = TrainingLedger(folder, config, prepared.train, progress["ledger"])
    world.first_does(ledger.settle)
    watch = begin_watch(prepared, state, folder, world, progress.get("diagnosis"))
    if watch:
        is_exact = state.device.type == "cpu" or config.deterministic
        is_same = is_environment_of_before(folder)
        watch.again = Again(comparable(folder, again), is_exact=is_exact, is_same=is_same)
        watch.undone = Undone(skipped_steps(folder, config), len(rewinds))
    return log, ledger, watch


def go_back(run: Running, alarms: Sequence[Alarm]) -> None:
    """Writes down which updates these alarms undo, and goes on from the newest checkpoint without them.

    What is written decides, also if the process is killed before anything else is done: whoever goes on in the folder
    does what this does. Raises StoppedError where no checkpoint is old enough.
    """
    state, folder, world = run.state, run.folder, run.world
    heartbeat.at("rewind")
    world.first_does(lambda: _decide(run, alarms))
    newest = find_newest(folder, state.config, world)
    assert newest
    progress = read_progress(newest)
    run.lacks_evaluation = world.any(world.is_first and _lacks_evaluation(folder, state.config, progress))
    restore(state, newest)
    state.best = best_of(folder, newest)
    if run.watch:
        run.watch.close()
    run.log, run.ledger, run.watch = _open(run.prepared, state, folder, world, newest)
    run.samples = _samples(run.prepared, state, folder, world)


def _decide(run: Running, alarms: Sequence[Alarm]) -> None:
    config, step = run.state.config, alarms[0].step
    undone = last_made(step, config.diagnosis.rewind_batches, config.first_step, skipped_steps(run.folder, config))
    older = [folder for folder in all_checkpoints(run.folder) if step_of(folder) < undone[0]]
    target = next((folder for folder in reversed(older) if find_fault(folder, config) is None), None)
    if target is None:
        raise StoppedError(
            f"{'; '.join(map(str, alarms))}; no checkpoint from before step {undone[0]:,} is whole to go back to",
            cure="a checkpoint put back from a copy, and the same command again",
        )
    rewind = Rewind(step, step_of(target), undone, tuple(alarms))
    logger.warning("%s: %s", "; ".join(map(str, alarms)), rewind)
    note_rewind(run.folder, rewind)


def standing_at(
    prepared: Prepared, device: torch.device, checkpoint: Path | None, parent: Path | None
) -> tuple[Prepared, State]:
    """What is prepared, at the position in the data that a checkpoint has noted, and the state of that checkpoint.

    Without one, the position and the state in which a run begins: those of its parent's checkpoint, or of step 0.
    """
    placed = _placed(prepared, checkpoint, parent)
    return placed, _state(placed, device, checkpoint, parent, ALONE)


def _placed(prepared: Prepared, checkpoint: Path | None, parent: Path | None) -> Prepared:
    if parent:
        return place(prepared, parent)
    if checkpoint is None:
        return prepared
    progress = read_progress(checkpoint)
    check_data(prepared, progress["data"], run_of(checkpoint))
    return _going_on(prepared, progress)


def _evaluated(prepared: Prepared) -> tuple[Corpus | None, int | None]:
    """What the evaluations of a run score, and where that is a part of it, how many documents are held out."""
    held_out, most = prepared.held_out, prepared.config.evaluation.max_documents
    if held_out is None or most is None or (part := part_of_corpus(held_out, most)) is held_out:
        return held_out, None
    return part, held_out.num_clusters


def _state(prepared: Prepared, device: torch.device, newest: Path | None, parent: Path | None, world: World) -> State:
    """The state of the newest checkpoint, of the parent's, or of step 0."""
    config, num_labels, vocab_size = prepared.config, len(prepared.labels), prepared.tokenizer.vocab_size
    is_loaded = newest is not None or parent is not None
    draws = not is_loaded or config.adapter is not None  # else all parameters are in the checkpoint
    with phase("building the model"):
        model = first_model(config, vocab_size, device, num_labels, world=world, draws=draws)
        state = state_with(model, config, prepared.num_steps, device)
    if not is_loaded and (told := new_tokens(config, prepared.tokenizer)):
        logger.info("%s", told)
    if config.base and (not is_loaded or config.adapter):
        load_base(state.model, config, num_labels)
    with phase("resuming"):
        if newest:
            restore(state, newest)
        elif parent:
            inherit(state, prepared, parent)
    return state


def _going_on(prepared: Prepared, progress: Mapping[str, Any]) -> Prepared:
    """What is prepared, for the step, the targets and the position in the data that a checkpoint has noted."""
    standing = progress.get("standing", {"position": progress["step"]})
    return prepared.from_step(progress["step"], progress["tokens"], standing["position"])


_NOTHING: Mapping[str, Any] = {"metrics_bytes": 0, "ledger": {}}


def _lacks_evaluation(folder: Path, config: RunConfig, progress: Mapping[str, Any]) -> bool:
    """Whether an evaluation was due after the step of a checkpoint and is not in the log."""
    is_new = progress["step"] > config.first_step
    is_due = config.watch.evaluates(progress["step"], progress["num_steps"]) and config.data.rules != {"none"}
    return is_new and is_due and evaluation_after(folder / METRICS, progress["step"]) is None


def find_newest(folder: Path, config: RunConfig, world: World) -> Path | None:
    """The newest whole checkpoint, None at the very beginning; newer ones that are not whole are set aside.

    Raises ModelError if none is whole: starting over would lose them silently. Raises FolderError where ranks see
    different ones: they would go on from different parameters.
    """
    newest, rejected = newest_verified(folder, config, world)
    _agree_on(newest, folder, world)  # and all ranks have looked before anything changes
    if newest:
        world.first_does(lambda: _go_on_from(newest, rejected, folder, config.checkpoint.keep))
    elif has_begun(folder):
        shown = "".join(f"\n    {one.folder.name}: {one.reason}" for one in rejected) or " is there any more"
        raise ModelError(
            f"{folder} was trained before, and no checkpoint can be used:{shown}",
            cure="--fresh to start over in a folder beside it, or put a checkpoint back from a copy",
        )
    return newest


def _agree_on(newest: Path | None, folder: Path, world: World) -> None:
    mine = read_progress(newest)["step"] if newest else -1
    first = int(world.sum_of_all(torch.tensor(mine if world.is_first else 0)).item())
    if world.any(mine != first):
        seen = newest.name if newest else "no checkpoint"
        raise FolderError(
            f"the ranks do not go on from one checkpoint of {folder}: rank {world.rank} sees {seen}",
            cure="--out on a file system that all nodes share, under the same path on each",
        )


def _go_on_from(newest: Path, rejected: list[Rejected], folder: Path, keep: int) -> None:
    for one in rejected:
        one.set_aside()
    settle(folder, newest, keep, deep=True)


def check_data(prepared: Prepared, then: list[str], folder: Path) -> None:
    """Raises FolderError unless the text is the same, to the byte: an exact resume needs that."""
    if fingerprints(prepared) != then:
        raise FolderError(
            f"{folder} was trained on other text: what its config names has changed since",
            cure="bring the text back as it was to go on, or --fresh to start with what is there now",
        )


def fingerprints(prepared: Prepared) -> list[str]:
    """The fingerprints of the training part and of the held-out part."""
    return [corpus.fingerprint for corpus in (prepared.train, prepared.held_out) if corpus]


def corpora_noted(prepared: Prepared) -> list[dict[str, Any]]:
    """The same with their sizes, for whoever asks when the text is gone."""
    return [
        {"fingerprint": corpus.fingerprint, "documents": corpus.num_documents, "tokens": corpus.num_tokens}
        for corpus in (prepared.train, prepared.held_out)
        if corpus
    ]


def result(folder: Path, config: RunConfig) -> dict[str, Any]:
    """The result of a run: its last metrics and its newest whole checkpoint."""
    newest, _ = newest_verified(folder, resolved(config))
    progress = read_progress(newest) if newest else {"step": 0, "tokens": 0, "seconds": 0.0}
    evaluation, names = last_evaluation(folder / METRICS), ["bits_per_byte"]
    if config.objective.factorization.layout.predicts_label:
        names = ["nats_per_label", "accuracy", "accuracy_ci95", "macro_f1"]
    held_out = {f"{HELD_OUT}{name}": evaluation.get(f"{HELD_OUT}{name}") for name in (*names, "num_documents")}
    return {
        "step": progress["step"],
        "tokens": progress["tokens"],
        "log_likelihood_per_token": read_last(folder / METRICS, "log_likelihood_per_token"),
        **held_out,
        OF_DOCUMENTS: evaluation.get(OF_DOCUMENTS),
        f"{HELD_OUT}step": evaluation.get("step"),
        **({SOURCES: _of_sources(folder / METRICS, evaluation)} if config.data.sources else {}),
        "seconds": progress["seconds"],
        "checkpoint": str(newest) if newest else None,
    }


def _of_sources(path: Path, evaluation: Mapping[str, Any]) -> dict[str, dict[str, int | float]]:
    """By source, what the newest step says of it, and what the newest evaluation found on what is held out of it."""
    held_out: Mapping[str, float] = evaluation.get(f"{HELD_OUT}{SOURCES}") or {}
    read: Mapping[str, dict[str, int | float]] = read_last(path, SOURCES) or {}
    value = {name: {f"{HELD_OUT}value": held_out[name]} for name in held_out}
    return {name: said | value.get(name, {}) for name, said in read.items()}
