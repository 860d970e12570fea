"""The likelihood of held-out data under a model in memory, which no run has to have saved."""

import torch
from torch import nn

from thetahat.core.errors import DataError
from thetahat.distribution.world import ALONE, World
from thetahat.ledger.summary import Summary, summarize
from thetahat.objective.objective import Model
from thetahat.run.card import card_of
from thetahat.run.prepare import Prepared
from thetahat.scoring.likelihood import ledger_rows, score_corpus


def evaluate(model: Model, prepared: Prepared, world: World = ALONE) -> Summary:
    """How likely the held-out part is, by the policy that its config would score with; without dropout.

    `model` is an `nn.Module`, ours or one that `check_model` accepts; it is back in training when this returns, if it
    was. All ranks of `world` call this together.
    """
    if prepared.held_out is None:
        raise DataError("nothing is held out", cure="data.held_out=hash:0.1, or a path")
    assert isinstance(model, nn.Module)
    policy, was_training = card_of(prepared.config, prepared.labels).policy(prepared.config.inference), model.training
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    try:
        likelihoods = score_corpus(model.eval(), prepared.held_out, policy, world, device)
    finally:
        model.train(was_training)
    return summarize(ledger_rows(likelihoods, prepared.held_out, prepared.labels))
