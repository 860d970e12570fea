"""A cause: a named failure, how sure it is, what shows it, and what to change."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from thetahat.core.plain import fields_as_json

Kind = Literal["fault", "trouble", "note"]
"""fault: what is computed is not what was asked; trouble: the training goes badly; note: it costs something, or may be
meant so."""
Strength = Literal["certain", "strong", "weak"]
KINDS: tuple[Kind, ...] = get_args(Kind)
STRENGTHS: tuple[Strength, ...] = get_args(Strength)


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a run went as it did."""

    name: str  # of the failure, in words with hyphens
    kind: Kind
    strength: Strength
    step: int  # in which it first shows; 0: in all of the run
    what: str  # in a sentence
    evidence: tuple[str, ...]  # a line each
    cure: str = ""  # in words
    advice: tuple[str, ...] = ()  # KEY=VALUE
    explains: tuple[str, ...] = ()  # names of alarms that follow from it

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return fields_as_json(self)


def ranked(causes: Iterable[Cause]) -> list[Cause]:
    """Faults before trouble before notes; in each the earlier first, and of one step the surer first.

    What follows from another cause is no cause of its own, so causes stand before all symptoms.
    """
    return sorted(causes, key=lambda one: (KINDS.index(one.kind), one.step, STRENGTHS.index(one.strength)))
