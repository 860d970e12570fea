import pytest
import torch
from torch import nn

from thetahat.core.errors import ModelError
from thetahat.model.config import DecoderConfig
from thetahat.model.decoder import Decoder
from thetahat.optimization.groups import Group, check_groups, group_parameters

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


def test_biases_are_vectors_and_stacks_of_experts_are_matrices():
    model = nn.Module()
    model.blocks = nn.ModuleList([nn.Linear(3, 4)])
    model.experts = nn.ParameterDict({"up": nn.Parameter(torch.zeros(5, 3, 4))})
    model.position_embedding = nn.Embedding(7, 3)
    model.scale = nn.Parameter(torch.zeros(()))
    found = names(model)
    assert set(found["matrices"]) == {"blocks.0.weight", "experts.up"}
    assert found["embeddings"] == ["position_embedding.weight"]
    assert set(found["vectors"]) == {"blocks.0.bias", "scale"}


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
    groups = [*group_parameters(model), Group("more", {"head.weight": model.head.weight})]
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
    groups = [*group_parameters(model), Group("more", {"other": nn.Parameter(torch.zeros(2))})]
    with pytest.raises(ModelError, match="not one of the model's"):
        check_groups(model, groups)
