"""trackio: its own store on this machine, or the Space or server that its variables name."""

import os
from collections.abc import Mapping
from importlib import import_module
from typing import Any, final

from thetahat.run.track.sink import KINDS, PROJECT, Followed, Kind, Record, alarm_text

LEVELS = {"note": "INFO", "warning": "WARN", "critical": "ERROR"}


@final
class Trackio:
    """A run of trackio; a row a step, and one an evaluation."""

    where = ""

    def begin(self, followed: Followed) -> Mapping[Kind, int]:
        """Begins the run, or goes on with it, and asks the store on this machine what it has."""
        project = os.environ.get("TRACKIO_PROJECT", PROJECT)
        self.where = f'trackio show --project "{project}"'
        self._trackio: Any = import_module("trackio")
        have = self._known(project, followed)
        self._run: Any = self._trackio.init(
            project, followed.id, config=dict(followed.config), resume="allow", embed=False, auto_log_cpu=False
        )
        return have

    def _known(self, project: str, followed: Followed) -> Mapping[Kind, int]:
        """What a server elsewhere has is not asked: it has what was settled."""
        if os.environ.get("TRACKIO_SPACE_ID") or os.environ.get("TRACKIO_SERVER_URL"):
            return dict.fromkeys(KINDS, followed.settled)
        have: dict[Kind, int] = dict.fromkeys(KINDS, -1)
        markers: dict[Kind, str] = {"step": "train/tokens", "evaluation": "held_out/num_tokens", "sample": "samples"}
        storage: Any = import_module("trackio.sqlite_storage").SQLiteStorage
        for row in storage.get_logs(project, followed.id):
            for kind, name in markers.items():
                if name in row:
                    have[kind] = max(have[kind], row["step"])
        alerts = storage.get_alerts(project, run_name=followed.id)
        have["alarm"] = max((alert["step"] for alert in alerts), default=-1)
        return have

    def take(self, record: Record) -> None:
        """Adds a row, or an alert."""
        line = record.line
        match record.kind:
            case "alarm":
                level = getattr(self._trackio.AlertLevel, LEVELS.get(line.get("severity", ""), "WARN"))
                self._run.alert(line["name"], alarm_text(line), level=level, step=record.step)
            case "sample":
                self._run.log(
                    {"samples": self._trackio.Markdown(f"{line['prompt']}**|**{line['text']}")}, step=record.step
                )
            case _:
                self._run.log(record.numbers(), step=record.step)

    def settle(self) -> None:
        """Nothing: its own thread sends within a second."""

    def end(self, *, is_finished: bool) -> None:
        """Waits until all is sent."""
        self._run.finish()
