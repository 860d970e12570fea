"""An alarm: a named failure, what shows it, where, and what to change."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from thetahat.core.plain import fields_as_json

Severity = Literal["note", "warning", "critical"]
Action = Literal["record", "skip", "rewind", "stop"]
Name = Literal[
    "non-finite",
    "loss-spike",
    "diverging",
    "gradient-spike",
    "embedding-gradient-spike",
    "bad-batch",
    "output-logit-drift",
    "knows-targets-already",
    "loss-stuck",
    "no-warm-up",
    "vanishing-gradients",
    "not-updated",
    "underflowing-updates",
    "learning-rate-too-high",
    "stale-second-moment",
    "epsilon-too-large",
    "exploding-attention-logits",
    "rank-divergence",
    "not-reproduced",
    "overfitting",
    "no-improvement",
]
NAMES: tuple[Name, ...] = get_args(Name)
AFTER = frozenset(NAMES[NAMES.index("not-updated") :])  # those that are found after the update
OF_SEQUENCES = frozenset({"loss-spike", "diverging", "gradient-spike", "embedding-gradient-spike", "bad-batch"})
OF_A_BATCH = OF_SEQUENCES | {"non-finite"}  # another batch, or an earlier state, may not have them
DONE: dict[Action, tuple[str, str]] = {
    "record": ("", ""),
    "skip": ("; the update is left out", "; the update was left out"),
    "rewind": ("; the run goes back", "; the run went back"),
    "stop": ("; the run stops", "; the run stopped"),
}
"""What an action does, while it is done and afterwards."""


@dataclass(frozen=True, slots=True)
class Suspect:
    """A sequence that stands out in the step of an alarm."""

    id: str
    source: str
    num_tokens: int  # targets of it in the step
    nats_per_token: float
    text: str  # its beginning


@dataclass(frozen=True, slots=True)
class Alarm:
    """A failure that has a name, in one step."""

    name: Name
    severity: Severity
    step: int  # the update that would be, or was, made with what is measured
    what: str  # what was measured, and what is usual, in one line
    evidence: Mapping[str, float]
    where: str = ""  # a region of the model; empty: all of it
    advice: tuple[str, ...] = ()  # KEY=VALUE, or a command
    suspects: tuple[Suspect, ...] = field(default=())
    action: Action = "record"

    def to_dict(self) -> dict[str, Any]:
        """As a line of alarms.jsonl."""
        return fields_as_json(self)

    def __str__(self) -> str:
        """In one line."""
        where = f" in {self.where}" if self.where else ""
        seen = f"; sequences: {', '.join(one.id for one in self.suspects)}" if self.suspects else ""
        tried = f"; try: {' '.join(self.advice)}" if self.advice else ""
        begins = "note: " if self.severity == "note" else ""
        did = DONE[self.action][0]
        return f"{begins}{self.name}{where} at step {self.step:,}: {self.what}{did}{seen}{tried}"
