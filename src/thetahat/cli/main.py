"""The command line: `thetahat` and `python -m thetahat`."""

import io
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

import typer

from thetahat.cli import (
    bench,
    cache,
    chat,
    choose,
    classify,
    compare,
    completion,
    cost,
    diagnose,
    explain,
    export,
    generate,
    import_,
    influence,
    info,
    keys,
    lists,
    lm_eval,
    merge,
    plot,
    recipes,
    replay,
    report,
    runs,
    scaling,
    score,
    select,
    tokenizer,
    track,
    train,
    verify,
    watch,
)
from thetahat.cli.hints import misused
from thetahat.cli.start import Command, Commands
from thetahat.cli.words import fail, say
from thetahat.core.errors import (
    DiskFullError,
    FolderError,
    OutOfMemoryError,
    ThetahatError,
    says_full,
)
from thetahat.run.signals import Interrupted

UsageError: type[Exception] = typer.BadParameter.__bases__[0]  # which typer keeps where each version likes
ANEW = "; of a run micro_batch_size, too, with --fresh, or with base=RUN --out DIR to train on from what it has saved"
INTERRUPTED = 128 + signal.SIGINT  # what typer returns where Ctrl-C ended a command
app = typer.Typer(
    name="thetahat",
    cls=Commands,
    help="Trains Transformer language models by maximum likelihood: argmax_θ Σ log Pr_θ(x).",
    epilog="KEY=VALUE sets anything of the config: batch_size=8, data.train=my.txt, device=cuda, seed=1, ...",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def first_sentence(command: Callable[..., Any]) -> str:
    """What the list of commands says of one: all of it, where the parser would cut it to fit into a line."""
    return (command.__doc__ or "").partition("\n")[0].rstrip(".")


for command in (
    train.train,
    recipes.recipes,
    lists.templates,
    lists.optimizers,
    lists.families,
    keys.keys,
    info.info,
    cost.cost,
    bench.bench,
    explain.explain,
    verify.verify,
    score.score,
    classify.classify,
    choose.choose,
    compare.compare,
    select.select,
    influence.influence,
    diagnose.diagnose,
    replay.replay,
    report.report,
    runs.runs,
    merge.merge,
    plot.plot,
    scaling.scaling,
    watch.watch,
    track.track,
    export.export,
    generate.generate,
    chat.chat,
    completion.completion,
    cache.cache,
):
    app.command(cls=Command, short_help=first_sentence(command))(command)
app.command(
    "lm-eval", short_help=first_sentence(lm_eval.lm_eval), context_settings=lm_eval.PASSED_ON, add_help_option=False
)(lm_eval.lm_eval)
app.command("import", cls=Command, short_help=first_sentence(import_.import_))(import_.import_)
app.command("complete", hidden=True, context_settings=completion.PASSED_ON)(completion.complete)
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
    _prepare_streams()
    try:
        if app(prog_name="thetahat", standalone_mode=False) == INTERRUPTED:
            _end_interrupted()
    except ThetahatError as error:
        if isinstance(error, Interrupted):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # of torchrun, which has seen another rank end
        fail(error)
    except UsageError as error:
        fail(_misused(error))
    except KeyboardInterrupt:
        _end_interrupted()
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):
            sys.exit(141)  # 128 + SIGPIPE, the convention of shells
        raise
    except MemoryError:
        fail(OutOfMemoryError("the host's memory is full", cure=f"a smaller batch_size{ANEW}"))
    except Exception as error:  # noqa: BLE001 - the last place that can speak
        fail(_named(error))


def _prepare_streams() -> None:
    """Closed streams (`<&-`, a daemon) read as empty or accept everything; printing fails in no encoding."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - as long as the process lives
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # as Python does for stderr


def _end_interrupted() -> NoReturn:
    """Beside a tokenizer that still trains, closing the interpreter takes seconds: the process ends without that."""
    try:
        fail(Interrupted(signal.SIGINT, "interrupted", ""))
    finally:
        if any(thread.name == "tokenizer" for thread in threading.enumerate()):
            with suppress(OSError):
                sys.stdout.flush()
            os._exit(130)


def _misused(error: Any) -> ThetahatError:
    """An option or an argument that does not exist, is missing or does not fit; without any word, the help."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        sys.exit(error.exit_code)
    return misused(error)


def _named(error: Exception) -> ThetahatError:
    """Full disks, full devices, lost ranks and paths that cannot be used are no bug; everything else is ours."""
    ranks = sys.modules.get("thetahat.distribution.heartbeat")  # imported where there are several
    if ranks and (lost := ranks.lost(error)):
        return lost
    if says_full(error):
        return DiskFullError(f"no space left: {error}", cure="free some space and start the same command again")
    if type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error):
        cure = f"a smaller batch_size, or objective.chunk_size=4096{ANEW}"
        return OutOfMemoryError(f"the device's memory is full: {str(error).splitlines()[0]}", cure=cure)
    if isinstance(error, OSError):
        return _refused_by_the_system(error)
    say(traceback.format_exc().rstrip())
    return ThetahatError("this is a bug of thetahat: please report it with the lines above")


def _refused_by_the_system(error: OSError) -> FolderError:
    """A path that cannot be used; where the system names none (a failing disk, a lost connection), what it says."""
    if error.filename is not None:
        return FolderError(f"{error.filename}: {error.strerror}", cure="a path that you may read and write")
    said = error.strerror or str(error) or type(error).__name__
    cure = "the same command again, after a look at the disk, at shared folders and at the network"
    return FolderError(f"the operating system reports: {said}", cure=cure)
