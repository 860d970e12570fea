"""How long ranks wait for each other."""

from typing import Annotated

from msgspec import Meta

from thetahat.core.config import Config

Seconds = Annotated[float, Meta(ge=3.0, le=1e6)]


class HeartbeatConfig(Config, kw_only=True):
    """How long several ranks wait for one that is lost or hangs, before all end with exit code 11; one waits for none.

    Preparation has no limit while all ranks are heard of.
    """

    silence: Seconds = 15.0
    """Seconds without a sign of life after which a rank counts as lost."""
    stall: Seconds = 45.0
    """Seconds in which no rank comes on within a step, as where a collective hangs; or five times the longest pause so
    far, if that is more.
    """
    patience: Seconds = 1800.0
    """The same for the rest: the first step, an evaluation, a checkpoint, the plan of an epoch."""
