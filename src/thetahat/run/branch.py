"""Branching: a new run from the whole state of another's checkpoint, under a config that differs from its own."""

from collections.abc import Mapping, Sequence
from logging import getLogger
from pathlib import Path
from shlex import quote
from typing import Any

from msgspec.structs import replace

from thetahat.core import store
from thetahat.core.config import override
from thetahat.core.errors import ConfigError, ModelError
from thetahat.core.plain import counted
from thetahat.data.tokens.roles import ROLES
from thetahat.data.tokens.tokenizer import TOKENIZER
from thetahat.ledger.policy import same_question
from thetahat.optimization.schedule import learning_rate_factor
from thetahat.run.card import card_of
from thetahat.run.config import FIXED, FREE, ParentConfig, RunConfig, changed_keys, differences, is_fixed
from thetahat.run.folder.checkpoint import best_of, load_average, load_parameters
from thetahat.run.folder.config import read_config
from thetahat.run.folder.files import OPTIMIZER, STATE, is_run, kind_of, read_progress
from thetahat.run.folder.find import find_checkpoint, find_parent
from thetahat.run.folder.moved import run_of
from thetahat.run.folder.tensors import load_tensors
from thetahat.run.prepare import Prepared, special_tokens
from thetahat.run.state import State

_OF_READING = ("train", "held_out", "columns", "split_on", "unsupervised", "on_bad_record", "labels")
"""Keys of `data` that say where text comes from and how it is read: the corpus and its fingerprint tell of them."""

logger = getLogger("thetahat")


def branch(name: str, changes: Sequence[str] = ()) -> RunConfig:
    """The config of a run that begins from the whole state of a checkpoint: RUN, RUN@STEP or RUN@best.

    It is the config of that run with the KEY=VALUE `changes` and its `parent`; train it in a folder of its own. Model,
    optimizer, step, targets, seconds and the position in the data go on. Schedules are functions of the step, so the
    new one is followed as if it had been the old one. Raises ConfigError for a change that the state does not fit:
    the shape of the model, its vocabulary, its adapter, its base.
    """
    folder = find_checkpoint(name, with_optimizer=True)
    if not {OPTIMIZER, STATE} <= set(map(kind_of, store.names(folder))):
        cure = f"thetahat train {quote(name)} --out DIR, which starts from its parameters"
        raise ModelError(f"{folder} has no state of a run, only parameters", cure=cure)
    theirs, step = read_config(folder), read_progress(folder)["step"]
    if not theirs.data.sources and not any(change.startswith("data.train=") for change in changes):
        becomes_mixture = any(change.startswith("data.sources.") for change in changes)
        changes = ["data.train=", *changes] if becomes_mixture else changes  # a mixture takes its place
    ours = override(theirs, changes)
    _refuse_fixed(ours, theirs, name)
    if ours.max_steps <= step:
        raise ConfigError(
            f"{name} has made {step} updates, and max_steps={ours.max_steps}: nothing is left to train",
            cure=f"max_steps={2 * step or 1}, or {quote(run_of(folder).as_posix())}@STEP of an earlier checkpoint",
        )
    parent = ParentConfig(
        run=run_of(folder).as_posix(),
        step=step,
        digest=store.digest_file(folder / store.MANIFEST)[:16],
        changes=tuple(differences(ours, theirs)),
    )
    return replace(ours, parent=parent)


def _refuse_fixed(ours: RunConfig, theirs: RunConfig, name: str) -> None:
    if fixed := [key for key in changed_keys(ours, theirs) if is_fixed(key)]:
        raise ConfigError(
            f"{fixed[0]} cannot change by branching: the parameters of {name} would not fit",
            allowed=f"everything but {', '.join(FIXED)}; {', '.join(FREE)} may change",
            cure=f"thetahat train base={quote(name)} {fixed[0]}=... --out DIR, where a base allows it",
        )


def parent_checkpoint(config: RunConfig, folder: Path) -> Path | None:
    """The verified checkpoint that a run in `folder` begins from; None where it has no parent."""
    if config.parent is None:
        return None
    checkpoint = find_parent(config.parent, folder)
    store.verify(checkpoint)
    return checkpoint


def take_tokenizer(checkpoint: Path, folder: Path) -> None:
    """Copies the tokenizer of the parent into the folder of a run that is about to begin."""
    for name in (TOKENIZER, ROLES):
        if (checkpoint / name).is_file():
            store.write_text(folder / name, (checkpoint / name).read_text(encoding="utf-8"))


def place(prepared: Prepared, checkpoint: Path) -> Prepared:
    """What is prepared, at the position in the data at which the branch goes on.

    In the same order of the same text these are the rows that the parent would have read next; where batches have
    another size, from the batch that holds the first of them. In any other order it is the first epoch that the
    parent had not begun. A mixture has one epoch, which does not end: another mixture goes on behind as many rows of
    it, and after data that were none it is read from its beginning.
    """
    ours, theirs, progress = prepared.config, read_config(checkpoint), read_progress(checkpoint)
    _refuse_unfit(prepared, progress)
    standing = progress.get("standing", {"position": progress["step"], "epoch": 0, "row": 0})
    epoch, row, is_same_text = standing["epoch"], standing["row"], prepared.train.fingerprint == progress["data"][0]
    if is_same_text and _order_of(ours) == _order_of(theirs):
        if ours.batch_size == theirs.batch_size:
            position, how = standing["position"], "where the parent stopped"
        else:
            position, again = _first_batch(prepared, epoch) + row // ours.batch_size, row % ours.batch_size
            how = f"where the parent stopped, {counted(again, 'row')} of it once more" if again else "where it stopped"
    elif ours.data.sources:
        position = row // ours.batch_size if theirs.data.sources else 0
        how = "in another mixture, behind as many rows" if theirs.data.sources else "a mixture, from its beginning"
    else:
        epoch += row > 0
        position, how = _first_batch(prepared, epoch), f"in another order, from the beginning of epoch {epoch + 1}"
    placed = prepared.from_step(progress["step"], progress["tokens"], position)
    if placed.num_steps <= progress["step"]:
        reached = f"max_tokens={ours.max_tokens} were reached by step {progress['step']}"
        raise ConfigError(f"{reached}: nothing is left to train", cure="more of them, or max_tokens=none")
    logger.info("data: %s (global batch %d)", how, position)
    return placed


def _first_batch(prepared: Prepared, epoch: int) -> int:
    return sum(map(prepared.order.num_batches, range(epoch)))


def _order_of(config: RunConfig) -> tuple[Any, ...]:
    """All that the order of the rows of one corpus depends on."""
    neutral = type(config.data)()
    return config.seed, replace(config.data, **{name: getattr(neutral, name) for name in _OF_READING})


def _refuse_unfit(prepared: Prepared, progress: Mapping[str, Any]) -> None:
    """Raises ConfigError for new data or a new objective that the parent's vocabulary or head does not fit."""
    lacking = [name for name in special_tokens(prepared.config) if name not in prepared.tokenizer.special]
    if lacking:
        raise ConfigError(
            f"this config needs the special token {lacking[0]}, which the parent's vocabulary does not have",
            cure="base=RUN --out DIR in place of --branch RUN: it adds special tokens",
        )
    if list(prepared.labels) != (labels := list(progress["labels"])):
        raise ConfigError(
            f"the labels are {', '.join(prepared.labels)}, and the parent has a head over {', '.join(labels)}",
            cure=f"data.labels={labels}",
        )


def inherit(state: State, prepared: Prepared, checkpoint: Path) -> None:
    """Loads the whole state of the parent into that of a branch; what cannot go on is said."""
    theirs, progress = read_config(checkpoint), read_progress(checkpoint)
    try:
        load_parameters(state.model, checkpoint)
    except ModelError as error:
        raise ConfigError(f"the parent's parameters do not fit this config: {error.what}", cure="base=RUN") from error
    anew = state.optimizer.adopt_state(load_tensors(checkpoint / OPTIMIZER))
    state.step, state.tokens, state.seconds = progress["step"], progress["tokens"], progress["seconds"]
    load_average(state, checkpoint)
    ours_of, theirs_of = (card_of(one, prepared.labels).policy(one.inference) for one in (state.config, theirs))
    is_same_text = [corpus.fingerprint for corpus in (prepared.held_out,) if corpus] == progress["data"][1:]
    is_same_model = state.config.evaluation.ema == theirs.evaluation.ema
    if is_same_text and is_same_model and same_question(ours_of, theirs_of, is_whole=False):
        state.best = best_of(run_of(checkpoint), checkpoint)
    else:
        logger.info("best so far: none, since what is held out, or how it is scored, is another")
    if anew:
        more = f" and {len(anew) - 3} more" if len(anew) > 3 else ""
        logger.info("optimizer: a new state for %s%s; the others' goes on", ", ".join(anew[:3]), more)
    _tell_of_rate(state, theirs, progress["num_steps"])


def _tell_of_rate(state: State, theirs: RunConfig, num_steps: int) -> None:
    """Logs a learning rate that is not what the parent's would have been at this step."""
    before = learning_rate_factor(theirs.optimization.schedule, state.step, num_steps)
    after = learning_rate_factor(state.config.optimization.schedule, state.step, state.num_steps)
    if before != after:
        logger.info("learning rate: %.4g of its peak now, %.4g by the parent's schedule", after, before)


def begun_branch(folder: Path, name: str, changes: Sequence[str]) -> RunConfig | None:
    """The config, with these changes, of a branch of the run `name` that lies in `folder` already; None if none does.

    So the same command goes on, also where the parent has newer checkpoints now, or is gone.
    """
    if not is_run(folder) or (parent := read_config(folder).parent) is None:
        return None
    run, at, which = name.rpartition("@")
    step = which if at and which.isdecimal() else str(parent.step)
    if Path(run if at else name).name != Path(parent.run).name or int(step) != parent.step:
        return None
    return override(read_config(folder), changes)
