"""`thetahat export`."""

from pathlib import Path

import typer

from thetahat.cli.words import Json, Quiet, emit, emit_json, listen_to_library, say, split_words


def export(
    words: list[str] = typer.Argument(metavar="MODEL OUT [KEY=VALUE]..."),
    adapter: bool = typer.Option(False, "--adapter", help="Only the adapter (LoRA), as PEFT reads it."),
    score: bool = typer.Option(True, "--score/--no-score", help="Whether the model card gets a held-out likelihood."),
    quiet: bool = Quiet,
    json: bool = Json,
) -> None:
    """Write a model as a folder that Hugging Face's transformers loads, with its tokenizer and a model card.

    MODEL is a run folder, RUN@best, RUN@STEP, a checkpoint, or a folder of transformers. An adapter is merged first.
    dtype=float32, bfloat16 or float16 rounds the tensors; family=llama says as what to write them, where several fit.
    """
    listen_to_library(quiet=quiet)
    from thetahat.core.errors import ConfigError
    from thetahat.core.plain import counted
    from thetahat.run.folder.absent import refuse_absent

    names, pairs = split_words(words)
    if len(names) != 2:
        raise ConfigError(
            f"{counted(len(names), 'name')} came", allowed="MODEL OUT", cure="thetahat export runs/NAME folder"
        )
    model, out = names
    refuse_absent(model)
    from thetahat.cli.progress import token_progress
    from thetahat.core.config import override
    from thetahat.verbs.export import ExportConfig, export as export_model

    how = override(ExportConfig(adapter=adapter, measures=score), pairs)
    with token_progress(shown=not quiet) as shows:
        done = export_model(model, Path(out), how, shows=shows)
    if json:
        emit_json(done)
    else:
        emit(str(done.folder))
    if quiet:
        return
    say(f"{done.architecture}: {done.num_parameters:,} parameters, {done.dtype}")
    if done.bits_per_byte is not None:
        ends = done.bits_per_byte_ci95
        interval = f", 95 % interval {ends[0]:.4f} to {ends[1]:.4f}" if ends else ""
        say(f"held out: {done.bits_per_byte:.4f} bits per byte{interval}")
    if adapter:
        say(f"Next: PeftModel.from_pretrained(BASE, {str(done.folder)!r}), with peft")
    elif done.has_chat_template:
        say(f"Next: thetahat chat {done.folder}    or AutoModelForCausalLM.from_pretrained({str(done.folder)!r})")
    else:
        say(f"Next: thetahat score {done.folder} DATA    or AutoModelForCausalLM.from_pretrained({str(done.folder)!r})")
