"""What trackers have of a run, read back from their own stores: step and value of curves, in the order of storing."""

import json
import struct
from pathlib import Path

CURVES = "train/log_likelihood_per_token", "held_out/bits_per_byte"


def tensorboard(run: Path, _: str) -> dict[str, list]:
    """This reader cuts curves where a later file begins; texts of that step it has twice, which its server has not."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(run / "track" / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0})
    found.Reload()
    tags = found.Tags()
    curves = {name: [(one.step, one.value) for one in found.Scalars(name)] for name in tags["scalars"]}
    texts = {name: [one.step for one in found.Tensors(name)] for name in tags["tensors"]}
    return curves | {
        "alarms": sorted(step for name, steps in texts.items() if name.startswith("alarms/") for step in set(steps)),
        "samples": sorted(step for name, steps in texts.items() if name.startswith("samples/") for step in set(steps)),
    }


def wandb(run: Path, id: str) -> dict[str, list]:
    from wandb.proto import wandb_internal_pb2

    found = {"alarms": [], "samples": [], **{name: [] for name in CURVES}}
    for path in sorted((run / "track" / "wandb").glob(f"offline-run-*-{id}/*.wandb")):
        for data in records_of(path):
            record = wandb_internal_pb2.Record.FromString(data)
            step = record.history.step.num
            row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            for name in CURVES:
                if name in row:
                    found[name].append((step, row[name]))
            found["samples"] += [step] * any(name.split("/")[0] == "samples" for name in row)
            found["alarms"] += [step] * any(name.startswith("alarms/") for name in row)
    return found


def records_of(path: Path):
    """The records of a log as LevelDB writes it, in blocks of 32 KiB."""
    data, place, parts = path.read_bytes(), 7, []
    while place + 7 <= len(data):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        if kind == 0 or place + 7 + length > len(data):
            return
        parts.append(data[place + 7 : place + 7 + length])
        place += 7 + length
        if kind in (1, 4):  # whole, or the last of several
            yield b"".join(parts)
            parts = []


def trackio(_: Path, id: str) -> dict[str, list]:
    from trackio.sqlite_storage import SQLiteStorage

    rows = SQLiteStorage.get_logs("thetahat", id)
    alerts = SQLiteStorage.get_alerts("thetahat", run_name=id)
    return {name: [(row["step"], row[name]) for row in rows if name in row] for name in CURVES} | {
        "alarms": sorted(alert["step"] for alert in alerts),
        "samples": [row["step"] for row in rows if "samples" in row],
    }


def mlflow(run: Path, id: str) -> dict[str, list]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{run.resolve().parent / 'mlflow.db'}")
    place = client.get_experiment_by_name("thetahat").experiment_id
    (found,) = client.search_runs([place], f"tags.`thetahat.id` = '{id}'")
    folder = run.resolve().parent / "mlartifacts" / found.info.run_id / "artifacts"

    def steps(name):
        path = folder / name
        return [json.loads(line)["step"] for line in path.read_text().splitlines()] if path.exists() else []

    histories = {name: client.get_metric_history(found.info.run_id, name) for name in CURVES}
    return {name: [(one.step, one.value) for one in history] for name, history in histories.items()} | {
        "alarms": steps("alarms.jsonl"),
        "samples": steps("samples.jsonl"),
    }
