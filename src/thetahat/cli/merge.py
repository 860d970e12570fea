"""`thetahat merge`."""

from pathlib import Path

import typer

from thetahat.cli.words import Json, Quiet, emit, emit_json, listen_to_library, say


def merge(
    model: str = typer.Argument(metavar="MODEL"),
    out: Path | None = typer.Option(
        None, help="The folder to write; without it MODEL-merged, beside it.", show_default=False
    ),
    quiet: bool = Quiet,
    json: bool = Json,
) -> None:
    """Make a plain model of one that was trained with adapters (LoRA): it needs no base any more, and can be one."""
    listen_to_library(quiet=quiet)
    from thetahat.core.plain import counted, fields_as_json
    from thetahat.run.folder.absent import refuse_absent

    refuse_absent(model)
    from thetahat.verbs.merge import merge as merge_adapters

    folder, merged = merge_adapters(model, out)
    if json:
        emit_json({"model": folder} | fields_as_json(merged))
    else:
        emit(str(folder))
    if not quiet:
        matrices = counted(merged.num_matrices, "matrix", "matrices")
        how = f"with adapters of rank {merged.rank} and alpha {merged.alpha:g}, of step {merged.step}"
        say(f"{matrices} of base={merged.base} {how}")
        say(f"Next: thetahat score {folder} DATA    or thetahat train base={folder}")
