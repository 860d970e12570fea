"""`thetahat runs`."""

import time
from pathlib import Path

import typer

from thetahat.cli.table import Column, show_table
from thetahat.cli.words import Json, Quiet, emit_json, listen_to_library, say


def runs(
    folder: Path = typer.Argument(Path("runs"), metavar="[DIR]", help="A folder of runs, or one of them."),
    quiet: bool = Quiet,
    json: bool = Json,
) -> None:
    """List runs: what each was branched from, how far it is, what it came to, when, and its size."""
    listen_to_library(quiet=quiet)
    from thetahat.run.folder.listing import list_runs

    found = list_runs(folder)
    if json:
        emit_json({"runs": found})
        return
    columns = [
        Column("run", lambda run: run.run),
        Column("state", lambda run: run.state),
        Column("step", lambda run: run.step, ","),
        Column("of", lambda run: run.num_steps, ","),
        Column("bits/byte", lambda run: run.held_out if run.unit == "bits/byte" else None, ".4f"),
        Column("nats/label", lambda run: run.held_out if run.unit == "nats/label" else None, ".4f", spare=1),
        Column("best", lambda run: run.best, ".4f"),
        Column("at step", lambda run: run.best_step, ",", spare=2),
        Column("from", lambda run: run.parent or run.base or "", spare=3),
        Column("trained", lambda run: time.strftime("%Y-%m-%d %H:%M", time.localtime(run.changed)), "", spare=4),
        Column("MB", lambda run: run.num_bytes / 1e6, ",.1f", spare=5),
    ]
    show_table(found, columns)
    if quiet:
        return
    for run in found:
        if run.fault:
            say(f"{run.run}: {run.fault}")
    if not found:
        say(f"{folder} holds no run. Next: thetahat train")
    elif last := next((run for run in reversed(found) if run.state == "paused"), None):
        say(f"\nNext: thetahat train {last.run}    goes on with it")
