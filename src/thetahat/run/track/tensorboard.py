"""TensorBoard: event files in the folder of the run."""

import time
from collections.abc import Mapping
from importlib import import_module
from typing import Any, final

from thetahat.run.track.sink import KINDS, Followed, Kind, Record, alarm_text


@final
class TensorBoard:
    """Event files; readers drop what is behind the step at which a later file begins, which cuts a resumed run back."""

    where = ""

    def begin(self, followed: Followed) -> Mapping[Kind, int]:
        """Begins anew at the last step that it had, whose evaluation may have come later."""
        folder = followed.folder / "tensorboard"
        self.where = f"tensorboard --logdir {folder}"
        had = max(min(followed.settled, followed.from_step), 0) - 1
        is_new = not folder.is_dir()
        writer = import_module("tensorboard.summary.writer.event_file_writer").EventFileWriter
        self._writer: Any = writer(str(folder), flush_secs=10)
        if not is_new:
            event = self._event(had + 1)
            event.session_log.status = self._proto("event").SessionLog.START
            self._writer.add_event(event)
        if had < 0:
            self._add(0, [self._text("config", f"```\n{followed.config_text}\n```")])
        return dict.fromkeys(KINDS, had)

    def take(self, record: Record) -> None:
        """Adds an event."""
        line = record.line
        match record.kind:
            case "alarm":
                values = [self._text(f"alarms/{line['name']}", alarm_text(line))]
            case "sample":
                values = [self._text(f"samples/{line['prompt'][:60]}", f"```\n{line['prompt']}{line['text']}\n```")]
            case _:
                value_of = self._proto("summary").Summary.Value
                values = [value_of(tag=name, simple_value=value) for name, value in record.numbers().items()]
        self._add(record.step, values)

    def _add(self, step: int, values: list[Any]) -> None:
        self._writer.add_event(self._event(step, summary=self._proto("summary").Summary(value=values)))

    def _event(self, step: int, **what: Any) -> Any:
        return self._proto("event").Event(step=step, wall_time=time.time(), **what)

    def _proto(self, name: str) -> Any:
        return import_module(f"tensorboard.compat.proto.{name}_pb2")

    def _text(self, name: str, text: str) -> Any:
        kind, encoded = self._proto("types").DT_STRING, text.encode("utf-8", "replace")
        tensor = self._proto("tensor").TensorProto(dtype=kind, string_val=[encoded])
        metadata = import_module("tensorboard.plugins.text.metadata").create_summary_metadata(name, "")
        return self._proto("summary").Summary.Value(tag=name, tensor=tensor, metadata=metadata)

    def settle(self) -> None:
        """Flushes the file."""
        self._writer.flush()

    def end(self, *, is_finished: bool) -> None:
        """Closes the file."""
        self._writer.close()
