"""What the loop says of a step: to whoever iterates it, to metrics.jsonl, and to a later start."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from thetahat.core.total import Total
from thetahat.ledger.summary import Summary
from thetahat.run.state import State
from thetahat.run.step import StepReport


@dataclass(frozen=True, slots=True)
class Report:
    """What happened in one turn of the loop."""

    step: StepReport
    num_steps: int
    seconds: float  # of training so far, evaluations and saves included
    tokens: int  # targets so far
    held_out: Summary | None  # where it was evaluated
    checkpoint: Path | None  # where one was saved


def metrics_line(
    done: StepReport, state: State, held_out: Summary | None, *, batch: str, seconds: float
) -> dict[str, Any]:
    """One line of metrics.jsonl; `seconds` and `tokens_per_second` are the only fields that a repeated run changes."""
    line = {
        "step": done.step,
        "tokens": state.tokens,
        "log_likelihood_per_token": done.total.mean().item(),
        "gradient_norm": done.gradient_norm.item(),
        "learning_rate_factor": done.learning_rate_factor,
        "batch": batch,
    }
    if held_out:
        line |= {f"held_out_{name}": value for name, value in held_out.to_dict().items()}
    return line | {"seconds": state.seconds, "tokens_per_second": done.num_tokens / seconds}


def to_plain(done: StepReport | None) -> dict[str, Any] | None:
    """A step as JSON holds it, to the bit."""
    if done is None:
        return None
    total = {"log_prob": done.total.log_prob.item(), "weight": done.total.weight.item()}
    return asdict(done) | {"total": total, "gradient_norm": done.gradient_norm.item()}


def from_plain(plain: Mapping[str, Any] | None) -> StepReport | None:
    """The step that `to_plain` wrote down."""
    if plain is None:
        return None
    log_prob, weight, norm = (
        torch.tensor(value, dtype=torch.float64)
        for value in (plain["total"]["log_prob"], plain["total"]["weight"], plain["gradient_norm"])
    )
    total = Total(log_prob, weight)
    return StepReport(plain["step"], total, plain["num_tokens"], norm, plain["learning_rate_factor"])
