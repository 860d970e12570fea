"""What a run folder tells of its run, without a model being loaded: its curves, its ledger, its config."""

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from thetahat.core.config import from_toml, settings_of
from thetahat.core.errors import ModelError
from thetahat.core.plain import counted, duration
from thetahat.diagnosis.alarms.alarm import Alarm
from thetahat.diagnosis.finding import Finding
from thetahat.ledger.contribution import account
from thetahat.ledger.ledger import Table
from thetahat.ledger.run_ledger import part_files, read_run_ledger
from thetahat.run.config import RunConfig
from thetahat.run.folder.checks import read_checks
from thetahat.run.folder.files import CHECKPOINTS, CONFIG, STATE, all_checkpoints, read_progress, step_of
from thetahat.run.folder.starts import ENVIRONMENT, Start, read_starts
from thetahat.run.log.alarms import read_alarms
from thetahat.run.log.history import History, read_history
from thetahat.run.log.samples import Sample, read_samples
from thetahat.verbs.ancestry import ledger_with_parents, with_parents

MOST_EXTREMES = 8
FEWEST_TARGETS = 8  # of a part that may be the best or the worst
Rows = list[list[str]]


@dataclass(frozen=True, slots=True)
class Story:
    """A run as its folder tells it."""

    name: str
    folder: Path
    history: History
    config: RunConfig | None
    config_text: str
    environment: str
    account: dict[str, Any] | None  # of its ledger: `contribution.account`
    worst: Rows
    best: Rows
    notes: tuple[str, ...] = field(default=())  # what could not be read
    ledger: Table | None = None
    alarms: tuple[Alarm, ...] = ()
    starts: tuple[Start, ...] = ()
    findings: tuple[Finding, ...] | None = None  # before the first step; None: nothing is recorded
    checkpoints: tuple[int, ...] = ()  # the steps of those that are there
    progress: Mapping[str, Any] = field(default_factory=dict[str, Any])  # what the newest of them says
    samples: Sequence[Sample] = ()  # that were written while it trained

    @property
    def num_steps(self) -> int | None:
        """Where it was to end."""
        return self.progress.get("num_steps") or (self.config.max_steps if self.config else None)

    def time(self) -> list[tuple[str, float]]:
        """Seconds of training steps, of evaluations, and of everything else; none where they were not logged."""
        steps, evaluations = self.history.steps, self.history.evaluations
        if not len(steps["step"]) or "tokens_per_second" not in steps:
            return []
        begins = 0.0 if steps["step"][0] == 1 else np.nan  # targets before a branch whose parent is not here
        in_steps = float(np.nansum(np.diff(steps["tokens"], prepend=begins) / steps["tokens_per_second"]))
        evaluated = 0.0
        if len(evaluations["step"]):
            at = np.interp(evaluations["step"], steps["step"], steps["seconds"])
            evaluated = float(np.nansum(np.maximum(evaluations["seconds"] - at, 0.0)))
        whole = max(
            float(np.nanmax(steps["seconds"])), float(np.nanmax(evaluations.get("seconds", np.zeros(1)))) or 0.0
        )
        rest = max(whole - in_steps - evaluated, 0.0)
        return [("steps", in_steps), ("evaluations", evaluated), ("saving, and the rest", rest)]


def read_story(run: Path, beside: Sequence[Path] = ()) -> Story:
    """What a run folder tells; what is missing or damaged is left out, and `notes` say so.

    The curves of a branched run begin with those of its parents, but for one that is told `beside` it; its ledger, too.
    Raises ModelError where the folder is none of a run.
    """
    if not run.is_dir() or not any((run / name).exists() for name in ("config.toml", "metrics.jsonl", "checkpoints")):
        raise ModelError(f"{run} is no run folder", allowed="a folder that thetahat train made", cure="thetahat runs")
    history, notes = read_history(run), list[str]()
    checkpoints, progress = _checkpoints(run, notes)
    text = _text(run / CONFIG, notes) or (_text(all_checkpoints(run)[-1] / CONFIG, notes) if checkpoints else "")
    config = _trying(lambda: from_toml(text, RunConfig, name=str(run / CONFIG)), notes) if text else None
    if config:
        history = with_parents(run, config, history, beside)
    ledger = _trying(lambda: _ledger(run, config, notes), notes) if part_files(run) else None
    told, worst, best = None, Rows(), Rows()
    if ledger is not None and len(ledger):
        told = _trying(lambda: account(ledger, config.objective), notes) if config else None
        worst, best = _extremes(ledger)
    environment = _text(run / ENVIRONMENT, notes)
    with suppress(ValueError):
        environment = json.dumps(json.loads(environment), indent=2)
    alarms, torn = _trying(lambda: read_alarms(run), notes) or ([], [])
    return Story(
        run.resolve().name,
        run,
        history,
        config,
        text,
        environment,
        told,
        worst,
        best,
        (*history.notes, *torn, *notes),
        ledger,
        tuple(alarms),
        tuple(_trying(lambda: read_starts(run), notes) or ()),
        read_checks(run),
        checkpoints,
        progress,
        read_samples(run),
    )


def _checkpoints(run: Path, notes: list[str]) -> tuple[tuple[int, ...], dict[str, Any]]:
    """The steps of the checkpoints that are there, and what the newest says of itself; pointers to others are noted."""
    folders = _trying(lambda: all_checkpoints(run), notes) or []
    there = {folder.name for folder in folders}
    for name in ("latest", "best"):
        pointer = run / CHECKPOINTS / name
        named = pointer.read_text(encoding="utf-8", errors="replace").strip() if pointer.is_file() else ""
        if named and named not in there:
            notes.append(f"{CHECKPOINTS}/{name} names {named}, which is not there")
    if not folders:
        notes.append("there is no checkpoint")
        return (), {}
    newest = folders[-1]
    progress = _trying(lambda: read_progress(newest), notes)
    if not isinstance(progress, dict):
        notes.append(f"{CHECKPOINTS}/{newest.name}/{STATE} cannot be read")
        progress = {}
    return tuple(map(step_of, folders)), progress


def _ledger(run: Path, config: RunConfig | None, lost: list[str]) -> Table:
    return ledger_with_parents(run, config, lost) if config else read_run_ledger(run, lost=lost)


def _text(path: Path, notes: list[str]) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        notes.append(f"{path.name}: {error.strerror}")
        return ""


def _trying(read: Any, notes: list[str]) -> Any:
    try:
        return read()
    except (ValueError, OSError, pa.ArrowException) as error:
        notes.append(str(error).splitlines()[0])
        return None


def _extremes(ledger: Table) -> tuple[Rows, Rows]:
    """The parts with the most and with the fewest nats a target, in the last quarter of the steps."""
    step, targets = ledger["step"].to_numpy(), ledger["num_tokens"].to_numpy()
    chosen = np.flatnonzero((step > 0.75 * step.max()) & (targets >= FEWEST_TARGETS))
    nats = -ledger["log_prob"].to_numpy()[chosen] / targets[chosen]
    order = chosen[np.argsort(nats, kind="stable")]
    return _first_of_each(ledger, order[::-1]), _first_of_each(ledger, order)


def _first_of_each(ledger: Table, order: Any) -> Rows:
    """The first rows in this order, one for each part of a record."""
    rows = dict[tuple[str, str], list[str]]()
    for start in range(0, len(order), 64):
        taken = ledger.take(pa.array(order[start : start + 64])).to_pylist()
        for row in taken:
            nats = -row["log_prob"] / row["num_tokens"]
            told = [row["source"] or "", f"{row['step']:,}", f"{row['num_tokens']:,}", f"{nats:.3f}"]
            rows.setdefault((row["id"], row["part"]), [row["id"], row["part"], *told])
            if len(rows) == MOST_EXTREMES:
                return [*rows.values()]
    return [*rows.values()]


def headline(story: Story) -> str:
    """One sentence: how far it came, and how likely it makes what was held out."""
    steps, evaluations = story.history.steps, story.history.evaluations
    if not story.history.last_step:
        return f"{story.name}: no step was logged"
    end = f" of {story.num_steps:,}" if story.num_steps and story.num_steps != story.history.last_step else ""
    targets, seconds = steps["tokens"][-1], steps["seconds"][-1]
    done = f"{story.history.last_step:,}{end} steps, {counted(int(targets), 'target')} in {duration(seconds)}"
    said = f"{story.name}: {done}"
    if (bits := evaluations.get("bits_per_byte")) is not None and len(bits):
        low, high = (evaluations.get(f"bits_per_byte_ci95_{end}", bits * math.nan)[-1] for end in ("low", "high"))
        interval = "" if math.isnan(low) else f" (95 %: {low:.3f} to {high:.3f})"
        said += f"; held-out text: {bits[-1]:.4f} bits per byte{interval}"
    return said


def differences(stories: Sequence[Story]) -> tuple[list[str], Rows] | None:
    """The keys in which configs differ, a column a run; None where they do not, or there is one run."""
    tables = [settings_of(story.config_text) if story.config else {} for story in stories]
    keys = dict.fromkeys(key for table in tables for key in table)
    rows = [[key, *(_shown(table.get(key)) for table in tables)] for key in keys]
    rows = [row for row in rows if len(set(row[1:])) > 1]
    return (["", *(story.name for story in stories)], rows) if rows else None


def _shown(value: Any) -> str:
    return "" if value is None else str(value)
