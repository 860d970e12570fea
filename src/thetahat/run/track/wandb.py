"""Weights & Biases: its server, or files in the folder of the run where there is no account or WANDB_MODE says so."""

import netrc
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from typing import Any, final
from urllib.parse import urlparse

from thetahat.run.track.sink import KINDS, PROJECT, Followed, Kind, Record, alarm_text

LEVELS = {"note": "INFO", "warning": "WARN", "critical": "ERROR"}


@final
class WandB:
    """A run of W&B. Its library keeps a row open until the next step, and takes no step again."""

    where = ""

    def begin(self, followed: Followed) -> Mapping[Kind, int]:
        """Begins the run, or goes on with it. Offline it is one folder: what a kill left of it is made again."""
        mode: Any = os.environ.get("WANDB_MODE") or (None if _has_account() else "offline")
        had = followed.settled
        if mode in ("offline", "dryrun"):
            had = _clear(followed)
        self._samples: list[list[Any]] = []
        self._wandb: Any = import_module("wandb")
        self._run: Any = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=followed.id,
            name=followed.name,
            dir=str(followed.folder),
            config=dict(followed.config),
            mode=mode,
            resume="allow",
            settings=self._wandb.Settings(
                console="off", silent=True, disable_git=True, disable_code=True, x_disable_meta=True
            ),
        )
        is_offline = self._run.settings.mode != "online"
        if not is_offline:
            had = self._run.step - 1
        self.where = f"wandb sync {followed.folder}/wandb/offline-run-*" if is_offline else str(self._run.url)
        return dict.fromkeys(KINDS, had)

    def take(self, record: Record) -> None:
        """Adds to the row of the step; an alarm is an alert."""
        line = record.line
        match record.kind:
            case "alarm":
                level: Any = LEVELS.get(line.get("severity", ""), "WARN")
                self._run.alert(line["name"], alarm_text(line), level=level)
                self._run.log({f"alarms/{line['name']}": 1}, step=record.step)
            case "sample":
                self._samples.append([record.step, line["prompt"], line["text"]])
                table = self._wandb.Table(columns=["step", "prompt", "text"], data=self._samples)
                self._run.log({"samples": table}, step=record.step)
            case _:
                self._run.log(record.numbers(), step=record.step)

    def settle(self) -> None:
        """Nothing: its own process writes."""

    def end(self, *, is_finished: bool) -> None:
        """Waits until all is written, or sent."""
        self._run.finish(exit_code=0 if is_finished else 1)


def _has_account() -> bool:
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    with suppress(OSError, netrc.NetrcParseError):
        if netrc.netrc(os.environ.get("NETRC")).authenticators(host or ""):
            return True
    return bool(os.environ.get("WANDB_API_KEY"))


def _clear(followed: Followed) -> int:
    """Deletes the offline folders of the run that were not sent, and says up to which step the others have it."""
    folders = list((followed.folder / "wandb").glob(f"offline-run-*-{followed.id}"))
    sent = [folder for folder in folders if list(folder.glob("*.synced"))]
    for folder in set(folders) - set(sent):
        shutil.rmtree(folder)
    return followed.settled if sent else -1
