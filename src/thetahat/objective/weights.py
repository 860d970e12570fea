"""Who counts how much: what one token of a batch weighs under each normalisation."""

from typing import NamedTuple

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


class Concentration(NamedTuple):
    """On how many records an objective rests."""

    effective_number: float
    top_share: float  # of the heaviest 1 %


def concentration(weight: Float[Tensor, " n"]) -> Concentration:
    r"""$N_\mathrm{eff} = (\sum_r W_r)^2 / \sum_r W_r^2$ over the weights of records, and the share of the heaviest 1 %.

    Where n/100 is no whole number the last record counts in part, so a smaller part never holds a larger share.

    Kish, Survey Sampling, 1965. Equal weights give the number of records; one record that holds everything gives 1.
    """
    weight = weight.to(torch.float64)
    total, heaviest = weight.sum(), weight.sort(descending=True).values
    counted = (len(weight) / 100 - torch.arange(len(weight), dtype=torch.float64)).clamp(0, 1)
    top = (counted * heaviest).sum()
    return Concentration(effective_number(weight), float(top / total))


def effective_number(weight: Float[Tensor, " n"]) -> float:
    r"""$N_\mathrm{eff} = (\sum_r W_r)^2 / \sum_r W_r^2$, of weights in float64. Kish, Survey Sampling, 1965."""
    return float(weight.sum() ** 2 / (weight**2).sum())
