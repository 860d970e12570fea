"""What the loop reports of a step and of an evaluation, to its caller and to metrics.jsonl."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thetahat.core.plain import as_json
from thetahat.diagnosis.alarms.alarm import Alarm
from thetahat.ledger.summary import Summary
from thetahat.run.log.metrics import HELD_OUT, MAX_DOCUMENTS, OF_DOCUMENTS, SOURCES
from thetahat.run.log.samples import Sample
from thetahat.run.state import State
from thetahat.run.step import StepReport


@dataclass(frozen=True, slots=True)
class Report:
    """What happened in one iteration of the loop."""

    step: StepReport | None  # None: only an evaluation, which had been interrupted in an earlier start
    num_steps: int
    seconds: float  # of training so far, evaluations and saves included
    tokens: int  # targets so far
    held_out: Summary | None  # where it was evaluated
    checkpoint: Path | None  # where one was saved
    held_out_of: int | None = None  # documents that are held out, where `held_out` is of a part of them; None: of all
    evaluation_seconds: float = 0.0  # of this iteration
    alarms: tuple[Alarm, ...] = ()  # of this step
    samples: tuple[Sample, ...] = ()  # that were written after it


def step_line(
    done: StepReport,
    state: State,
    sources: dict[str, dict[str, int | float]],
    *,
    batch: str,
    seconds: float,
    waited: float,
) -> dict[str, Any]:
    """The line of a step that took `seconds`, of which it `waited` for its batch; only `TIMES` differ in another run.

    Of a mixture it has the rows and epochs that were read of each source.
    """
    line = {
        "step": done.step,
        "tokens": state.tokens,
        "log_likelihood_per_token": done.total.mean().item(),
        "gradient_norm": done.gradient_norm.item(),
        "learning_rate_factor": done.learning_rate_factor,
        **(done.routed.to_dict() if done.routed else {}),
        **({} if done.z_loss is None else {"z_loss": done.z_loss.item()}),
        **(done.foreseen.to_dict() if done.foreseen else {}),
        "batch": batch,
        "seconds": state.seconds,
        "tokens_per_second": done.num_tokens / seconds,
        "wait_seconds": round(waited, 6),
        **({SOURCES: sources} if sources else {}),
    }
    return as_json(line)


def evaluation_line(
    held_out: Summary, state: State, of_documents: int | None, sources: Mapping[str, float]
) -> dict[str, Any]:
    """The line of an evaluation, which comes after the line of its step; `of_documents` are all, if it is of a part.

    Of a mixture it has the value of what is held out of each source: bits per byte, or nats per label.
    """
    numbers: dict[str, Any] = {f"{HELD_OUT}{name}": value for name, value in held_out.to_dict().items()}
    if sources:
        numbers[f"{HELD_OUT}{SOURCES}"] = dict(sources)
    if of_documents is not None:
        numbers |= {MAX_DOCUMENTS: state.config.evaluation.max_documents, OF_DOCUMENTS: of_documents}
    return {"step": state.step, **numbers, "seconds": state.seconds}
