"""Checkpoints: folders with the digest of every file, published by rename and verified when loaded; no pickle."""

import os
import time
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from typing import Any, Literal

import torch
from msgspec.structs import replace
from torch import Tensor

from thetahat.core import store
from thetahat.core.config import from_toml, to_toml
from thetahat.core.errors import ConfigError, DamagedError, ModelError, naming_full_disk
from thetahat.data.config import ChatConfig
from thetahat.data.tokens.roles import ROLES
from thetahat.data.tokens.tokenizer import TOKENIZER, Tokenizer
from thetahat.distribution.pieces import fill
from thetahat.distribution.world import ALONE, World
from thetahat.interop.made import metas
from thetahat.ledger.evaluated import Evaluated, better
from thetahat.model.adapters.lora import is_adapted
from thetahat.model.build import LanguageModel
from thetahat.run.card import Card, card_of
from thetahat.run.config import InferenceConfig, RunConfig, differences, digest
from thetahat.run.folder.config import read_config
from thetahat.run.folder.files import (
    AVERAGE,
    CARD,
    CONFIG,
    MODEL,
    OPTIMIZER,
    STATE,
    all_checkpoints,
    best_in,
    folder_of,
    read_progress,
    step_of,
)
from thetahat.run.folder.moved import run_of
from thetahat.run.folder.tensors import load_tensors, write_tensors
from thetahat.run.log.metrics import METRICS, evaluation_after
from thetahat.run.log.rewinds import SKIP_STEPS, furthest_back, skipped_steps
from thetahat.run.state import State

logger = getLogger("thetahat")


Kind = Literal["damaged", "misplaced", "undone"]
"""Why a checkpoint cannot be used; misplaced: whole, and of another config or step."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """A checkpoint that cannot be used, and why."""

    folder: Path
    kind: Kind
    reason: str

    def set_aside(self) -> None:
        """Renames it, so that it is neither found nor deleted, and logs why."""
        target = store.set_aside(self.folder, self.kind, self.reason)
        logger.warning("checkpoint %s is %s, and set aside as %s: %s", self.folder.name, self.kind, target, self.reason)


def save(
    state: State, run: Path, tokenizer: Tokenizer, beside: Callable[[], Mapping[str, Any]], world: World = ALONE
) -> Path:
    """Publishes the state as a new folder, by all ranks together; on the first, `beside` is added to `state.json`.

    The loop began after the newest checkpoint: a folder of this name was put there since, and is set aside. A rank of
    an attempt that was given up may still write: what is not published yet has a name of this attempt alone.
    """
    target = folder_of(run, state.step)
    attempt = int(world.sum_of_all(torch.tensor(time.time_ns() if world.is_first else 0)))
    folder = store.partial_name(target.with_name(f"{target.name}-{attempt}"))
    settled: dict[str, store.Entry] = {}

    def begin() -> None:
        if os.path.lexists(target):
            Rejected(target, "misplaced", "it was put there while the run went on").set_aside()
        held.enter_context(store.publishing(target, folder, settled))

    def end() -> None:
        _describe(state, folder, tokenizer, beside())
        held.close()

    with naming_full_disk(target), ExitStack() as held:
        world.first_does(begin)
        settled |= write_tensors(_tensors_of(state), folder, world)
        world.first_does(end)
    return target


def _tensors_of(state: State) -> dict[str, Mapping[str, Tensor]]:
    """The tensors of each kind that a checkpoint has."""
    kinds: dict[str, Mapping[str, Tensor]] = {MODEL: saved_parameters(state.model), OPTIMIZER: state.optimizer.state()}
    if state.average:
        kinds[AVERAGE] = saved_parameters(state.model) | state.average.tensors
    return kinds


def _describe(state: State, folder: Path, tokenizer: Tokenizer, beside: Mapping[str, Any]) -> None:
    """Writes what stands beside the tensors."""
    progress = {
        "step": state.step,
        "tokens": state.tokens,
        "seconds": state.seconds,
        "num_steps": state.num_steps,
        "best": state.best and state.best._asdict(),
        "averaged": state.average.count if state.average else None,
        "config": digest(state.config),
        "torch": torch.__version__,
        **beside,
    }
    store.write_json(folder / STATE, progress)
    store.write_text(folder / CONFIG, to_toml(state.config))
    store.write_text(folder / CARD, to_toml(card_of(state.config, tuple(beside["labels"]))))
    for name, text in tokenizer.files().items():
        store.write_text(folder / name, text)


def settle(run: Path, newest: Path, keep: int, *, deep: bool = False) -> None:
    """Updates `latest` and `best` for the newest whole checkpoint, and deletes old ones.

    Called after each save and, `deep`, on resume, since the process may have been killed in between, and since disks
    fail. Only whole checkpoints are counted and deleted. Those to which an alarm may still take the run back are kept.
    """
    best = folder_of(run, found.step) if (found := best_of(run, newest)) else None
    for name in (ROLES, TOKENIZER):
        if name == TOKENIZER or (newest / name).is_file():
            _write_if_other(run / name, (newest / name).read_text(encoding="utf-8"))
    _point(newest.with_name("latest"), newest)
    _point(newest.with_name("best"), best)
    older = [folder for folder in all_checkpoints(run) if step_of(folder) < step_of(newest)]
    whole = [folder for folder in older if _is_whole(folder, deep=deep)]
    kept = {best, *_to_go_back_to(run, [*whole, newest])}
    for folder in [*whole, newest][:-keep]:
        if folder not in kept:
            _remove(folder)


def _to_go_back_to(run: Path, whole: list[Path]) -> Iterator[Path]:
    """Of whole checkpoints, oldest first, those from which steps are made again if an alarm takes the run back.

    One in as many steps as an alarm undoes: the first of them, so that what is kept now is what later ones need.
    """
    config = read_config(whole[-1])
    if (last := furthest_back(run, config, step_of(whole[-1]))) is None:
        return
    older = [folder for folder in whole if step_of(folder) <= last]
    yield from older[-1:]
    blocks = {step_of(folder) // config.diagnosis.rewind_batches: folder for folder in reversed(whole)}
    yield from (folder for folder in blocks.values() if step_of(folder) > last)


def _is_whole(folder: Path, *, deep: bool) -> bool:
    """Whether a checkpoint is whole; a damaged one is set aside, one that cannot be read is left as it is."""
    try:
        store.verify(folder, deep=deep)
    except DamagedError as error:
        Rejected(folder, "damaged", first_line(error)).set_aside()
        return False
    except ModelError as error:
        logger.warning("checkpoint %s does not count: %s", folder.name, first_line(error))
        return False
    return True


def _remove(folder: Path) -> None:
    """Deletes an old checkpoint; if that fails, the run goes on."""
    try:
        store.remove(folder)
    except OSError as error:
        logger.warning("checkpoint %s could not be deleted: %s", folder.name, error)


def best_of(run: Path, newest: Path) -> Evaluated | None:
    """The best evaluation of all checkpoints up to the newest: the fewest held-out bits per byte, or nats per label.

    The newest has those of the checkpoints before it, and its own if it was saved after its evaluation. An evaluation
    that was interrupted is made by a later start, and then only the log has it.
    """
    progress, config = read_progress(newest), read_config(newest)
    step = progress["step"]
    own = evaluation_after(run / METRICS, step) if config.watch.saves(step, progress["num_steps"]) else None
    return better(best_in(progress), own)


def _point(pointer: Path, target: Path | None) -> None:
    if target is None or not target.is_dir():
        pointer.unlink(missing_ok=True)
    else:
        _write_if_other(pointer, target.name)


def _write_if_other(path: Path, text: str) -> None:
    if not path.is_file() or path.read_bytes() != text.encode():
        store.write_text(path, text)


def find_fault(folder: Path, config: RunConfig, *, shallow: Container[str] = ()) -> Rejected | None:
    """Why a checkpoint cannot be used; None if it can.

    It is not whole, or not of its step, or not of this config, or an alarm has taken the run back behind it.
    """
    try:
        store.verify(folder, shallow=shallow)
    except DamagedError as error:
        return Rejected(folder, "damaged", first_line(error))
    try:
        changed = differences(config, read_config(folder))
    except ConfigError as error:
        return Rejected(folder, "misplaced", first_line(error))
    if changed:
        return Rejected(folder, "misplaced", f"it belongs to another config ({'; '.join(changed[:3])})")
    progress = read_progress(folder)
    if (step := progress["step"]) != step_of(folder):
        return Rejected(folder, "misplaced", f"it holds step {step}")
    if progress.get(SKIP_STEPS, []) != sorted(one for one in skipped_steps(run_of(folder), config) if one <= step):
        return Rejected(folder, "undone", "an alarm took the run back, and updates in it are left out since")
    return None


def first_line(error: Exception) -> str:
    """Of its message."""
    return str(error).splitlines()[0]


def restore(state: State, folder: Path) -> None:
    """Loads a verified checkpoint into a state."""
    load_parameters(state.model, folder)
    state.optimizer.load_state(load_tensors(folder / OPTIMIZER))
    progress = read_progress(folder)
    state.step, state.tokens, state.seconds = progress["step"], progress["tokens"], progress["seconds"]
    load_average(state, folder)


def load_average(state: State, folder: Path) -> None:
    """Loads the moving average of a checkpoint into a state that keeps one; without one there it begins with it."""
    if state.average is None:
        return
    count = read_progress(folder).get("averaged")
    saved: Mapping[str, Tensor] = load_tensors(folder / AVERAGE) if count else saved_parameters(state.model)
    state.average.load({name: saved[name] for name in state.average.tensors if name in saved}, count or 0)


def read_card(folder: Path) -> Card:
    """The card in a folder; for an older checkpoint it is made from its config and its progress."""
    path = folder / CARD
    if path.exists():
        card = from_toml(path.read_text(encoding="utf-8"), Card, name=str(path))
        return replace(card, chat=_beside(folder, card.chat)) if card.chat else card
    return card_of(read_config(folder), tuple(read_progress(folder)["labels"]))


def _beside(folder: Path, chat: ChatConfig) -> ChatConfig:
    """Where its template is a file beside the card, with that file's path."""
    path = folder / chat.template
    return replace(chat, template=str(path)) if path.suffix == ".jinja" and path.is_file() else chat


def read_inference(folder: Path) -> InferenceConfig:
    """The inference settings of the run that made a checkpoint; the defaults if there was no run."""
    return read_config(folder).inference if (folder / CONFIG).exists() else InferenceConfig()


def load_parameters(model: LanguageModel, folder: Path) -> None:
    """Copies saved parameters into a model of the same names and shapes; of an adapter these are the trained ones."""
    copy_parameters(model, load_tensors(folder / MODEL), str(folder / MODEL))


@torch.no_grad()
def copy_parameters(model: LanguageModel, saved: Mapping[str, Tensor], where: str) -> None:
    """The same with parameters that are read or made one by one; errors name `where` they are from."""
    check_fit(model, saved, where)
    for name, parameter in saved_parameters(model).items():
        fill(parameter, saved[name])


def check_fit(model: LanguageModel, saved: Mapping[str, Tensor], where: str) -> None:
    """Raises ModelError unless these are the parameters that a checkpoint of the model keeps, by names and shapes."""
    wanted, found = saved_parameters(model), metas(saved)
    if odd := sorted(set(found) ^ set(wanted)):
        raise ModelError(f"{where} does not fit the model: {odd[0]} is in one of them only")
    for name, parameter in wanted.items():
        if found[name].shape != parameter.shape:
            raise ModelError(f"{where}: {name} is {list(found[name].shape)}, not {list(parameter.shape)}")


def save_parameters(model: LanguageModel, folder: Path) -> None:
    """Writes the parameters that a checkpoint keeps."""
    write_tensors({MODEL: saved_parameters(model)}, folder)


def saved_parameters(model: LanguageModel) -> dict[str, Tensor]:
    """The parameters that a checkpoint keeps: all, or with an adapter those that are trained."""
    named: dict[str, Tensor] = dict(model.named_parameters())
    if not is_adapted(model):
        return named
    return {name: value for name, value in named.items() if value.requires_grad}
