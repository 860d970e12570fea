"""In which order a stage of a pipeline reads micro-batches, forwards and backwards."""

from itertools import pairwise
from typing import NamedTuple


def groups_of(num_layers: int, num_groups: int) -> list[range]:
    """The layers of each group of neighbouring ones, as many in each as can be."""
    return [range(*edge) for edge in pairwise(num_layers * place // num_groups for place in range(num_groups + 1))]


def seed_of_group(seed: int, group: int) -> int:
    """The seed from which a group of layers draws its dropout; the first one draws from that of the micro-batch."""
    return (seed + group) % 2**63


class Pass(NamedTuple):
    """A micro-batch through a group of layers of a stage."""

    batch: int  # its place among the micro-batches
    turn: int  # which group of layers


class Schedule(NamedTuple):
    """The passes of a stage: so many forwards, and then one forwards and one backwards, as long as there are."""

    forwards: list[Pass]
    backwards: list[Pass]
    num_ahead: int


def one_forward_one_backward(num_batches: int, stage: int, num_stages: int, num_turns: int) -> Schedule:
    r"""1F1B: a stage keeps what p - s micro-batches need for the way back, for stage s of p, and not all of a step.

    With several groups of layers a stage, micro-batches go through the first groups of all stages, then through the
    second ones, at least p at a time where there are as many. Waiting is then divided by the number of groups. Every
    stage has the same order, so what is sent first is wanted first.

    Narayanan et al., Efficient Large-Scale Language Model Training on GPU Clusters Using Megatron-LM, 2021, arXiv
    2104.04473, section 2.2, where the number of micro-batches is a multiple of p.
    """
    num_rounds = max(num_batches // num_stages, 1) if num_turns > 1 else 1
    edges = [num_batches * place // num_rounds for place in range(num_rounds + 1)]
    forwards, backwards = list[Pass](), list[Pass]()
    for first, stop in pairwise(edges):
        for turn in range(num_turns):
            forwards += [Pass(batch, turn) for batch in range(first, stop)]
            backwards += [Pass(batch, num_turns - 1 - turn) for batch in range(first, stop)]
    if num_turns == 1:
        return Schedule(forwards, backwards, num_stages - 1 - stage)
    largest = max(stop - first for first, stop in pairwise(edges))
    return Schedule(forwards, backwards, (num_turns - 1) * largest + 2 * (num_stages - 1 - stage))
