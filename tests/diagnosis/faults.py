"""Probes of small models, and faults that can be put into them."""

from dataclasses import replace as with_fields

import torch
from msgspec.structs import replace

from tests.examples import TINY, packed_of, run_config
from thetahat.core.visibility import Visibility
from thetahat.diagnosis.preflight.probe import Probe
from thetahat.objective.config import Causal
from thetahat.objective.factorization import causal
from thetahat.optimization.config import AdamW
from thetahat.run.state import first_state

VOCABULARY = 61
SHAPE = replace(TINY, num_layers=2, width=32, head_width=8, inner_width=48)


def documents(count, longest=24, seed=0):
    draw = torch.Generator().manual_seed(seed)
    sizes = torch.randint(longest // 2, longest, (count,), generator=draw).tolist()
    return [torch.randint(0, VOCABULARY, (size,), generator=draw).tolist() for size in sizes]


def packed(rows=(0, 0, 0, 1, 1), **changes):
    texts = documents(len(rows))
    return packed_of(texts, [[1.0] * (len(text) - 1) for text in texts], rows, **changes)


def probe_of(batch=None, config=None, **changes):
    """A decoder that has learned nothing, at step 0, and two rows of documents."""
    config = config or run_config(SHAPE, dtype="float32")
    state = first_state(config, VOCABULARY, config.max_steps, torch.device("cpu"))
    trained = frozenset(name for name, _ in state.model.named_parameters())
    batch = causal(packed()) if batch is None else batch
    probe = Probe(state.model, state.optimizer, state.kernel, batch, Causal(), "float32", state.device, True, trained)
    return with_fields(probe, **changes)


def seeing(probe, **changes):
    """The same rows, whose visibility says something else."""
    inputs = probe.batch.inputs
    seen = with_fields(inputs.visibility, is_plain=False, lengths=None, **changes)
    return with_fields(probe, batch=with_fields(probe.batch, inputs=with_fields(inputs, visibility=seen)))


def merged(probe):
    """All documents of a row are taken for one."""
    piece = probe.batch.inputs.visibility.piece
    return seeing(probe, piece=torch.where(piece < 0, -1, torch.arange(len(piece))[:, None].expand_as(piece)))


def both_ways(probe):
    return seeing(probe, is_causal=False)


def shifted(probe, offset):
    """Targets that are `offset` tokens from the position that predicts them, not 1."""
    tokens = probe.batch.inputs.tokens
    return with_fields(probe, batch=with_fields(probe.batch, targets=tokens.roll(-offset, 1)))


def with_mask(change):
    """What to put in place of `Visibility.mask`."""
    right = Visibility.mask
    return lambda self: change(self, right(self))


def with_rate(rate, **changes):
    """A config whose every rule is AdamW with this learning rate."""
    config = run_config(SHAPE, dtype="float32")
    rule = AdamW(learning_rate=rate, **changes)
    return replace(config, optimization=replace(config.optimization, matrices=rule, embeddings=rule, vectors=rule))
