"""The command line: `thetahat` and `python -m thetahat`."""

import os
import sys
import traceback

import typer

from thetahat.cli import (
    chat,
    choose,
    compare,
    explain,
    generate,
    influence,
    merge,
    recipes,
    score,
    select,
    tokenizer,
    train,
    verify,
)
from thetahat.cli.words import fail, say
from thetahat.core.errors import DiskFullError, FolderError, OutOfMemoryError, ThetahatError, says_full

app = typer.Typer(
    name="thetahat",
    help="Trains Transformer language models by maximum likelihood: argmax_θ Σ log Pr_θ(x).",
    epilog="KEY=VALUE sets anything of the config: batch_size=8, data.train=my.txt, device=cuda, seed=1, ...",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    train.train,
    recipes.recipes,
    explain.explain,
    verify.verify,
    score.score,
    choose.choose,
    compare.compare,
    select.select,
    influence.influence,
    merge.merge,
    generate.generate,
    chat.chat,
):
    app.command()(command)
app.add_typer(tokenizer.app, name="tokenizer")


@app.callback(invoke_without_command=True)
def root(version: bool = typer.Option(False, "--version", help="Print the version and exit.", is_eager=True)) -> None:  # noqa: D103 - the help is the app's
    if version:
        from thetahat import __version__

        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """Runs a command and turns what went wrong into a message and an exit code."""
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # threads that wait give way sooner when the machine is busy
    _open_closed_streams()
    try:
        app()  # says usage errors itself and ends with 2
    except ThetahatError as error:
        fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        fail("interrupted", 130)
    except SystemExit as end:
        if end.code == 130:  # how typer ends on Ctrl-C, without a word
            fail("interrupted", 130)
        raise
    except MemoryError:
        fail(str(OutOfMemoryError("the host's memory is full", cure="a smaller micro_batch_size or batch_size")), 9)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
    except Exception as error:  # noqa: BLE001 - the last place that can speak
        _unexpected(error)


def _open_closed_streams() -> None:
    """What was closed (`<&-`, a daemon) is empty, or takes everything, rather than None."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - as long as the process lives


def _unexpected(error: Exception) -> None:
    """Full disks, full devices and paths that cannot be used are the machine's; everything else is our bug."""
    if says_full(error):
        fail(str(DiskFullError(f"no space left: {error}", cure="free some space and start the same command again")), 8)
    if type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error):
        cure = "a smaller micro_batch_size, or objective.chunk_size=4096"
        fail(str(OutOfMemoryError(f"the device's memory is full: {str(error).splitlines()[0]}", cure=cure)), 9)
    if isinstance(error, OSError) and error.filename is not None:
        fail(str(FolderError(f"{error.filename}: {error.strerror}", cure="a path that you may read and write")), 7)
    say(traceback.format_exc().rstrip())
    fail("this is a bug of thetahat: please report it with the lines above", 1)
