"""Shapes and types of signatures are checked in tests: what decorates the package raises where they do not fit."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import torch
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import Float
from torch import Tensor

from tests.shapes import checked
from thetahat.core.total import Total
from thetahat.objective.log_prob import reference

if TYPE_CHECKING:
    from thetahat.absent import Nothing

ONES = torch.ones(3, 2)


@checked
def product(left: Float[Tensor, "B T"], right: "Float[Tensor, 'T D']", then: Callable[..., Tensor] = abs) -> Tensor:
    return then(left @ right)


@checked
def turned(given: Float[Tensor, "B T"], how: int) -> Float[Tensor, "T B"]:
    return given.mT if how else given


@checked
@dataclass(frozen=True, slots=True)
class Pair:
    one: Float[Tensor, " N"]
    other: Float[Tensor, " N"]


@checked
def plain(number: int, word: "Nothing | None" = None, several: tuple["Nothing", ...] = ()) -> str:
    return str(number) if number else number


WRONG = [
    lambda: product(ONES, ONES),  # a letter has two sizes
    lambda: product(ONES, torch.ones(2)),
    lambda: product(ONES, torch.ones(2, 4, dtype=torch.int64)),
    lambda: product(ONES, ONES.mT, then=3),
    lambda: turned(ONES, 0),  # the result has the letters of the arguments
    lambda: turned(ONES, "1"),
    lambda: Pair(torch.ones(3), torch.ones(4)),
    lambda: plain("7"),
    lambda: plain(0),
    lambda: reference(ONES, torch.nn.Linear(2, 5), torch.zeros(4, dtype=torch.int64)),  # the package is decorated
    lambda: Total(torch.zeros(2), torch.zeros(())),
]


@pytest.mark.parametrize("call", WRONG)
def test_what_does_not_fit_its_signature_is_refused(call):
    with pytest.raises(BeartypeCallHintViolation):
        call()


def test_what_fits_passes_and_letters_are_forgotten_after_a_call():
    assert product(ONES, ONES.mT).shape == (3, 3)
    assert product(ONES.mT, ONES).shape == (2, 2)
    assert turned(ONES, 1).shape == (2, 3)
    assert len(Pair(torch.ones(3), torch.ones(3)).one) == 3
    assert plain(7, ONES, 8) == "7"
