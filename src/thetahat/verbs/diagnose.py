"""What a run says of itself: what happened, why, and what to change; of two runs, what differs and from where on."""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np

from thetahat.core.config import override, settings_of
from thetahat.core.errors import ThetahatError
from thetahat.core.plain import counted, fields_as_json
from thetahat.diagnosis.causes.case import Case, Restart, Rows
from thetahat.diagnosis.causes.cause import Cause
from thetahat.diagnosis.causes.divergence import Divergence, divergence
from thetahat.diagnosis.causes.judge import Verdict, judge
from thetahat.ledger.ledger import Table
from thetahat.run.config import RunConfig, is_fixed
from thetahat.run.folder.files import CONFIG, OPTIMIZER, folder_of, is_there
from thetahat.run.folder.starts import flat
from thetahat.verbs.moments import Moment, moments
from thetahat.verbs.story import Story, headline, read_story

# pyright: reportUnknownMemberType=false


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What a run folder says of its run."""

    run: str
    headline: str
    verdict: str
    timeline: tuple[Moment, ...]
    causes: tuple[Cause, ...]  # ranked
    commands: tuple[str, ...]  # of each cause what to type; empty where it has no advice that can be typed
    looked: tuple[str, ...]
    lacking: tuple[str, ...]  # what could not be looked at, and why
    notes: tuple[str, ...]  # what could not be read

    def to_dict(self) -> dict[str, Any]:
        """What `--json` prints: each cause has its command."""
        causes = [one.to_dict() | {"command": typed} for one, typed in zip(self.causes, self.commands, strict=True)]
        return {name: one for name, one in fields_as_json(self).items() if name != "commands"} | {"causes": causes}


@dataclass(frozen=True, slots=True)
class Comparison:
    """What two runs differ in, and from which step on."""

    runs: tuple[str, str]
    verdict: str
    divergence: Divergence
    config: dict[str, tuple[Any, Any]]  # by key
    data: dict[str, tuple[Any, Any]]  # fingerprints, documents and tokens of what is trained on and held out
    environment: dict[str, tuple[Any, Any]]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """What `--json` prints."""
        return fields_as_json(self)


def diagnose(run: str | Path, other: str | Path | None = None) -> Diagnosis | Comparison:
    """What happened in a run, ranked causes with their evidence, and what to change; from its folder alone.

    Of two runs: in which keys, data and environments they differ, and the first step in which what they logged does.
    What is torn, gone or foreign in a folder is left out and told. Raises ModelError for what is no run folder.
    """
    story = read_story(Path(run))
    if other is None:
        return diagnosis_of(story)
    return compared(story, read_story(Path(other)))


def diagnosis_of(story: Story) -> Diagnosis:
    """What a run says, as its folder tells it."""
    verdict = judge(case_of(story))
    return Diagnosis(
        str(story.folder),
        headline(story),
        said(verdict, story),
        moments(story),
        verdict.causes,
        tuple(command(cause, story) for cause in verdict.causes),
        verdict.looked,
        verdict.lacking,
        story.notes,
    )


def said(verdict: Verdict, story: Story) -> str:
    """In a sentence, what was found."""
    if not story.history.last_step:
        return "Nothing was trained that could be judged."
    notes = sum(cause.kind == "note" for cause in verdict.causes)
    if verdict.is_sound:
        also = f"; {counted(notes, 'thing')} to know" if notes else ""
        return f"Nothing wrong found{also}."
    first, wrong = verdict.causes[0], len(verdict.causes) - notes
    more = f", and {counted(wrong - 1, 'cause')} more" if wrong > 1 else ""
    when = f" at step {first.step:,}" if first.step else ""
    return f"{first.name}{when}: {first.what}{more}."


def case_of(story: Story) -> Case:
    """What is judged of a run."""
    history, config = story.history, story.config
    return Case(
        history.steps,
        history.evaluations,
        history.batches,
        history.twice,
        story.alarms,
        story.findings,
        tuple(Restart(start.step, start.changed) for start in story.starts[1:]),
        config.optimization if config else None,
        story.progress.get("num_steps") or (config.max_steps if config and config.max_tokens is None else None),
        config.first_step if config else 0,
        is_drawn=config is not None and config.base is None and config.parent is None,
        every=config.diagnosis.every if config else 0,
        is_watched=config is None or config.diagnosis.alarms,
        rows=None if story.ledger is None else rows_of(story.ledger),
        is_on_cpu=config is not None and config.device == "cpu",
    )


def rows_of(ledger: Table) -> Rows:
    """The columns of a ledger as numbers."""
    numbers = {name: ledger[name].to_numpy() for name in ("step", "num_tokens", "log_prob")}
    coded = {name: ledger[name].dictionary_encode().combine_chunks() for name in ("id", "source", "digest", "part")}
    code = {name: one.indices.to_numpy().astype(np.int64) for name, one in coded.items()}
    names = {name: one.dictionary.to_pylist() for name, one in coded.items()}
    text = code["digest"] * max(len(names["part"]), 1) + code["part"]
    return Rows(
        numbers["step"],
        numbers["num_tokens"],
        -numbers["log_prob"],
        code["id"],
        code["source"],
        text,
        names["id"],
        names["source"],
    )


def command(cause: Cause, story: Story) -> str:
    """What to type so that the advice of a cause is followed; empty where it has none that fits the config.

    It is a branch of the last checkpoint before the cause, or a new run where there is none, or where the shape of the
    model changes; of a step that was not reproduced, to make it once more.
    """
    if cause.name == "not-reproduced":
        return f"thetahat replay {quote(str(story.folder))} --step {cause.step}"
    pairs = fitting(story.config, cause.advice)
    if not pairs or story.config is None:
        return ""
    typed, run = " ".join(map(quote, pairs)), quote(str(story.folder))
    step = _before(story, cause.step)
    if step is None or any(is_fixed(pair.partition("=")[0]) for pair in pairs):
        return "" if story.config.parent else f"thetahat train {run}/{CONFIG} {typed}"
    return f"thetahat train --branch {run}@{step} {typed}"


def fitting(config: RunConfig | None, advice: tuple[str, ...]) -> list[str]:
    """Of KEY=VALUE pairs those that the config takes, and that change it."""
    found = list[str]()
    if config is None:
        return found
    for pair in advice:
        with suppress(ThetahatError):
            if override(config, [*found, pair]) != override(config, found):
                found.append(pair)
    return found


def _before(story: Story, step: int) -> int | None:
    """The last checkpoint before a step from which a run can be branched; of one that is always there the first."""
    there = [one for one in story.checkpoints if is_there(folder_of(story.folder, one) / OPTIMIZER)]
    fitting = [one for one in there if one < step] if step else there[:1]
    return fitting[-1] if fitting else None


def compared(ours: Story, theirs: Story) -> Comparison:
    """What two runs differ in."""
    parts = divergence(case_of(ours), case_of(theirs))
    environments = [_table(story.environment) for story in (ours, theirs)]
    configs = [settings_of(story.config_text) if story.config else {} for story in (ours, theirs)]
    notes = tuple(f"{story.folder}: {note}" for story in (ours, theirs) for note in story.notes)
    names = str(ours.folder), str(theirs.folder)
    data = _different(*(_data(story) for story in (ours, theirs)))
    return Comparison(names, parts.verdict, parts, _different(*configs), data, _different(*environments), notes)


def _different(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    names = dict.fromkeys([*ours, *theirs])
    return {name: (ours.get(name), theirs.get(name)) for name in names if ours.get(name) != theirs.get(name)}


def _data(story: Story) -> dict[str, Any]:
    """What the newest checkpoint has noted of the text."""
    corpora: Any = story.progress.get("corpora") or [{"fingerprint": one} for one in story.progress.get("data") or ()]
    return {
        f"{part} {name}": value
        for part, corpus in zip(("train", "held out"), corpora, strict=False)
        for name, value in corpus.items()
    }


def _table(text: str) -> dict[str, Any]:
    try:
        found: Any = json.loads(text)
    except ValueError:
        return {}
    return flat(found) if isinstance(found, dict) else {}
