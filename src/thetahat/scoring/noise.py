"""The noise floor: how much a log-probability changes when the same text is read together with other texts."""

from typing import NamedTuple

import numpy as np
import torch
from msgspec.structs import replace

from thetahat.data.corpus.corpus import Corpus
from thetahat.ledger.policy import Policy
from thetahat.objective.objective import Model
from thetahat.scoring.likelihood import Likelihoods, Reader
from thetahat.statistics.interval import exact_sum

SHARE = 0.02  # of all targets that may be scored twice
FEWEST = 4  # sequences that are read again, however long they are


class NoiseFloor(NamedTuple):
    """The largest change of a sequence's log-probability, over the sequences that were read a second time, alone."""

    nats: float  # of one sequence
    nats_per_token: float
    num_sequences: int


def noise_floor(
    model: Model, corpus: Corpus, policy: Policy, likelihoods: Likelihoods, device: torch.device
) -> NoiseFloor:
    r"""$\max_s |\ell_s - \ell_s'|$ over a sample of sequences s, where $\ell'$ is from reading each one alone.

    Texts that are read together are in the same matrix products, and products of other shapes round differently. In
    deterministic mode every sequence is read alone in the first place, so the floor is 0. The sample is spread evenly
    over the corpus; it has a fiftieth of its targets, and at least four sequences.
    """
    if policy.deterministic:
        return NoiseFloor(0.0, 0.0, 0)
    reader = Reader(model, corpus, replace(policy, deterministic=True), device)
    before = np.full(len(corpus.tokens), np.nan)
    before[likelihoods.tokens] = likelihoods.token_log_prob
    worst = NoiseFloor(0.0, 0.0, 0)
    for _, scored in reader.score(_sample(reader, SHARE * len(likelihoods.tokens))):
        if not len(scored.token):
            continue
        change = abs(exact_sum(before[np.unique(scored.token)]) - exact_sum(scored.log_prob))
        each = change / len(scored.token)
        worst = NoiseFloor(max(worst.nats, change), max(worst.nats_per_token, each), worst.num_sequences + 1)
    return worst


def _sample(reader: Reader, room: float) -> list[int]:
    chosen: list[int] = []
    for number in _spread(len(reader.groups)):
        if len(chosen) >= FEWEST and room <= 0:
            break
        if num_tokens := reader.num_tokens(number):
            chosen.append(number)
            room -= num_tokens
    return chosen


def _spread(count: int) -> list[int]:
    """All numbers below `count`, in an order in which the first few always lie far apart (van der Corput, base 2)."""
    bits = max(count - 1, 1).bit_length()
    reversed_bits = (int(f"{number:0{bits}b}"[::-1], 2) for number in range(1 << bits))
    return [number for number in reversed_bits if number < count]
