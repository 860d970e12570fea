"""A run of the zoo: its config, what is put into it, and what it said."""

import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

from thetahat.cli.words import find_config
from thetahat.core.batch import Batch
from thetahat.core.errors import ThetahatError
from thetahat.diagnosis.finding import Finding
from thetahat.run import step as steps
from thetahat.run.state import State
from thetahat.run.train import train
from thetahat.verbs.diagnose import diagnose

Inject = Callable[[State, Sequence[Batch]], None]  # before a step


@dataclass(slots=True)
class Case:
    """What a run is made of."""

    keys: list[str]  # recipe and KEY=VALUE
    inject: Inject | None = None
    patches: Mapping[str, Any] = field(default_factory=dict[str, Any])  # what to put in place of what
    again: Callable[[Path], None] | None = None  # done to the folder of the finished run before it is run once more
    since: int = 1  # the step from which the failure is there
    suspect: str | None = None  # the sequence that is at fault
    where: str | None = None  # the part of the model


@dataclass(slots=True)
class Said:
    """One thing that a run says of itself."""

    name: str
    step: int  # 0: before the first step
    where: str = ""
    suspects: list[str] = field(default_factory=list[str])
    what: str = ""
    is_note: bool = False  # something that is said, and does not claim that anything is wrong


@dataclass(slots=True)
class Outcome:
    """What came of a run."""

    said: list[Said]
    causes: list[str]  # ranked by `thetahat diagnose`
    troubles: list[str]  # those of them that are more than to know
    error: str  # with which it ended, if it did
    seconds: float


class _Findings(logging.Handler):
    """Collects what is found before the first step."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Finding] = []

    def emit(self, record: logging.LogRecord) -> None:
        if isinstance(record.args, tuple):
            self.found += [one for one in record.args if isinstance(one, Finding)]


def run(case: Case, folder: Path) -> Outcome:
    """Trains it in a folder of its own, and reads what it said."""
    began, findings, error = time.perf_counter(), _Findings(), ""
    logger = logging.getLogger("thetahat")
    logger.addHandler(findings)
    os.environ["THETAHAT_CACHE"] = str(folder / "cache")
    plain = steps.step

    def step(state: State, batches: Sequence[Batch], *rest: Any) -> Any:
        if case.inject:
            case.inject(state, batches)
        return plain(state, batches, *rest)

    try:
        with ExitStack() as held:
            held.enter_context(patch("thetahat.run.train.step", step))
            for target, new in case.patches.items():
                held.enter_context(patch(target, new))
            config = find_config([*case.keys, "diagnosis.preflight=warn"])
            list(train(config, folder / "run"))
        if case.again:
            case.again(folder / "run")
            list(train(config, folder / "run"))
    except ThetahatError as ended:
        error = f"{type(ended).__name__}: {ended}".splitlines()[0]
    finally:
        logger.removeHandler(findings)
    said = [Said(one.name, 0, what=one.what, is_note=not one.is_wrong) for one in findings.found]
    said += alarms_of(folder / "run" / "alarms.jsonl")
    causes = diagnose(folder / "run").causes
    troubles = [one.name for one in causes if one.kind != "note"]
    return Outcome(said, [one.name for one in causes], troubles, error, time.perf_counter() - began)


def alarms_of(path: Path) -> list[Said]:
    """The alarms of a run, in order."""
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [
        Said(
            line["name"],
            line["step"],
            line["where"],
            [one["id"] for one in line["suspects"]],
            line["what"],
            line["severity"] == "note",
        )
        for line in lines
    ]
