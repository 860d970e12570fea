"""Causes behind alarms: which of them follows from which, and what a divergence that nothing explains points at."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from thetahat.diagnosis.alarms.advice import slower
from thetahat.diagnosis.alarms.alarm import AFTER, NAMES, Alarm, Name
from thetahat.diagnosis.causes.case import Case
from thetahat.diagnosis.causes.cause import Cause, Kind, Strength

SHOWN = 3  # alarms that are quoted as evidence
LATE = 2  # measurements in a row, after which what is measured from time to time is an alarm
LATER: dict[str, int] = {"diverging": 10, "no-warm-up": 100}  # steps after which others are
FAR = 1e-2  # of its own size, by which one update moves a part of the model where a rate is too high
FARTHER = 3.0  # times the median of before, likewise
LOOKED_BACK = 100  # steps before a divergence


class Meaning(NamedTuple):
    """What an alarm says of a run."""

    kind: Kind
    what: str
    cure: str = ""
    advice: tuple[str, ...] = ()  # where the alarm has none of its own


MEANINGS: Mapping[Name, Meaning] = {
    "rank-divergence": Meaning(
        "fault", "ranks that should hold the same parameters did not", "test the machine of the named rank"
    ),
    "not-reproduced": Meaning(
        "fault",
        "steps that were made again after a resume came out otherwise",
        "the data, the machine and the versions should be those of before; see the environment",
    ),
    "not-updated": Meaning("fault", "a tensor with a gradient was not moved by the update", "look at the named tensor"),
    "knows-targets-already": Meaning(
        "fault", "the model read what it should predict", "look at what the model sees: thetahat verify"
    ),
    "non-finite": Meaning("fault", "the likelihood or the gradient was not finite", "dtype=float32, or a lower rate"),
    "loss-stuck": Meaning(
        "fault", "the model learned the shares of tokens and nothing of their contexts", "frozen parameters, or a rate"
        " that is far too low: thetahat train RUN/config.toml with ten times the rate tells"
    ),
    "bad-batch": Meaning(
        "trouble",
        "single sequences were far worse than the others of their steps",
        "look at the named records; the policy leaves such updates out",
        ("diagnosis.policies.bad-batch=skip",),
    ),
    "no-warm-up": Meaning("trouble", "nearly every step of the beginning was clipped, and there was no warm-up"),
    "exploding-attention-logits": Meaning("trouble", "attention logits grew until attention sees single positions"),
    "embedding-gradient-spike": Meaning("trouble", "the gradient of the embedding jumped, and the others' did not"),
    "stale-second-moment": Meaning("trouble", "the second moments of the optimizer lag behind the gradients"),
    "epsilon-too-large": Meaning("trouble", "epsilon, and not the second moment, decided how far elements moved"),
    "vanishing-gradients": Meaning("trouble", "the first blocks got next to no gradient"),
    "underflowing-updates": Meaning(
        "trouble", "rounding lost most of the updates", "a higher learning rate, or parameters in float32"
    ),
    "learning-rate-too-high": Meaning("trouble", "single updates overwrote what was learned"),
    "output-logit-drift": Meaning("trouble", "output logits drifted away from zero"),
    "overfitting": Meaning(
        "trouble", "training went on improving and what is held out became worse", "thetahat select RUN takes the best"
    ),
    "no-improvement": Meaning(
        "note", "what is held out had not become better for some evaluations", "thetahat select RUN takes the best"
    ),
    "diverging": Meaning("trouble", "the likelihood fell and did not come back"),
    "loss-spike": Meaning("trouble", "the likelihood fell for some steps", "half the learning rates if it comes again"),
    "gradient-spike": Meaning("trouble", "the gradient was many times as long as usual in some steps"),
}  # fmt: skip

_SPIKES = {"loss-spike": 3, "gradient-spike": 3, "diverging": 20}
_COLLAPSE = {"loss-spike": 100, "gradient-spike": 100, "diverging": 100, "non-finite": 100, "bad-batch": 100}
FOLLOWS: Mapping[Name, Mapping[str, int]] = {
    "rank-divergence": _COLLAPSE,
    "not-reproduced": _COLLAPSE,
    "not-updated": {"loss-stuck": 10_000},
    "bad-batch": _SPIKES | {"embedding-gradient-spike": 3, "non-finite": 3},
    "no-warm-up": _COLLAPSE | {"learning-rate-too-high": 200, "stale-second-moment": 200},
    "vanishing-gradients": {"loss-stuck": 10_000, "underflowing-updates": 10_000},
    "underflowing-updates": {"loss-stuck": 10_000},
    "epsilon-too-large": {"loss-stuck": 10_000},
    "learning-rate-too-high": _COLLAPSE
    | {"stale-second-moment": 200, "exploding-attention-logits": 200, "embedding-gradient-spike": 100}
    | {"output-logit-drift": 1_000, "loss-stuck": 10_000},
    "exploding-attention-logits": _COLLAPSE,
    "embedding-gradient-spike": {"loss-spike": 50, "gradient-spike": 50, "diverging": 50, "non-finite": 50},
    "stale-second-moment": _COLLAPSE,
    "overfitting": {"no-improvement": 10_000},
    "diverging": {"gradient-spike": 100, "loss-spike": 100, "non-finite": 100},
    "loss-spike": {"gradient-spike": 3},
    "gradient-spike": {"non-finite": 3},
}
"""By the name of a cause, what follows from it, and within how many steps. It goes round in no circle."""


def alarmed(case: Case) -> Iterator[Cause]:
    """A cause for each kind of alarm that follows from no other one, with those that follow from it."""
    groups, alarms = dict[Name, _Group](), [*_foreseen(case), *case.alarms]
    for alarm, root in zip(alarms, roots(alarms, case.every), strict=True):
        group = groups.setdefault(root.name, _Group(root.name, [], {}, alarm.step))
        group.begun = min(group.begun, alarm.step)
        if alarm is root:
            group.alarms.append(alarm)
        elif alarm.name != root.name:
            group.behind[alarm.name] = group.behind.get(alarm.name, 0) + 1
    for group in groups.values():
        if group.begun == 0 and not group.behind:
            continue  # foreseen, and nothing came of it: the finding is a note
        yield _rate_too_high(case, group) if group.name == "diverging" else _cause(group)


def _foreseen(case: Case) -> list[Alarm]:
    """What was found before the first step and has an alarm's name, as one of step 0: others may follow from it."""
    known: dict[str, Name] = {name: name for name in NAMES}
    found = [one for one in case.findings or () if one.name in known]
    return [Alarm(known[one.name], "warning", 0, one.what, {}) for one in found]


@dataclass(slots=True)
class _Group:
    """Alarms of one name that follow from no other one."""

    name: Name
    alarms: list[Alarm]
    behind: dict[str, int]  # what follows from them, and how often
    begun: int  # the first step of all of these


def roots(alarms: Sequence[Alarm], every: int = 0) -> list[Alarm]:
    """Of each alarm the one from which it follows in the end; itself where it follows from none.

    It follows from the nearest that it may follow from. What is measured every `every` steps, twice before it is an
    alarm, may be found after what follows from it.
    """
    above = [_above(alarm, alarms, every) for alarm in alarms]
    place = {id(alarm): number for number, alarm in enumerate(alarms)}
    found = list[Alarm]()
    for alarm in alarms:
        while (cause := above[place[id(alarm)]]) is not None:
            alarm = cause
        found.append(alarm)
    return found


def _above(alarm: Alarm, alarms: Sequence[Alarm], every: int) -> Alarm | None:
    nearest, distance = None, math.inf
    for other in alarms:
        within = FOLLOWS.get(other.name, {}).get(alarm.name)
        late = LATE * every if other.name in AFTER else LATER.get(other.name, 0)
        if other.severity == "note" and alarm.severity != "note":
            continue  # what is a note explains nothing that is more
        if within is None or not other.step - late <= alarm.step <= other.step + within:
            continue
        if abs(alarm.step - other.step) < distance:
            nearest, distance = other, abs(alarm.step - other.step)
    return nearest


def _cause(group: _Group) -> Cause:
    meaning = MEANINGS[group.name]
    is_small = all(alarm.severity == "note" for alarm in group.alarms)
    return Cause(
        group.name,
        "note" if is_small else meaning.kind,
        _strength(group),
        group.begun,
        meaning.what,
        (*_quoted(group.alarms), *_told(group.behind)),
        meaning.cure,
        group.alarms[0].advice or meaning.advice,
        tuple(group.behind),
    )


def _strength(group: _Group) -> Strength:
    """What is measured to the bit is certain; a single spike that nothing stands beside may be chance."""
    if group.name in ("rank-divergence", "not-updated", "not-reproduced", "non-finite"):
        return "certain"
    is_alone = len(group.alarms) == 1 and not group.behind and group.alarms[0].severity != "critical"
    return "weak" if is_alone and group.name in ("loss-spike", "gradient-spike") else "strong"


def _quoted(found: Sequence[Alarm]) -> tuple[str, ...]:
    """What some of the alarms say, their sequences with them."""
    lines = list[str]()
    for alarm in found[:SHOWN]:
        where = f"{alarm.where}: " if alarm.where else ""
        named = ", ".join(one.id + (f" of {one.source}" if one.source else "") for one in alarm.suspects)
        done = {"record": "", "skip": "; the update was left out", "stop": "; the run stopped"}[alarm.action]
        told = f"; sequence{'s' * (len(alarm.suspects) > 1)}: {named}" if named else ""
        lines.append(f"step {alarm.step:,}: {where}{alarm.what}{done}{told}")
    if len(found) > SHOWN:
        lines.append(f"and {len(found) - SHOWN:,} times more, until step {found[-1].step:,}")
    return tuple(lines)


def _told(behind: Mapping[str, int]) -> tuple[str, ...]:
    said = [name if count == 1 else f"{name} ({count:,} times)" for name, count in behind.items()]
    return (f"behind it: {', '.join(said)}",) if said else ()


def _rate_too_high(case: Case, group: _Group) -> Cause:
    """A divergence that nothing explains is a rate that is too high, as a rule; the sizes of updates make it sure."""
    first = group.alarms[0]
    ratio, usual, part = update_before(case, first.step)
    is_far = ratio > FAR or ratio > FARTHER * usual
    before = "" if math.isnan(usual) else f", and {usual:.1%} was usual"
    measured = (f"an update moved {part} by {ratio:.1%} of its own size{before}",) if part else ()
    return Cause(
        "learning-rate-too-high",
        "trouble",
        "strong" if is_far else "weak",
        group.begun,
        "the likelihood fell and did not come back, and nothing else explains it",
        (*_quoted(group.alarms), *measured, *_told(group.behind)),
        "" if is_far else "half the learning rates; if it diverges at the same step, it is the data",
        first.advice or (slower(case.rules) if case.rules else ()),
        ("diverging", *group.behind),
    )


def update_before(case: Case, step: int) -> tuple[float, float, str]:
    """The largest update in the steps before one, over the parameters' own size, what was usual before, and of what.

    0, NaN and "" where updates were not measured.
    """
    prefix, largest = "signals/update_ratio/", (0.0, math.nan, "")
    near = (case.step <= step) & (case.step > step - LOOKED_BACK)
    for name, values in case.steps.items():
        if not name.startswith(prefix) or not np.isfinite(values[near]).any():
            continue
        top, before = float(np.nanmax(values[near])), values[(case.step <= step - LOOKED_BACK) & np.isfinite(values)]
        if top > largest[0]:
            largest = top, float(np.median(before)) if len(before) else math.nan, name.removeprefix(prefix)
    return largest
