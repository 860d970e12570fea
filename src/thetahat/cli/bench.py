"""`thetahat bench`."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from thetahat.cli.options import options_of, typed_as
from thetahat.cli.table import Column, show_table, show_values
from thetahat.cli.words import (
    Json,
    Quiet,
    emit,
    emit_json,
    emit_words,
    find_config,
    in_line,
    is_first_rank,
    listen_to_library,
    say,
)
from thetahat.core.plain import sized

if TYPE_CHECKING:
    from thetahat.verbs.bench import Benched


@dataclass(frozen=True, slots=True)
class Typed:
    """How much is measured, as it was typed."""

    steps: int = typer.Option(12, min=3, help="Steps that are measured.")
    peer: bool = typer.Option(False, "--peer", help="The same model as a plain loop over transformers, in turns.")
    trace: Path | None = typer.Option(
        None, metavar="FILE", help="A trace of two steps for Perfetto or chrome://tracing.", show_default=False
    )


@options_of(Typed)
def bench(
    words: list[str] | None = typer.Argument(
        None, metavar="[RECIPE|CONFIG.toml|MODEL] [DATA]... [KEY=VALUE]...", show_default=False
    ),
    quiet: bool = Quiet,
    json: bool = Json,
    **typed: Any,
) -> None:
    """Measure how quick a training is on this machine: its ceilings, steps, memory, and where their time goes.

    Steps are the trainer's own, on the config's own data; what they train is thrown away, and no run is touched.
    """
    listen_to_library(quiet=quiet, facts=False)
    asked = typed_as(Typed, typed)
    if asked.trace is not None:
        _check_writable(asked.trace)
    config = find_config(words)
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler says nothing about itself
    from thetahat.verbs.bench import BenchConfig, bench as measure

    found = measure(config, BenchConfig(steps=asked.steps, trace=str(asked.trace or ""), peer=asked.peer))
    if not is_first_rank():
        return
    if json:
        emit_json(found)
    else:
        _show(found)
    if quiet:
        return
    for note in found.notes:
        say(f"note: {note}")
    if asked.trace is not None:
        say(f"\nThe trace is {asked.trace}: open it in https://ui.perfetto.dev")
    say(f"\nNext: thetahat cost {' '.join(words or []) or 'quickstart'}    what the whole training takes")


def _check_writable(path: Path) -> None:
    """Raises ConfigError where a trace could not be written, before anything is measured."""
    from thetahat.core.errors import ConfigError

    if path.is_dir() or not path.parent.is_dir():
        why = "is a folder" if path.is_dir() else f"lies in {path.parent}, which is no folder"
        raise ConfigError(f"--trace {path} {why}", allowed="a file in a folder that is there", cure="trace.json")


def _show(found: "Benched") -> None:
    pace, memory = found.pace, found.memory
    ranks = f", {found.num_ranks} ranks" if found.num_ranks > 1 else ""
    emit_words(f"{in_line(found.name)}: {found.num_steps} steps on {in_line(found.machine)}{ranks}\n")
    columns = [
        Column("this machine reaches", lambda row: row.what),
        Column("best", lambda row: _rate(row.best, row.unit), ""),
        Column("slowest round", lambda row: _rate(min(row.each), row.unit), ""),
    ]
    show_table(found.ceilings, columns)
    emit("")
    measured = "-" if memory.measured is None else sized(memory.measured)
    said = "" if memory.said is None else f"; thetahat cost says {sized(memory.said)}"
    show_values({
        "seconds of a step": f"{pace.median:.4g} (a tenth below {pace.low:.4g}, a tenth above {pace.high:.4g})",
        "targets a second": f"{pace.targets_per_second:,.0f}",
        "positions a second": f"{pace.positions_per_second:,.0f}, of which {pace.padding:.1%} are padding",
        "operations of a step": f"{pace.flops / 1e9:,.4g} GFLOP, and {pace.update_flops / 1e9:,.3g} to update",
        "utilisation": f"{found.utilisation:.1%} of the quickest product; {found.with_update:.1%} with the update",
        "memory": f"{measured}, {memory.how}{said}",
        "seconds to the first step": f"{found.preparing:.3g} to prepare, {found.first_step:.3g} for itself",
    })  # fmt: skip
    emit("")
    shares = [
        Column("where the time goes", lambda row: row.kind),
        Column("ms of all threads", lambda row: 1000 * row.seconds, ",.4g"),
        Column("share", lambda row: row.share, ".1%"),
    ]
    show_table(found.shares, shares)
    if (peer := found.peer) is not None:
        emit_words(
            f"\nA plain loop over transformers ({peer.family}, AdamW) takes {peer.ratio:.3f} times as long for a "
            f"step (a tenth of {peer.num_pairs} turns below {peer.low:.3f}, a tenth above {peer.high:.3f}). They "
            f"say {peer.ours:.6f} and {peer.theirs:.6f} nats a target of one batch."
        )


def _rate(rate: float, unit: str) -> str:
    """In units of which there is at least one."""
    scale, name = next((one for one in ((1e12, "T"), (1e9, "G"), (1e6, "M")) if rate >= one[0]), (1.0, ""))
    return f"{rate / scale:,.3g} {name}{unit}"
