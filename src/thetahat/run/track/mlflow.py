"""MLflow: a store in a SQLite file beside the runs, or the one that MLFLOW_TRACKING_URI names."""

import os
import time
from collections.abc import Mapping
from importlib import import_module
from typing import Any, final

from thetahat.run.track.sink import KINDS, PROJECT, Followed, Kind, Record

ID = "thetahat.id"  # tag by which a run is found again
MOST = 1000  # numbers that a store takes at once
MOST_PARAMS = 100  # likewise of parameters
LONGEST = 500  # characters of a parameter


@final
class MLflow:
    """A run of MLflow. A step goes to the store whole, so that its history says which were taken."""

    where = ""

    def begin(self, followed: Followed) -> Mapping[Kind, int]:
        """Finds the run by its id, or begins it, and asks for its history."""
        beside, store = followed.run.resolve().parent, os.environ.get("MLFLOW_TRACKING_URI")
        uri = store or f"sqlite:///{beside / 'mlflow.db'}"
        self.where = f"mlflow ui --backend-store-uri {uri}"
        self._client: Any = import_module("mlflow.tracking").MlflowClient(tracking_uri=uri)
        self._run, self._waiting, self._changed = followed.run, list[Any](), set[str]()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self._client.get_experiment_by_name(name)
        files = None if store else (beside / "mlartifacts").as_uri()
        place = found.experiment_id if found else self._client.create_experiment(name, artifact_location=files)
        runs = self._client.search_runs([place], f"tags.`{ID}` = '{followed.id}'")
        if runs:
            self._id = runs[0].info.run_id
            self._client.update_run(self._id, status="RUNNING")
        else:
            self._id = self._client.create_run(place, run_name=followed.name, tags={ID: followed.id}).info.run_id
            param = import_module("mlflow.entities").Param
            values = [param(key, str(value)[:LONGEST]) for key, value in followed.config.items()]
            for first in range(0, len(values), MOST_PARAMS):
                self._client.log_batch(self._id, params=values[first : first + MOST_PARAMS])
        self._client.log_artifact(self._id, str(followed.run / "config.toml"))
        return self._known()

    def _known(self) -> Mapping[Kind, int]:
        """The last step of both sections; alarms and samples are files, which are copied as they are."""
        names: dict[str, Any] = self._client.get_run(self._id).data.metrics
        have: dict[Kind, int] = dict.fromkeys(KINDS, -1)
        markers: dict[Kind, str] = {"step": "train/log_likelihood_per_token", "evaluation": "held_out/num_tokens"}
        for kind, name in markers.items():
            if name in names:
                have[kind] = max(one.step for one in self._client.get_metric_history(self._id, name))
        return have

    def take(self, record: Record) -> None:
        """Keeps numbers for the next request, and copies the file of alarms or samples with it."""
        if record.kind in ("alarm", "sample"):
            self._changed.add(f"{record.kind}s.jsonl")
            return
        now = int(time.time() * 1000)
        metric = import_module("mlflow.entities").Metric
        numbers = [metric(name, value, now, record.step) for name, value in record.numbers().items()]
        if len(self._waiting) + len(numbers) > MOST:
            self._send()
        self._waiting += numbers

    def _send(self) -> None:
        for first in range(0, len(self._waiting), MOST):
            self._client.log_batch(self._id, metrics=self._waiting[first : first + MOST])
        self._waiting = []

    def settle(self) -> None:
        """Sends what waits."""
        self._send()
        while self._changed:
            self._client.log_artifact(self._id, str(self._run / self._changed.pop()))

    def end(self, *, is_finished: bool) -> None:
        """Sends what waits, and ends the run; one that was paused is KILLED until it goes on."""
        self.settle()
        self._client.set_terminated(self._id, "FINISHED" if is_finished else "KILLED")
