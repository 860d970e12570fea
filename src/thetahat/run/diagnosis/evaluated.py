"""Whether evaluations compute what training maximises: a text has the same likelihood on both ways."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from thetahat.data.corpus.subset import only
from thetahat.diagnosis.finding import Finding
from thetahat.diagnosis.preflight.probe import Probe, still
from thetahat.distribution.world import ALONE
from thetahat.run.card import card_of
from thetahat.run.prepare import Prepared
from thetahat.run.state import State
from thetahat.scoring.likelihood import score_corpus

MOST = 8  # records that are compared
ROUNDING = {"float64": 1e-6, "float32": 1e-4}  # relative, of the sum over a part
COARSE = 3e-2  # in other dtypes


def evaluation_differs(prepared: Prepared, state: State, probe: Probe) -> Iterator[Finding]:
    r"""$\log \Pr$ of whole records of a batch, as the training step computes it and as `thetahat score` does.

    The step is read in training mode without dropout. Only factorizations whose training predicts every token from all
    tokens before it can be compared, and records that lie whole in a row.
    """
    config, corpus = state.config, prepared.train
    kind = config.objective.factorization
    if not kind.is_likelihood or not kind.is_left_to_right or kind.opens_prompts:
        return
    number, trained = _trained(prepared, probe)
    if not len(number):
        return
    is_kept = np.zeros(corpus.num_documents, np.bool_)
    is_kept[corpus.column["parts.document"][number]] = True
    policy = card_of(config, prepared.labels).policy(config.inference)
    with still(probe):
        found = score_corpus(state.model, only(corpus, is_kept), policy, ALONE, state.device)
    kept = np.flatnonzero(is_kept[corpus.column["parts.document"]])[found.part]
    evaluated = dict(zip(kept.tolist(), found.log_prob.tolist(), strict=True))
    most = ROUNDING.get(config.dtype, COARSE)
    for place, value in zip(number.tolist(), trained.tolist(), strict=True):
        if (other := evaluated.get(place)) is not None and not abs(value - other) <= most * max(abs(other), 1.0):
            yield Finding(
                "evaluation-differs",
                f"{corpus.describe([place])[0].id} has {value:.6g} nats in training and {other:.6g} where it is scored",
                "look at what a module does otherwise in training, and at how texts are read to be scored",
            )
            return


def _trained(prepared: Prepared, probe: Probe) -> tuple[np.ndarray, np.ndarray]:
    """Parts of the corpus that lie whole in the batch, in records that fit, and their log-probabilities there."""
    batch, corpus = probe.batch, prepared.train
    is_target = batch.weights != 0
    size = np.bincount(corpus.column["spans.document"], corpus.lengths, corpus.num_documents)
    with still(probe):
        probe.model.train()
        for module in probe.model.modules():
            if isinstance(module, nn.Dropout):
                module.eval()
        log_prob = probe.log_probs(batch.inputs)[is_target].double()
    part = batch.part[is_target]
    sums = torch.zeros(len(batch.parts), dtype=torch.float64).index_add_(0, part, log_prob).numpy()
    is_whole = np.bincount(part.numpy(), minlength=len(batch.parts)) == batch.parts.num_tokens.numpy()
    number = batch.parts.number.numpy()
    is_whole &= size[corpus.column["parts.document"][number]] <= prepared.config.data.context - 2
    documents = np.unique(corpus.column["parts.document"][number[is_whole]])[:MOST]
    is_whole &= np.isin(corpus.column["parts.document"][number], documents)
    return number[is_whole], sums[is_whole]
