"""checks.json: what was found before the first step of a run."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from thetahat.core import store
from thetahat.core.plain import fields_as_json
from thetahat.diagnosis.finding import Finding

CHECKS = "checks.json"


def write_checks(folder: Path, found: Sequence[Finding]) -> None:
    """Writes all that was found; an empty list where nothing was."""
    store.write_json(folder / CHECKS, {"found": [fields_as_json(one) for one in found]})


def read_checks(folder: Path) -> tuple[Finding, ...] | None:
    """What was found; None where nothing was looked for, or nothing can be read."""
    try:
        return msgspec.json.decode((folder / CHECKS).read_bytes(), type=dict[str, tuple[Finding, ...]])["found"]
    except (OSError, KeyError, ValueError, msgspec.MsgspecError):
        return None
