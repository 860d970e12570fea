"""Causes that were found before the first step."""

import re
from collections.abc import Iterator

from thetahat.diagnosis.causes.case import Case
from thetahat.diagnosis.causes.cause import Cause
from thetahat.diagnosis.finding import Finding

TYPED = re.compile(r"[a-z_.]+=\S+")


def before(case: Case) -> Iterator[Cause]:
    """Each finding of the checks before the first step."""
    yield from map(cause_of, case.findings or ())


def cause_of(found: Finding) -> Cause:
    """What was wrong is a fault, what may be meant so is a note; a cure that can be typed is advice."""
    words, advice = ("", (found.cure,)) if TYPED.fullmatch(found.cure) else (found.cure, ())
    return Cause(found.name, "fault" if found.is_wrong else "note", "certain", 0, found.what, (), words, advice)
