"""The config of what looks for faults."""

import difflib
import re
from typing import Annotated, Literal

from msgspec import Meta, field

from thetahat.core.config import Config
from thetahat.core.errors import ConfigError
from thetahat.diagnosis.alarms.alarm import AFTER, NAMES, OF_A_BATCH, Action

REWIND_BATCHES = 10  # a spike of the loss follows its cause by 1 to 8 updates (Wortsman et al., 2023)
MAX_REWINDS = 3


class DiagnosisConfig(Config, kw_only=True):
    """What looks for faults, before a run and during it."""

    preflight: Literal["stop", "warn", "off"] = "stop"
    """Whether a check that fails before the first step ends the run; warn: it is logged, and off: nothing is checked.
    """
    memorize: Annotated[int, Meta(ge=0)] = 0
    """Updates in which one micro-batch must be learned by heart before the first step, which are then undone; 0: it is
    not asked.
    """
    alarms: bool = True
    """Whether every step is compared with what is usual, and what stands out is written to alarms.jsonl."""
    every: Annotated[int, Meta(ge=0)] = 50
    """Steps between two measurements of updates, attention and ranks, which metrics.jsonl has by part of the model; 0:
    none.
    """
    patience: Annotated[int, Meta(ge=0)] = 0
    """Early stopping: evaluations in a row without a better held-out value than the best, after which no-improvement is
    an alarm; 0: it is none. diagnosis.policies.no-improvement=stop ends the run with it.
    """
    policies: dict[str, Action] = field(default_factory=dict[str, Action])
    """What an alarm does, by its name: record, skip (the update of the step is left out), rewind (the run goes back
    some steps and leaves their updates out) or stop (the run is saved and ends): diagnosis.policies.loss-spike=skip.
    All are recorded, and non-finite also stops.
    """
    rewind_batches: Annotated[int, Meta(ge=1)] = REWIND_BATCHES
    """Updates that rewind undoes and leaves out: that of the alarm, and the last ones before it that were made."""
    max_rewinds: Annotated[int, Meta(ge=1)] = MAX_REWINDS
    """How often a run goes back, all alarms together; the next alarm whose policy is rewind stops it."""

    webhook: str | None = None
    """A URL to which each alarm is posted as JSON; none: none is. What fails is said once and disturbs nothing."""

    def __post_init__(self) -> None:
        if self.memorize and self.preflight == "off":
            raise ConfigError(
                f"diagnosis.memorize={self.memorize} has no effect: diagnosis.preflight=off",
                cure="diagnosis.preflight=stop, or leave it out",
            )
        if self.webhook is not None and not re.fullmatch(r"https?://[^\s/]+\S*", self.webhook):
            raise ConfigError(f"diagnosis.webhook={self.webhook} is no URL", allowed="https://... or http://...")
        if self.webhook is not None and not self.alarms:
            raise ConfigError(
                "diagnosis.webhook has no effect: diagnosis.alarms=false", cure="diagnosis.alarms=true, or no webhook"
            )
        if unknown := [name for name in self.policies if name not in NAMES]:
            near = difflib.get_close_matches(unknown[0], NAMES, n=1)
            cure = f"diagnosis.policies.{near[0]}={self.policies[unknown[0]]}" if near else ""
            raise ConfigError(f"diagnosis.policies.{unknown[0]} is no alarm", allowed=", ".join(NAMES), cure=cure)
        if self.policies.get("non-finite") == "record":
            raise ConfigError(
                "diagnosis.policies.non-finite=record would put what is not finite into the parameters",
                allowed="skip, rewind, stop",
            )
        self._check_rewinds()
        if self.policies and not self.alarms:
            raise ConfigError(
                f"diagnosis.policies.{next(iter(self.policies))} has no effect: diagnosis.alarms=false",
                cure="diagnosis.alarms=true, or leave the policy out",
            )
        if "no-improvement" in self.policies and not self.patience:
            raise ConfigError(
                "diagnosis.policies.no-improvement has no effect: diagnosis.patience=0", cure="diagnosis.patience=3"
            )
        if self.patience and not self.alarms:
            raise ConfigError(
                f"diagnosis.patience={self.patience} has no effect: diagnosis.alarms=false",
                cure="diagnosis.alarms=true",
            )
        if late := [name for name, action in self.policies.items() if action == "skip" and name in AFTER]:
            raise ConfigError(
                f"diagnosis.policies.{late[0]}=skip comes too late: it is found after the update",
                allowed="record, stop",
            )

    def _check_rewinds(self) -> None:
        """Raises ConfigError for what cannot go back, and for settings of going back where nothing does."""
        for key, value, usual in (
            ("rewind_batches", self.rewind_batches, REWIND_BATCHES),
            ("max_rewinds", self.max_rewinds, MAX_REWINDS),
        ):
            if value != usual and not self.rewinds:
                raise ConfigError(
                    f"diagnosis.{key}={value} has no effect: no policy is rewind",
                    cure="diagnosis.policies.loss-spike=rewind, or leave it out",
                )
        no_batch = [name for name, action in self.policies.items() if action == "rewind" and name not in OF_A_BATCH]
        if no_batch:
            raise ConfigError(
                f"diagnosis.policies.{no_batch[0]}=rewind cannot help: it does not come from single batches",
                allowed=f"record, skip, stop; rewind for {', '.join(name for name in NAMES if name in OF_A_BATCH)}",
            )

    @property
    def rewinds(self) -> bool:
        """Whether an alarm may take the run back."""
        return "rewind" in self.policies.values()

    def action(self, name: str) -> Action:
        """What the alarm of this name does."""
        return self.policies.get(name, "stop" if name == "non-finite" else "record")

    @property
    def acting(self) -> dict[str, Action]:
        """The policies on which parameters depend."""
        return {name: action for name, action in self.policies.items() if action in ("skip", "rewind")}
