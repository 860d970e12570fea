"""What a run says to a person: where it goes, how far it is, what it came to, what to type next."""

import os
import shlex
import shutil
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from thetahat.cli.pace import Pace
from thetahat.cli.progress import Display, Standing, duration, progress
from thetahat.cli.words import emit, escape, in_line, say
from thetahat.core.plain import counted, shorter
from thetahat.core.special import MASK
from thetahat.generation.sample import Sampling
from thetahat.ledger.summary import Summary
from thetahat.recipes.quickstart import quickstart
from thetahat.run.config import RunConfig
from thetahat.run.log.metrics import HELD_OUT, SOURCES
from thetahat.run.log.report import Report
from thetahat.run.log.samples import Sample
from thetahat.run.step import StepReport
from thetahat.verbs.generate import generate
from thetahat.verbs.load import load

SHOWN = 160  # characters of a text that was written during training


def announce(config: RunConfig, folder: Path) -> None:
    """One line before anything takes time."""
    say(f"{config.recipe}: {config.data.told} -> {folder}")


@contextmanager
def training_progress(config: RunConfig, *, shown: bool) -> "Generator[TrainingProgress]":
    """Something to call with every report."""
    with progress("step", shown=shown, stays=True) as display:
        yield TrainingProgress(display, config, shown=shown)


class TrainingProgress:
    """Shows how far a training is; its rates are of steps alone, and the time left counts evaluations that are due."""

    def __init__(self, display: Display, config: RunConfig, *, shown: bool) -> None:
        self._display, self._watch, self._pace = display, config.watch, Pace(config) if shown else None
        self._shown = shown
        self._is_of_labels = config.objective.factorization.layout.predicts_label
        self._held_out = self._of = ""
        self._paused, self._each = 0.0, 0.0  # seconds of evaluations since the last step, and of the last evaluation

    def __call__(self, report: Report) -> None:
        """A report of the loop."""
        if report.held_out:
            self._each = report.evaluation_seconds
            self._held_out = _brief(report.held_out)
            of = report.held_out_of
            self._of = "" if of is None else f" ({report.held_out.num_documents:,} of {of:,} documents)"
        self._paused += report.evaluation_seconds
        for alarm in report.alarms if self._shown else ():
            say(escape(str(alarm)))
        for sample in report.samples if self._pace else ():
            say(brief_sample(sample))
        if report.step is None:  # an evaluation was made up for: the next step says it, too
            return
        self._display(self._standing(report, report.step))
        if self._pace and (said := self._pace(self._paused)):
            say(said)
        self._paused = 0.0

    def evaluating(self, done: int, total: int) -> None:
        """So many of the held-out targets are scored."""
        self._display.aside(f"held-out {'labels' if self._is_of_labels else 'tokens'}", done, total)

    def _standing(self, report: Report, step: StepReport) -> Standing:
        unit = "label" if self._is_of_labels else "token"
        held_out = f" held-out{self._of} {self._held_out}" if self._held_out else ""
        brief = f"{step.total.mean().item():.3f}/{unit}{held_out}"
        return Standing(
            done=step.step,
            total=report.num_steps,
            num_new=1,
            num_tokens=step.num_tokens,
            known=f"log-likelihood {brief}",
            brief=brief,
            is_news=report.held_out is not None or step.step == report.num_steps,
            paused=self._paused,
            later=self._each * self._watch.evaluations_after(step.step, report.num_steps),
        )


def brief_sample(sample: Sample) -> str:
    """What was written, on one line, and as much of it as such a line has room for."""
    prompt, text = (in_line(part) for part in (sample.prompt, sample.text))
    return f"step {sample.step:,} writes behind {shorter(prompt, 40)!r}: {shorter(text, SHOWN)}"


def _brief(held_out: Summary) -> str:
    found = held_out.classification
    if found is None:
        return f"{held_out.value:.3f} bits/byte"
    return f"{held_out.value:.3f} nats/label, {found.accuracy.estimate:.1%} right"


def conclude(outcome: dict[str, Any], config: RunConfig, folder: Path) -> None:
    """The numbers, a continuation of the prompt, and what to type next."""
    say(f"{folder} was finished before; nothing was done. Its result:" if outcome["finished_before"] else "")
    if said := _held_out(outcome):
        say(said)
    for line in _sources(
        outcome.get(SOURCES, {}), "nats per label" if "held_out_accuracy" in outcome else "bits per byte"
    ):
        say(line)
    say(f"{outcome['tokens']:,} {_targets(config)} in {duration(outcome['seconds'])}; saved in {outcome['checkpoint']}")
    if config.prompt:
        _show_sample(config, folder)
    if outcome["step"] < config.max_steps and config.max_tokens is None:
        say(f"\nPaused after step {outcome['step']} of {config.max_steps}. Next: the same command goes on.")
        return
    say("\nNext:")
    for words, what in following(config, shlex.quote(str(folder))):
        say(f"  {_program()} {words}    {what}")


def _sources(sources: dict[str, dict[str, int | float]], unit: str) -> Generator[str]:
    """Of each source of a mixture, what was read, and how likely what is held out of it is."""
    total = sum(one["rows"] for one in sources.values())
    for name, one in sources.items():
        value = one.get(f"{HELD_OUT}value")
        held_out = "" if value is None else f"; held out: {value:.4f} {unit}"
        yield f"  {name}: {one['epochs']:.2f} epochs, {one['rows'] / max(total, 1):.1%} of the rows{held_out}"


def _targets(config: RunConfig) -> str:
    return "labels" if config.objective.factorization.layout.predicts_label else "tokens"


def _held_out(outcome: dict[str, Any]) -> str:
    """The number of the newest evaluation, and of how much of what is held out it is."""
    found = {name.removeprefix(HELD_OUT): value for name, value in outcome.items() if name.startswith(HELD_OUT)}
    if found["step"] is None:
        return ""
    count, of = found["num_documents"], found["of_documents"]
    part = "all of it" if of is None else f"{count:,} of {counted(of, 'document')}"
    if "accuracy" in found:
        low, high = found["accuracy_ci95"]
        numbers = f"accuracy {found['accuracy']:.4f} (95 % {low:.4f} to {high:.4f}), {found['nats_per_label']:.4f} nats"
        numbers += f" per label, macro F1 {found['macro_f1']:.4f},"
    else:
        numbers = f"{found['bits_per_byte']:.4f} bits per byte"
    return f"held-out text, {part}: {numbers} after step {found['step']}"


def _show_sample(config: RunConfig, folder: Path) -> None:
    """What the model writes behind the prompt. That of a recipe goes with its text, and is not used with another."""
    is_of_recipe = config.prompt == quickstart().prompt and not config.data.told.startswith("bundled:")
    prompt = "" if is_of_recipe else config.prompt
    say(f"\n{f'It goes on from {prompt!r}' if prompt else 'It writes, without a prompt,'} like this:\n")
    emit(escape(prompt), end="")
    for text in generate(load(str(folder)), prompt, Sampling(temperature=0.8, max_tokens=120)):
        emit(escape(text), end="")
    emit("")


def following(config: RunConfig, run: str) -> Generator[tuple[str, str]]:
    """What a model of this kind can do: the words of each command, and what for."""
    factorization = config.objective.factorization
    others, asked = "OTHER.jsonl", "how likely others are"
    if config.data.chat:
        yield f"chat {run}", "talk to it"
        yield f"generate {run} --prompts DIALOGUES.jsonl", "a reply to each"
        others, asked = "DIALOGUES.jsonl", "how likely other replies are"
    elif factorization.layout.predicts_label:
        yield f"classify {run} TEXT", "the label of a text; or of every record of a file"
        asked = "how often it is right on others"
    elif factorization.reads_source:
        yield f"generate {run} --prompts PROMPTS.jsonl", "an answer to each"
    else:
        others, asked = "OTHER.txt", "how likely another text is"
        is_masked = factorization.model_kind == "encoder"
        filled = f"generate {run} --prompt 'TEXT {MASK} TEXT'", "what it guesses there"
        yield filled if is_masked else (f"generate {run} --max-tokens 500", "more of it")
    yield f"score {run} {others}", asked
    if config.data.told.startswith("bundled:"):
        yield "train YOUR.txt", "the same on your own text"


def _program() -> str:
    """What to type so that a shell finds this command, inside an activated environment and outside of it."""
    started = Path(sys.argv[0])
    if shutil.which("thetahat") or started.name != "thetahat":
        return "thetahat"
    return os.path.relpath(started)
