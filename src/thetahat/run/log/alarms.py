"""The alarms that a run folder holds."""

from pathlib import Path
from typing import Any

import msgspec

from thetahat.core.errors import ModelError
from thetahat.diagnosis.alarms.alarm import Alarm
from thetahat.run.log.history import told_lines
from thetahat.run.log.rewinds import read_rewinds

ALARMS = "alarms.jsonl"


def read_alarms(run: Path) -> tuple[list[Alarm], list[str]]:
    """The alarms of a run by step, and notes that say which lines are none: torn, damaged, or of another program.

    Those that took it back are among them, though what they were of is undone.
    """
    path, found, damaged = run / ALARMS, dict[tuple[int, str], Alarm](), list[int]()
    try:
        data = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}") from error
    for number, line in enumerate(data.splitlines(), start=1):
        try:
            read: Any = msgspec.json.decode(line)
            alarm = msgspec.convert(read, Alarm, strict=False)  # what is not finite is text there
        except (msgspec.MsgspecError, ValueError):
            damaged.append(number)
            continue
        found[alarm.step, alarm.name] = alarm
    found |= {(alarm.step, alarm.name): alarm for rewind in read_rewinds(run) for alarm in rewind.alarms}
    notes = [f"{ALARMS}: {told_lines(damaged)} cannot be read, and left out"] if damaged else []
    return sorted(found.values(), key=lambda alarm: alarm.step), notes
