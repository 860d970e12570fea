"""The config of what looks for faults."""

from typing import Literal

from thetahat.core.config import Config


class DiagnosisConfig(Config, kw_only=True):
    """What looks for faults, before a run and during it."""

    preflight: Literal["stop", "warn", "off"] = "stop"
    """Whether a check that fails before the first step ends the run; warn: it is logged, and off: nothing is checked.
    """
