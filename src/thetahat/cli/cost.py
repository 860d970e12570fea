"""`thetahat cost`."""

import os
import shutil
import sys
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
    listen_to_library,
    say,
    split_words,
)
from thetahat.core.plain import duration, sized

if TYPE_CHECKING:
    from thetahat.run.config import RunConfig
    from thetahat.verbs.cost import Cost, Estimate, Machines

AXIS = "mesh."


@dataclass(frozen=True, slots=True)
class Typed:
    """Where it would run, and what is changed, as it was typed."""

    on: list[str] | None = typer.Option(
        None, metavar="GPU", help="h100, a100, l4, ...; here: this machine; may come again.", show_default=False
    )
    gpus: int = typer.Option(1, min=1, help="How many of them; the quickest layouts that fit are shown.")
    piece: float | None = typer.Option(
        None, min=1, help="Tokens of a document, where rows hold several; default a row.", show_default=False
    )
    utilisation: float | None = typer.Option(
        None, min=0.01, max=1, help="Of the peak, in place of the measured shares.", show_default=False
    )
    over: str = typer.Option("", metavar="KEY=A,B,...", help="The same for each of these values.", show_default=False)
    plot: bool = typer.Option(False, "--plot", help="Memory, operations and speed as curves.")
    out: Path | None = typer.Option(None, help="The curves as .svg, .png or .pdf.", show_default=False)


@options_of(Typed)
def cost(
    words: list[str] | None = typer.Argument(
        None, metavar="[RECIPE|CONFIG.toml|MODEL] [KEY=VALUE]...", show_default=False
    ),
    quiet: bool = Quiet,
    json: bool = Json,
    **typed: Any,
) -> None:
    """Say what a training costs and whether it fits: parameters, FLOPs, memory, time, energy, here and on named GPUs.

    Nothing is loaded and nothing is trained. mesh.shards=8 mesh.tensor=2, and replicas, context and pipeline, say how
    ranks share the work.
    """
    listen_to_library(quiet=quiet)
    asked = typed_as(Typed, typed)
    words, mesh = _without_mesh(words or [])
    what, training = _asked_about(words)
    from thetahat.verbs.cost import contexts_around, cost as price

    config = training if training is not None else what
    over = asked.over
    if (asked.plot or asked.out) and not over:
        over = contexts_around(config)  # pyright: ignore[reportArgumentType]
    found = price(what, training=training, on=_on(asked, mesh), piece=asked.piece, over=over)
    if asked.out:
        found.plot().save(asked.out)
    if json:
        emit_json(found)
        return
    _show(found)
    if asked.plot:
        has_colours = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        emit("\n" + found.plot().text(shutil.get_terminal_size().columns, has_colours=has_colours))
    if not quiet:
        say(f"\nNext: thetahat train {' '.join(words) or 'quickstart'}")


OFFLOAD = {f"{AXIS}offload=true": ("offload", True), f"{AXIS}offload=false": ("offload", False)}


def _without_mesh(words: list[str]) -> tuple[list[str], dict[str, Any]]:
    """The words that are no mesh.AXIS=N, and those that are."""
    from thetahat.core.errors import ConfigError
    from thetahat.run.cost.mesh import AXES

    mesh: dict[str, Any] = dict(OFFLOAD[word] for word in words if word in OFFLOAD)
    for word in (word for word in words if word.startswith(AXIS) and word not in OFFLOAD):
        axis, _, number = word.removeprefix(AXIS).partition("=")
        if axis not in AXES or not number.isdigit() or int(number) < 1:
            raise ConfigError(
                f"{word} is no axis of a mesh with a number of ranks",
                allowed=", ".join(f"{AXIS}{axis}=N" for axis in AXES),
                cure=f"{AXIS}shards=8",
            )
        mesh[axis] = int(number)
    return [word for word in words if not word.startswith(AXIS)], mesh


def _asked_about(words: list[str]) -> "tuple[str | RunConfig, RunConfig | None]":
    """A config; or a model, with the config that it was or would be trained by."""
    from thetahat.cli.info import is_model, training_of
    from thetahat.recipes.catalogue import RECIPES
    from thetahat.run.folder.absent import refuse_absent

    names, pairs = split_words(words)
    name = names[0] if names else ""
    if not names or name in RECIPES or name.endswith(".toml") or not is_model(name):
        return find_config(words), None
    refuse_absent(name)
    return name, training_of(name, pairs)


def _on(asked: Typed, mesh: dict[str, Any]) -> "Machines":
    from thetahat.core.errors import ConfigError
    from thetahat.run.cost.mesh import Mesh
    from thetahat.verbs.cost import EVERYWHERE, Machines

    laid = Mesh(**mesh) if mesh else None
    if laid and asked.gpus not in (1, laid.num_ranks):
        cure = f"--gpus {laid.num_ranks}, or no --gpus"
        raise ConfigError(f"{laid} is a mesh of {laid.num_ranks} ranks, and --gpus is {asked.gpus}", cure=cure)
    names = tuple(asked.on) if asked.on else EVERYWHERE.gpus
    if (asked.gpus > 1 or laid) and not asked.on:
        names = names[1:]  # this machine has no others beside it
    return Machines(names, asked.gpus, laid, asked.utilisation)


def _show(found: "Cost") -> None:
    one = found.estimate
    counts = f"{found.num_parameters:,} parameters, {found.num_trainable:,} of them trained"
    if found.num_active != found.num_parameters:
        counts += f", {found.num_active:,} active for each token"
    emit_words(f"{in_line(found.name)}: {counts}\n")
    rows = [*found.parameters.items(), ("all", found.num_parameters)]
    columns = [
        Column("parameters", lambda row: row[0]),
        Column("number", lambda row: row[1], ","),
        Column("share", lambda row: row[1] / found.num_parameters, ".1%"),
    ]
    show_table(rows, columns)
    emit("")
    _show_operations(one)
    emit("")
    _show_memory(one)
    emit("")
    _show_placed(one)
    if found.layouts:
        emit("")
        _show_layouts(found)
    if found.points:
        emit("")
        _show_points(found)


def _show_operations(one: "Estimate") -> None:
    each, tokens = one.operations, one.operations.num_tokens
    rows = [
        ("forward: matrices", each.blocks),
        (f"forward: attention over {one.context:,} positions", each.attention),
        ("forward: head", each.head),
        ("backward", each.backward),
        ("backward: logits of chunks again", each.again),
        ("update", each.update),
        ("all", each.total),
    ]
    columns = [
        Column("operations", lambda row: row[0]),
        Column("MFLOP a token", lambda row: row[1] / tokens / 1e6, ",.3f"),
        Column("share", lambda row: row[1] / each.total, ".1%"),
    ]
    show_table([row for row in rows if row[1]], columns)
    per_position = 2 * each.attention / tokens / one.context
    grows = f"Attention grows by {per_position / 1e3:,.1f} kFLOP forward for each position that is seen."
    convention = f"As if all positions were seen, as is the convention: {one.flops_per_token / 1e6:,.1f} MFLOP a token."
    emit_words(f"\nA step: {each.total:.4g} FLOP for {tokens:,} tokens. {grows} {convention}")


def _show_memory(one: "Estimate") -> None:
    memory, asks = one.memory, one.inference
    parts = {name: sized(getattr(memory, name)) for name in ("parameters", "gradients", "optimizer", "average")}
    parts |= {name: sized(getattr(memory, name)) for name in ("activations", "logits", "update")}
    show_values({
        f"memory of {memory.num_rows:,} rows at once": sized(memory.total),
        **{f"  {name}": value for name, value in parts.items() if not value.startswith("0 ")},
        "keys and values": f"{sized(asks.cache_per_token)} a token, {sized(asks.cache)} for {asks.context:,}",
    })  # fmt: skip


def _show_placed(one: "Estimate") -> None:
    columns = [
        Column("on", lambda row: row.name if row.num_gpus == 1 else f"{row.num_gpus:,} {row.name}"),
        Column("fits", lambda row: "yes" if row.fits else "no"),
        Column("needs", lambda row: "-" if row.needed == float("inf") else sized(row.needed)),
        Column("room", lambda row: sized(row.room)),
        Column("for rows", lambda row: row.most_rows, ",", 1),
        Column("tokens/s", lambda row: row.tokens_per_second, ",.0f"),
        Column("step", lambda row: None if row.seconds is None else _brief(row.seconds), ""),
        Column("of peak", lambda row: row.utilisation, ".0%"),
        Column("run", lambda row: None if row.hours is None else duration(3600 * row.hours), ""),
        Column("kWh", lambda row: row.kwh, ",.3g"),
        Column("writes/s", lambda row: row.written_per_second, ",.0f", 2),
        Column("else", lambda row: row.cure, None, 1),
    ]
    show_table(one.placed, columns)
    if one.is_float8:
        emit_words("Times are those of products in bfloat16: how quick training in float8 is, was not measured.")
    if (laid := one.placed[-1].layout if one.placed else None) and laid.memory.host:
        emit_words(f"Beside it each rank needs {sized(laid.memory.host)} of the host: {laid.mesh}.")


def _brief(seconds: int | float) -> str:
    return f"{seconds * 1000:,.3g} ms" if seconds < 1 else f"{seconds:,.3g} s"


def _show_layouts(found: "Cost") -> None:
    columns = [
        Column("layout", lambda row: str(row.mesh)),
        Column("again", lambda row: row.mesh.recomputed, ".0%"),
        Column("rows", lambda row: row.rows, ","),
        Column("memory", lambda row: sized(row.memory.total)),
        Column("received", lambda row: sized(sum(row.traffic.to_dict().values()))),
        Column("step", lambda row: _brief(row.seconds)),
        Column("tokens/s/GPU", lambda row: row.tokens_per_second, ",.0f"),
        Column("of peak", lambda row: row.utilisation, ".0%"),
    ]
    show_table(found.layouts, columns)


def _show_points(found: "Cost") -> None:
    columns = [
        Column(found.over, lambda row: row.value),
        Column("parameters", lambda row: row.num_parameters, ","),
        Column("MFLOP a token", lambda row: row.operations.total / row.operations.num_tokens / 1e6, ",.2f"),
        Column("memory", lambda row: sized(row.memory.total)),
        Column("keys, values", lambda row: sized(row.inference.cache)),
    ]
    for number, placed in enumerate(found.estimate.placed):
        columns.append(_speed(placed.name, number))
    show_table(found.points, columns)


def _speed(name: str, number: int) -> Column:
    """Tokens a second on one of the devices; those that do not fit have a star."""

    def of(row: "Estimate") -> str | None:
        placed = row.placed[number]
        speed = placed.tokens_per_second
        return None if speed is None else f"{speed:,.0f}{'' if placed.fits else '*'}"

    return Column(f"{name}, t/s", of, "", 0 if number < 2 else number)
