"""The loss weight of each token of a batch, under each normalisation."""

import torch
from jaxtyping import Float
from torch import Tensor

from thetahat.core.batch import Packed
from thetahat.core.parts import Parts
from thetahat.objective.config import ObjectiveConfig


def counted_weights(packed: Packed, objective: ObjectiveConfig) -> Float[Tensor, " N"]:
    r"""The loss weight of each token, float64: $w_i / c_i$ with $w$ = `packed.weight`.

    - token, sum: $c_i = 1$; the two differ by the divisor of a step, which is 1 for `sum`;
    - sequence: $c_i = n$, the targets of i's record, so that all records have the same weight;
    - turn: $c_i = m$, the targets of i's part, so that all turns have the same weight;
    - dialogue: $c_i = m k$ with k the parts of i's record that have targets: so do all records, and all turns of one;
    - length: $c_i = n^\alpha$ with $\alpha$ = `length_exponent`, from `token` (0) to `sequence` (1).

    Counts are of the whole record, in whatever rows its pieces lie, so nothing depends on the batching. Where only some
    tokens are targets (masked, spans), the counts are of all tokens that may be: without the end that closes a text.
    Sentinels and the end behind the last span are targets, too, and are not counted.
    """
    weight = packed.weight.to(torch.float64)
    if objective.normalization in {"token", "sum"}:
        return weight
    return weight / _divisors(packed.parts, objective)[packed.part]


def part_weights(parts: Parts, objective: ObjectiveConfig) -> Float[Tensor, " n"]:
    """The loss weight of the targets of each part: within a part it is the same for all, to the bit."""
    return parts.weight / _divisors(parts, objective)


def _divisors(parts: Parts, objective: ObjectiveConfig) -> Float[Tensor, " n"]:
    return divisor(parts.num_tokens.double(), parts.record_tokens.double(), parts.record_parts.double(), objective)


def divisor(
    num_tokens: Float[Tensor, " n"],
    record_tokens: Float[Tensor, " n"],
    record_parts: Float[Tensor, " n"],
    objective: ObjectiveConfig,
) -> Float[Tensor, " n"]:
    """What the weight of a token is divided by, given the counts of its part and its record."""
    match objective.normalization:
        case "sequence":
            return record_tokens
        case "turn":
            return num_tokens
        case "dialogue":
            return num_tokens * record_parts
        case "length":
            return record_tokens**objective.length_exponent
        case "token" | "sum":
            return torch.ones_like(record_tokens)
