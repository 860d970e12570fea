"""`thetahat import`."""

from pathlib import Path

import typer

from thetahat.cli.words import Json, Quiet, emit, emit_json, listen_to_library, say


def import_(
    folder: str = typer.Argument(metavar="FOLDER"),
    out: Path = typer.Argument(metavar="OUT"),
    quiet: bool = Quiet,
    json: bool = Json,
) -> None:
    """Make a model folder of ours of one that Hugging Face's transformers wrote; its numbers stay what they were.

    FOLDER has config.json, safetensors and tokenizer.json, or is hf:OWNER/NAME@REVISION. Every command takes it as it
    is, too.
    """
    listen_to_library(quiet=quiet)
    from thetahat.run.folder.absent import refuse_absent

    refuse_absent(folder)
    from thetahat.verbs.import_ import import_ as import_model

    done = import_model(folder, out)
    if json:
        emit_json(done)
    else:
        emit(str(done.folder))
    if quiet:
        return
    say(f"{done.family}: {done.num_parameters:,} parameters, {done.dtype}; {done.num_tokens:,} tokens")
    if done.passengers:
        say(f"kept and not used: {', '.join(done.passengers)}")
    say(f"Next: thetahat score {done.folder} DATA    or thetahat train {done.folder} DATA")
