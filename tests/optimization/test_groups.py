from typing import ClassVar

import pytest
import torch
from torch import nn

from thetahat.core.errors import ModelError
from thetahat.model.build import build_model
from thetahat.model.config import DecoderConfig
from thetahat.model.decoder import Decoder
from thetahat.model.init import initialize
from thetahat.model.law import BIAS, GAIN, MATRIX, TABLE, WRITER, Law
from thetahat.model.layers.norm import RMSNorm
from thetahat.optimization.groups import ParameterGroup, check_groups, group_parameters

SMALL = {"num_layers": 2, "width": 8, "num_heads": 2, "num_kv_heads": 1, "head_width": 4, "inner_width": 12}


def small(**values):
    return Decoder(DecoderConfig(**SMALL, **values), vocab_size=16)


def names(model):
    return {group.name: list(group.parameters) for group in group_parameters(model)}


def test_every_parameter_of_a_decoder_goes_where_it_belongs():
    found = names(small())
    inside = [f"attention.{x}" for x in ("query", "key", "value", "output")] + [
        f"mlp.{x}" for x in ("gate", "up", "down")
    ]
    assert set(found["matrices"]) == {f"blocks.{i}.{name}.weight" for i in range(2) for name in inside}
    assert found["embeddings"] == ["embedding.weight", "head.weight"]
    assert all(name.endswith(".gain") for name in found["vectors"])
    assert len(found["vectors"]) == 2 * 4 + 1


def test_a_tied_weight_is_grouped_once():
    model = small(ties_embeddings=True)
    assert names(model)["embeddings"] == ["embedding.weight"]
    check_groups(model, group_parameters(model))


class Stranger(nn.Module):
    """A module of somebody else's, which holds plain torch modules and a stack of experts."""

    laws: ClassVar[dict[str, Law]] = {
        "inner.weight": MATRIX,
        "inner.bias": BIAS,
        "experts": WRITER,
        "positions.weight": TABLE,
        "scale": GAIN,
    }

    def __init__(self):
        super().__init__()
        self.inner, self.positions = nn.Linear(3, 4), nn.Embedding(7, 3)
        self.experts, self.scale = nn.Parameter(torch.zeros(5, 3, 4)), nn.Parameter(torch.zeros(()))
        self.norm = RMSNorm(3, 1e-6)


def test_parameters_go_and_begin_where_their_modules_say():
    model = Stranger()
    found = names(model)
    assert set(found["matrices"]) == {"inner.weight", "experts"}
    assert found["embeddings"] == ["positions.weight"]
    assert set(found["vectors"]) == {"inner.bias", "scale", "norm.gain"}
    initialize(model, 0)
    assert (model.inner.bias == 0).all()  # and not 1, as a gain
    assert (model.norm.gain == 1).all()


@pytest.mark.parametrize("does", [group_parameters, lambda model: initialize(model, 0)])
def test_a_parameter_that_nobody_declared_is_an_error_that_names_it(does):
    model = nn.Sequential(Stranger(), nn.Linear(2, 2))
    with pytest.raises(ModelError, match=r"1\.weight begins"):
        does(model)


@pytest.mark.parametrize("ties", [False, True])
def test_a_model_is_built_without_memory_and_without_a_random_number(ties):
    before = torch.get_rng_state()
    model = build_model(DecoderConfig(**SMALL, ties_embeddings=ties), 16)
    assert all(parameter.is_meta for parameter in model.parameters())
    initialize(model, 0)
    assert not any(parameter.is_meta for parameter in model.parameters())
    assert (model.head.weight is model.embedding.weight) == ties
    assert torch.equal(torch.get_rng_state(), before)
    apart = small(ties_embeddings=ties)
    initialize(apart, 0)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), apart.parameters(), strict=True))


def test_frozen_parameters_are_in_no_group():
    model = small()
    model.embedding.requires_grad_(False)
    assert names(model)["embeddings"] == ["head.weight"]
    check_groups(model, group_parameters(model))


def test_a_parameter_in_no_group_is_an_error_that_names_it():
    model = small()
    groups = group_parameters(model)
    del groups[0].parameters["blocks.1.mlp.up.weight"]
    with pytest.raises(ModelError, match=r"blocks\.1\.mlp\.up\.weight would never be updated"):
        check_groups(model, groups)


def test_a_parameter_in_two_groups_is_an_error_even_under_another_name():
    model = small(ties_embeddings=True)
    groups = [*group_parameters(model), ParameterGroup("more", {"head.weight": model.head.weight})]
    with pytest.raises(ModelError, match=r"head\.weight would be updated twice"):
        check_groups(model, groups)


def test_a_frozen_parameter_in_a_group_is_an_error_that_names_it():
    model = small()
    groups = group_parameters(model)
    model.norm.gain.requires_grad_(False)
    with pytest.raises(ModelError, match=r"norm\.gain is frozen"):
        check_groups(model, groups)


def test_a_parameter_of_another_model_is_an_error():
    model = small()
    groups = [*group_parameters(model), ParameterGroup("more", {"other": nn.Parameter(torch.zeros(2))})]
    with pytest.raises(ModelError, match="not one of the model's"):
        check_groups(model, groups)
