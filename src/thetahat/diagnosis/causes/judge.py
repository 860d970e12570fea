"""Everything that a run folder is asked, and what it answers."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from thetahat.diagnosis.causes.alarmed import alarmed
from thetahat.diagnosis.causes.before import before
from thetahat.diagnosis.causes.case import Case
from thetahat.diagnosis.causes.cause import Cause, ranked
from thetahat.diagnosis.causes.course import LEAST_STEPS, decayed_early, lost, overfitted, stuck, too_short
from thetahat.diagnosis.causes.order import correlated, elsewhere, logged_twice, missing_steps, other_rate, read_again
from thetahat.diagnosis.causes.pace import slowed, starved
from thetahat.diagnosis.causes.records import FEWEST, dominated, memorised


@dataclass(frozen=True, slots=True)
class Check:
    """A question to a run folder."""

    name: str
    find: Callable[[Case], Iterator[Cause]]
    lacks: Callable[[Case], str]  # what it would need and the folder has not; empty: it can be asked


@dataclass(frozen=True, slots=True)
class Verdict:
    """Ranked causes, what was looked at, and what could not be."""

    causes: tuple[Cause, ...]
    looked: tuple[str, ...]
    lacking: tuple[str, ...]  # "question: why not"

    @property
    def is_sound(self) -> bool:
        """Whether nothing is wrong: notes may be there."""
        return all(cause.kind == "note" for cause in self.causes)


def judge(case: Case) -> Verdict:
    """Asks a run folder everything that it can answer."""
    lacking = {check.name: check.lacks(case) for check in CHECKS}
    asked = [check for check in CHECKS if not lacking[check.name]]
    causes = dict[str, Cause]()
    for cause in ranked(one for check in asked for one in check.find(case)):
        causes.setdefault(cause.name, cause)
    looked = tuple(check.name for check in asked)
    return Verdict(tuple(causes.values()), looked, tuple(f"{name}: {why}" for name, why in lacking.items() if why))


def _watched(case: Case) -> str:
    return "" if case.is_watched or case.alarms else "diagnosis.alarms=false"


def _checked(case: Case) -> str:
    return "nothing is recorded of them" if case.findings is None else ""


def _steps(case: Case) -> str:
    return "" if len(case.step) else "no step was logged"


def _curve(case: Case) -> str:
    few = len(case.step) < LEAST_STEPS
    return f"fewer than {LEAST_STEPS} steps" if few else ""


def _evaluations(case: Case) -> str:
    return "" if len(case.evaluations.get("step", ())) > 1 else "fewer than two evaluations"


def _schedule(case: Case) -> str:
    return _steps(case) or ("" if case.rules and case.num_steps else "no config, or no checkpoint")


def _batches(case: Case) -> str:
    return "" if case.batches else "no digests of batches were logged"


def _rows(case: Case) -> str:
    return "" if case.rows is not None and len(case.rows.step) else "no ledger"


def _mix(case: Case) -> str:
    few = case.rows is not None and len(np.unique(case.rows.step)) < LEAST_STEPS
    return _rows(case) or (f"rows of fewer than {LEAST_STEPS} steps" if few else "")


def _records(case: Case) -> str:
    few = case.rows is not None and len(case.rows.ids) < FEWEST
    return _rows(case) or (f"fewer than {FEWEST} records" if few else "")


def _waits(case: Case) -> str:
    return "" if np.isfinite(case.column("wait_seconds")).any() else "not logged"


CHECKS = (
    Check("checks before the first step", before, _checked),
    Check("alarms", alarmed, _watched),
    Check("steps that were made again", logged_twice, _steps),
    Check("steps that are missing", missing_steps, _steps),
    Check("learning rate and schedule", other_rate, _schedule),
    Check("batches that came again", read_again, _batches),
    Check("order of the data", correlated, _mix),
    Check("environment", elsewhere, lambda case: ""),
    Check("whether anything was learned", stuck, _curve),
    Check("whether the likelihood was kept", lost, _curve),
    Check("held-out text", overfitted, _evaluations),
    Check("length of the run", too_short, _schedule),
    Check("decay of the rate", decayed_early, _curve),
    Check("weight of records", dominated, _records),
    Check("texts that were read again", memorised, _rows),
    Check("waiting for data", starved, _waits),
    Check("speed", slowed, _curve),
)
