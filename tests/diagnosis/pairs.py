"""A probe of an encoder-decoder with several pairs in a row."""

import torch

from tests.diagnosis.faults import VOCABULARY, documents
from tests.examples import packed_of, parts_of, run_config
from thetahat.diagnosis.preflight.probe import Probe
from thetahat.model.config import EncoderDecoderConfig
from thetahat.objective.config import Conditional, ObjectiveConfig
from thetahat.objective.factorization import conditional
from thetahat.run.state import first_state

SHAPE = EncoderDecoderConfig(
    num_encoder_layers=1, num_layers=2, width=32, num_heads=4, num_kv_heads=2, head_width=8, inner_width=48
)


def pair_probe():
    objective = ObjectiveConfig(factorization=Conditional())
    texts = documents(6)
    sizes = [len(text) for text in texts]
    packed = packed_of(
        texts,
        [[0.0 if i % 2 == 0 else 1.0] * (size - 1) for i, size in enumerate(sizes)],
        rows=[0, 0, 0, 0, 1, 1],
        prompts=[[i % 2 == 0] * size for i, size in enumerate(sizes)],
        parents=[-1, 0, -1, 2, -1, 4],
        part=[[i // 2] * size for i, size in enumerate(sizes)],
        parts=parts_of([sizes[1] - 1, sizes[3] - 1, sizes[5] - 1]),
    )
    config = run_config(SHAPE, dtype="float32", objective=objective)
    state = first_state(config, VOCABULARY, 4, torch.device("cpu"))
    batch = conditional(packed, objective)
    return Probe(
        state.model, state.optimizer, state.kernel, batch, objective.factorization, "float32", state.device, True
    )
