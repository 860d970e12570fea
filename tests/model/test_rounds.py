"""States that are handed on from chunk to chunk: an operation of torch's, against a loop over the chunks."""

import pytest
import torch

from thetahat.model.recurrence.rounds import Rounds, hand_on

PARENTS = [-1, -1, -1, 0, 2, 0, 3, 5]  # of each chunk: three rounds of 3, 3 and 2
ROUNDS = Rounds(torch.tensor([0, 1, 2, 0, 2, 0, 0, 2]), torch.tensor([0, 3, 6, 8]), num_last=2)


def drawn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def one_by_one(change, added, start):
    before, behind = [], []
    for chunk, parent in enumerate(PARENTS):
        before.append(behind[parent] if parent >= 0 else start[chunk])
        by = change[chunk] * before[-1] if change.shape[-1] == 1 else change[chunk] @ before[-1]
        behind.append(by + added[chunk])
    return torch.stack(before), torch.stack(behind[-2:])


@pytest.mark.parametrize("width", [1, 3], ids=["a number", "a matrix"])
def test_each_chunk_begins_with_what_that_before_it_has_left(width):
    change, added, start = (
        drawn(*shape).requires_grad_() for shape in ((8, 2, width, width), (8, 2, 3, 5), (3, 2, 3, 5))
    )
    for found, wanted in zip(hand_on(change, added, ROUNDS, start), one_by_one(change, added, start), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-13, atol=1e-14)
    assert torch.autograd.gradcheck(lambda *given: hand_on(*given[:2], ROUNDS, given[2]), (change, added, start))
    from_nothing, _ = hand_on(change, added, ROUNDS)
    torch.testing.assert_close(
        from_nothing, one_by_one(change, added, torch.zeros_like(start))[0], rtol=1e-13, atol=1e-14
    )


@pytest.mark.parametrize("width", [1, 3], ids=["a number", "a matrix"])
def test_a_compiler_is_told_the_shapes_and_the_gradient(width):
    change, added, start = (
        drawn(*shape).requires_grad_() for shape in ((8, 2, width, width), (8, 2, 3, 5), (0, 2, 3, 5))
    )
    torch.library.opcheck(torch.ops.thetahat.states_before, (change, added, start, ROUNDS.before, ROUNDS.edges))
