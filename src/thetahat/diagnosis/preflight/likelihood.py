"""Whether a model that has learned nothing knows nothing, and says so at the right scale."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch

from thetahat.diagnosis.finding import Finding
from thetahat.diagnosis.preflight.probe import Probe
from thetahat.model.precision import computing_in

MOST_TARGETS = 256  # whose logits are made, all at once
SIGMAS = 6  # by which a mean may differ from chance
MARGIN = 0.1  # nats, beside them
MOST_ABOVE = 2.0  # nats above ln V where parameters are drawn: logits of a standard deviation of 2
MOST_LOST = 1.0  # nats above ln V where the parameters are another model's


class Beginning(NamedTuple):
    r"""What the logits of some targets say before the first step, in nats.

    A token t drawn without regard to the context costs $\log Z - z_t$, on average over the vocabulary
    $\log Z - \bar z$, which is $\ln V + s^2/2$ for normal logits of variance $s^2$. The spread is the standard
    deviation of the mean over the targets if logits of different tokens are independent and those of one token are not:
    $s \sqrt{\sum_t p_t^2}$ with $p_t$ the share of t among the targets.
    """

    mean: float  # -log Pr of the targets
    chance: float  # of a token drawn without regard to the context
    spread: float
    deviation: float  # s
    num_outputs: int  # V


@torch.no_grad()
def beginning(probe: Probe) -> Beginning | None:
    """What the first targets of the batch cost; None where it has none."""
    where = (probe.batch.weights != 0).flatten().nonzero()[:MOST_TARGETS, 0]
    if not len(where):
        return None
    hidden = probe.hidden.flatten(0, 1)[where.to(probe.device)]
    with computing_in(probe.dtype, probe.device):
        logits = probe.model.head(hidden)
    logits, targets = logits.double().cpu(), probe.batch.targets.flatten()[where]
    log_z, z = logits.logsumexp(-1), logits.gather(-1, targets[:, None])[:, 0]
    deviation = float(logits.var(-1, correction=0).mean().sqrt())
    _, counts = targets.unique(return_counts=True)
    spread = deviation * float((counts.double() / counts.sum()).square().sum().sqrt())
    return Beginning(
        float((log_z - z).mean()), float((log_z - logits.mean(-1)).mean()), spread, deviation, logits.shape[1]
    )


def first_value(probe: Probe) -> Iterator[Finding]:
    r"""The first value of the objective, against $\ln V + s^2/2$: at chance where all is drawn, better with a base.

    Where it is better than chance before anything is learned, the model reads what it should predict.
    """
    found = beginning(probe)
    if found is None:
        return
    uniform = math.log(found.num_outputs)
    if not math.isfinite(found.mean):
        yield Finding(
            "not-finite",
            "log-probabilities are not finite before the first step",
            "dtype=float32, or another base: these parameters overflow",
        )
    elif not probe.is_drawn:
        if found.mean > uniform + MOST_LOST:
            yield Finding(
                "base-knows-less-than-chance",
                f"under the base a target costs {found.mean:.2f} nats, and {uniform:.2f} if all tokens are alike",
                "look at thetahat explain: the base may know other special tokens or another template",
                is_wrong=False,
            )
    elif found.mean < found.chance - SIGMAS * found.spread - MARGIN:
        yield Finding(
            "knows-targets-already",
            f"a target costs {found.mean:.2f} nats before anything is learned, and a random token {found.chance:.2f}",
            "look at what the model reads: the target must not be in it",
        )
    elif found.chance > uniform + MOST_ABOVE:
        yield Finding(
            "wrong-scale",
            f"the first value is {found.mean:.2f} nats a target, and ln V is {uniform:.2f}: logits begin with a"
            f" standard deviation of {found.deviation:.2g}, of which below 2 is usual",
            "smaller first parameters of the embedding and the head, or a norm before the head",
        )
