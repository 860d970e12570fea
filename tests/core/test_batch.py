from dataclasses import fields

import torch
from torch import Tensor

from tests.examples import parts_of
from thetahat.core.batch import Batch, Inputs
from thetahat.core.visibility import Visibility, ancestors_of


def batch_of(weights):
    weights = torch.tensor(weights)
    zeros = torch.zeros(weights.shape, dtype=torch.int64)
    visibility = Visibility(zeros, ancestors_of(torch.tensor([-1, 0])))
    return Batch(Inputs(zeros, zeros, visibility), zeros, weights, zeros, zeros, zeros, parts_of([1]), zeros[0])


def test_weights_are_summed_in_float64():
    weight = batch_of([[2.0**24, 1.0, 1.0, 1.0]]).weight()
    assert weight.dtype == torch.float64
    assert weight.item() == 2**24 + 3


def test_a_batch_moves_whole():
    moved = batch_of([[1.0, 0.0]]).to("meta")
    tensors = [getattr(value, field.name) for value in (moved, moved.inputs) for field in fields(value)]
    tensors += [moved.inputs.visibility.piece, moved.inputs.visibility.ancestors]
    assert [tensor.is_meta for tensor in tensors if isinstance(tensor, Tensor)] == [True] * 10
    assert [part.id for part in moved.parts.named()] == ["s0"]
    assert not moved.parts.weight.is_meta
