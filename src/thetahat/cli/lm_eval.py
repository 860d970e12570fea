"""`thetahat lm-eval`."""

import typer

from thetahat.cli.words import listen_to_library

PASSED_ON = {"ignore_unknown_options": True, "help_option_names": []}


def lm_eval(words: list[str] | None = typer.Argument(None, metavar="[ARGS]...", show_default=False)) -> None:
    """Run lm-eval's own command line, which then knows --model thetahat --model_args model=runs/NAME.

    All that follows is lm-eval's, also --help; `pip install "thetahat[eval]"` installs it.
    """
    listen_to_library(quiet=False)
    from thetahat.verbs.lm_eval import run_harness

    run_harness(words or [])
