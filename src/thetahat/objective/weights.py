"""Who counts how much: what one token of a batch weighs under each normalisation."""

import torch
from jaxtyping import Float
from torch import Tensor

from thetahat.core.batch import Packed
from thetahat.core.parts import Parts
from thetahat.objective.config import ObjectiveConfig


def counted_weights(packed: Packed, objective: ObjectiveConfig) -> Float[Tensor, " N"]:
    r"""What each token counts for, float64: $w_i / c_i$ with $w$ = `packed.weight`.

    - token, sum: $c_i = 1$; the two differ by the divisor of a step, which is 1 for `sum`;
    - sequence: $c_i = n$, the asked tokens of i's record, so that every record weighs alike;
    - turn: $c_i = m$, the asked tokens of i's part, so that every turn weighs alike;
    - dialogue: $c_i = m k$ with k the asked parts of i's record: every record weighs alike, and so do its turns;
    - length: $c_i = n^\alpha$ with $\alpha$ = `length_exponent`, from `token` (0) to `sequence` (1).

    Counts are of the whole record, wherever and with whomever its pieces lie, so nothing depends on the batching. Where
    a factorization asks only some of the tokens (masked, spans), they are counts of those that it may ask: without the
    end that closes a text. The sentinels and the end that spans are told by are asked beside them, and not counted.
    """
    weight = packed.weight.to(torch.float64)
    if objective.normalization in {"token", "sum"}:
        return weight
    return weight / _divisors(packed.parts, objective)[packed.part]


def part_weights(parts: Parts, objective: ObjectiveConfig) -> Float[Tensor, " n"]:
    """What each token of these parts counts for where it is asked: within a part all of them alike, to the bit."""
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
