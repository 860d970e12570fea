"""What a run says to a person: where it goes, how far it is, what it came to, what to type next."""

import os
import shlex
import shutil
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from thetahat.cli.progress import Standing, progress
from thetahat.cli.words import emit, escape, say
from thetahat.core.special import MASK
from thetahat.data.config import as_typed
from thetahat.generation.sample import Sampling
from thetahat.ledger.summary import Summary
from thetahat.run.config import RunConfig
from thetahat.run.log.report import Report
from thetahat.verbs.generate import generate
from thetahat.verbs.load import load


def announce(config: RunConfig, folder: Path) -> None:
    """One line before anything takes time."""
    say(f"{config.recipe}: {as_typed(config.data.train)} -> {folder}")


@contextmanager
def training_progress(*, shown: bool) -> Generator[Callable[[Report], None]]:
    """Something to call with every report."""
    with progress("step", shown=shown, stays=True) as shows:
        held_out = None

        def show(report: Report) -> None:
            nonlocal held_out
            held_out = report.held_out or held_out
            if report.step:  # else an evaluation was made up for: the next step says it, too
                shows(_standing(report, held_out))

        yield show


def _standing(report: Report, held_out: Summary | None) -> Standing:
    assert report.step
    mean, bits = report.step.total.mean().item(), f"{held_out.bits_per_byte:.3f}" if held_out else "-"
    return Standing(
        done=report.step.step,
        total=report.num_steps,
        num_new=1,
        num_tokens=report.step.num_tokens,
        known=f"log-likelihood {mean:.3f}/token held-out {bits} bits/byte",
        brief=f"{mean:.3f}/token held-out {bits} bits/byte",
        is_news=report.held_out is not None or report.step.step == report.num_steps,
    )


def conclude(outcome: dict[str, Any], config: RunConfig, folder: Path) -> None:
    """The numbers, a continuation of the prompt, and what to type next."""
    say(f"{folder} was finished before; nothing was done. Its result:" if outcome["finished_before"] else "")
    if outcome["held_out_bits_per_byte"] is not None:
        bits = outcome["held_out_bits_per_byte"]
        say(f"held-out text, all of it: {bits:.4f} bits per byte after step {outcome['step']}")
    say(f"{outcome['tokens']:,} tokens in {outcome['seconds']:.0f} s; saved in {outcome['checkpoint']}")
    is_bundled = as_typed(config.data.train).startswith("bundled:")
    prompt = config.prompt if is_bundled else ""  # a recipe's prompt goes with its text
    if config.prompt:
        say("\nIt goes on like this:\n")
        emit(escape(prompt), end="")
        for text in generate(load(str(folder)), prompt, Sampling(temperature=0.8, max_tokens=120)):
            emit(escape(text), end="")
        emit("")
    if outcome["step"] < config.max_steps and config.max_tokens is None:
        say(f"\nPaused after step {outcome['step']} of {config.max_steps}. Next: the same command goes on.")
        return
    say("\nNext:")
    for words, what in following(config, shlex.quote(str(folder))):
        say(f"  {_program()} {words}    {what}")


def following(config: RunConfig, run: str) -> Generator[tuple[str, str]]:
    """What a model of this kind can do: the words of each command, and what for."""
    factorization = config.objective.factorization
    others, asked = "OTHER.jsonl", "how likely others are"
    if config.data.chat:
        yield f"chat {run}", "talk to it"
    elif factorization.reads_source:
        yield f"generate {run} --prompts PROMPTS.jsonl", "an answer to each"
    elif not factorization.layout.predicts_label:
        others, asked = "OTHER.txt", "how likely another text is"
        is_masked = factorization.model_kind == "encoder"
        filled = f"generate {run} --prompt 'TEXT {MASK} TEXT'", "what it guesses there"
        yield filled if is_masked else (f"generate {run} --max-tokens 500", "more of it")
    yield f"score {run} {others}", asked
    if as_typed(config.data.train).startswith("bundled:"):
        yield "train YOUR.txt", "the same on your own text"


def _program() -> str:
    """What to type so that a shell finds this command, inside an activated environment and outside of it."""
    started = Path(sys.argv[0])
    if shutil.which("thetahat") or started.name != "thetahat":
        return "thetahat"
    return os.path.relpath(started)
