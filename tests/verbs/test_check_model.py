"""A model of someone's own is checked before it is trained: each thing that can be wrong is named."""

import pytest
import torch
from torch import nn

import thetahat as th

VOCABULARY, WIDTH = 50, 16


class Own(nn.Module):
    """One layer of attention; `see` says of what, `mix` what else is done with the states."""

    def __init__(self, see=lambda mask: mask, mix=lambda x: x, head=None):
        super().__init__()
        torch.manual_seed(0)
        self.token, self.head = nn.Embedding(VOCABULARY, WIDTH), head or th.Head(WIDTH, VOCABULARY)
        self.see, self.mix = see, mix

    def hidden(self, inputs):
        x = self.token(inputs.tokens)
        mask = self.see(inputs.visibility.mask())
        return self.mix(nn.functional.scaled_dot_product_attention(x, x, x, attn_mask=mask))


class Whole(nn.Module):
    """A head that knows no slices."""

    num_outputs = VOCABULARY

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, hidden, tokens=None):
        return self.linear(hidden)


def with_loose_tensor():
    model = Own()
    model.scale = torch.ones(1)
    return model


def with_the_position_before(x):
    return x + nn.functional.pad(x, (0, 0, 1, 0))[:, :-1]


WRONG = [
    (Own(see=lambda mask: mask | mask.transpose(-1, -2)), "reads no later tokens"),
    (Own(see=lambda mask: torch.ones_like(mask).tril()), "keeps documents apart"),
    (Own(mix=with_the_position_before), "keeps documents apart"),
    (Own(mix=lambda x: x + x[:, -1:]), "ignores padding"),
    (Own(mix=lambda x: x.flatten(0, 1)), "shapes"),
    (Own(mix=lambda x: x / 0), "shapes"),
    (Own(head=th.Head(WIDTH, VOCABULARY - 1)), "shapes"),
    (Own(head=Whole()), "slices of the head"),
    (with_loose_tensor(), "saved whole: scale would not be saved"),
]


def test_a_model_that_reads_what_it_may_is_accepted_and_stays_in_training():
    model = Own(mix=nn.Dropout(0.5))
    assert th.check_model(model, VOCABULARY) == (
        "shapes",
        "reads no later tokens",
        "keeps documents apart",
        "ignores padding",
        "slices of the head",
        "saved whole",
    )
    assert model.training


def test_our_own_model_is_accepted():
    config = th.override(th.find_recipe("quickstart"), ["model.num_layers=1", "model.width=32", "data.context=32"])
    assert th.check_model(th.first_model(config, VOCABULARY), VOCABULARY)


@pytest.mark.parametrize(("model", "said"), WRONG, ids=[said for _, said in WRONG])
def test_what_is_wrong_is_named(model, said):
    with pytest.raises(th.ThetahatError) as error:
        th.check_model(model, VOCABULARY)
    assert said in error.value.what
    assert "visibility" in error.value.cure
    assert model.training


def test_what_is_no_model_is_named():
    with pytest.raises(th.ThetahatError, match="Linear is no model: it has not both"):
        th.check_model(nn.Linear(2, 2), VOCABULARY)
