"""Whether a step that is made a second time comes to the same as the first time: state, data and machine are right."""

from collections.abc import Iterator, Mapping
from typing import Any, final

from thetahat.diagnosis.alarms.alarm import Alarm, Severity

BATCH, NATS, NORM = "batch", "log_likelihood_per_token", "gradient_norm"
ROUNDING = 1e-3  # relative: another order of sums explains less, in the first step that is made again
SAME = 1e-5  # likewise where the same bits are due and nothing of the environment is known to have changed


@final
class Again:
    """What metrics.jsonl had of steps behind the checkpoint from which a run goes on: they are made once more."""

    def __init__(self, lines: Mapping[int, Mapping[str, Any]], *, is_exact: bool, is_same: bool = False) -> None:
        self._lines = dict(lines)
        self._is_exact = is_exact  # whether the same bits are due: on a CPU, or in deterministic mode
        self._most = SAME if is_exact and is_same else ROUNDING  # is_same: versions, hardware and ranks of before

    def __len__(self) -> int:
        """How many steps are still to be compared."""
        return len(self._lines)

    def __call__(self, line: Mapping[str, Any]) -> Iterator[Alarm]:
        """The line of a step beside that of before. After the first difference nothing is compared: all follows it."""
        step = int(line["step"])
        before = self._lines.pop(step, None)
        if before is None:
            return
        what, severity = "", "critical"
        if before.get(BATCH) != line[BATCH]:
            what = "it reads other sequences than it read before: the data or its order is not the same"
        elif (off := max(_off(before, line, name) for name in (NATS, NORM))) > self._most:
            what = f"{NATS} or {NORM} is off by {off:.1%}: the state is not what it was, or the machine is faulty"
        elif off > 0 and self._is_exact:
            severity = "note"
            what = (
                "the same sequences, other bits: other ranks, threads, library or processor; or the machine is faulty"
            )
        if what:
            self._lines.clear()
            yield _alarm(severity, step, what, before, line)


def _alarm(severity: Severity, step: int, what: str, before: Mapping[str, Any], line: Mapping[str, Any]) -> Alarm:
    values = {f"{name}_before": before.get(name) for name in (NATS, NORM)} | {name: line[name] for name in (NATS, NORM)}
    evidence = {name: float(value) for name, value in values.items() if isinstance(value, float | int)}
    advice = (f"thetahat replay RUN --step {step}",)
    return Alarm("not-reproduced", severity, step, f"made again after a resume, {what}", evidence, advice=advice)


def _off(before: Mapping[str, Any], line: Mapping[str, Any], name: str) -> float:
    r"""$\lvert a - b \rvert / \lvert b \rvert$; 1 where one of them is no number."""
    then, now = before.get(name), line[name]
    if then == now:
        return 0.0
    if not isinstance(then, float) or not isinstance(now, float):
        return 1.0
    return abs(now - then) / max(abs(then), 1e-300)
