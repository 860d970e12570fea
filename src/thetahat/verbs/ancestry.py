"""What a branched run has from its parents: their curves and their ledgers, up to the step at which it was branched."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from msgspec.structs import replace as changed

from thetahat.core.errors import ThetahatError
from thetahat.ledger.ledger import Table
from thetahat.ledger.run_ledger import part_files, read_run_ledger
from thetahat.run.config import RunConfig, differences
from thetahat.run.folder.config import read_config
from thetahat.run.folder.files import is_run
from thetahat.run.folder.moved import find_checkpoint_again, run_of
from thetahat.run.log.history import Columns, History, Join, read_history

FARTHEST = 64  # generations


@dataclass(frozen=True, slots=True)
class Parent:
    """A run that another was branched from."""

    name: str  # RUN@STEP
    step: int
    folder: Path | None  # where it lies now; None: it is not found
    config: RunConfig | None


def parents_of(run: Path, config: RunConfig | None) -> Iterator[Parent]:
    """The parent of a run, that run's parent, and so on; the last one may not be found."""
    for _ in range(FARTHEST):
        if config is None or config.parent is None:
            return
        parent = config.parent
        found = find_checkpoint_again(parent.run, parent.step, parent.digest, run)
        folder = run_of(found) if found else _by_name(config)
        theirs = None
        with suppress(ThetahatError, OSError):
            theirs = read_config(folder) if folder else None
        yield Parent(f"{parent.run}@{parent.step}", parent.step, folder, theirs)
        if folder is None:
            return
        run, config = folder, theirs


def _by_name(config: RunConfig) -> Path | None:
    """The parent whose checkpoint of that step was deleted since: what lies there must differ as was written down."""
    parent = config.parent
    if parent is None or not is_run(folder := Path(parent.run)):
        return None
    with suppress(ThetahatError, OSError):
        theirs = read_config(folder)
        if tuple(differences(changed(config, parent=theirs.parent), theirs)) == parent.changes:
            return folder
    return None


def with_parents(run: Path, config: RunConfig | None, history: History, beside: Sequence[Path] = ()) -> History:
    """The history of a run behind those of its parents, each up to the step at which the next was branched.

    A parent that is `beside` it, in the same figure, is not repeated.
    """
    joins, notes = list[Join](), list(history.notes)
    for parent in parents_of(run, config):
        joins.append(Join(parent.step, parent.name))
        if parent.folder is None:
            notes.append(f"{parent.name}, which it was branched from, is not found: its curves begin there")
            break
        if any(parent.folder.resolve() == one.resolve() for one in beside):
            break
        before = read_history(parent.folder)
        first, notes = until(before, parent.step), notes + [f"{parent.name}: {note}" for note in before.notes]
        history = replace(
            history,
            steps=_joined(first.steps, history.steps),
            evaluations=_joined(first.evaluations, history.evaluations),
            batches={**first.batches, **history.batches},
        )
    return replace(history, joins=tuple(joins), notes=tuple(notes))


def until(history: History, step: int) -> History:
    """What was logged up to a step, that included."""
    return replace(
        history,
        steps=_until(history.steps, step),
        evaluations=_until(history.evaluations, step),
        batches={at: batch for at, batch in history.batches.items() if at <= step},
    )


def _until(columns: Columns, step: int) -> Columns:
    kept = columns["step"] <= step
    return {name: values[kept] for name, values in columns.items()}


def _joined(first: Columns, second: Columns) -> Columns:
    """Rows of both; a column that one of them lacks is NaN there."""
    sizes = [len(columns["step"]) for columns in (first, second)]
    return {
        name: np.concatenate([
            columns.get(name, np.full(size, np.nan)) for columns, size in zip((first, second), sizes, strict=True)
        ])
        for name in dict.fromkeys([*first, *second])
    }  # fmt: skip


def ledger_with_parents(run: Path, config: RunConfig, lost: list[str] | None = None) -> Table:
    """The rows of a run's ledger behind those of its parents, up to the step at which each was branched.

    With `lost`, damaged files are left out, and named there.
    """
    tables, end = [read_run_ledger(run, config.first_step, lost)], config.first_step
    for parent in parents_of(run, config):
        if parent.folder is None or parent.config is None or not part_files(parent.folder):
            break
        theirs = read_run_ledger(parent.folder, parent.config.first_step, lost)
        tables.append(theirs.filter(pc.field("step") <= min(end, parent.step)))
        end = parent.config.first_step
    shared = [name for name in tables[0].column_names if all(name in table.column_names for table in tables)]
    return pa.concat_tables([table.select(shared) for table in reversed(tables)], promote_options="permissive")
