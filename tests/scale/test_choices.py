"""Choices of the Block in every layout of several ranks: the gradients of one process."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.examples import TINY
from tests.scale import gradients
from thetahat.core.config import override
from thetahat.distribution.launch import launch
from thetahat.objective.config import Causal

pytestmark = pytest.mark.multi

CHOICES = {
    "alibi": ["layers=[{positions={kind='alibi'}}, {positions={kind='alibi'}, distance=3}]", "mlp.activation=relu2"],
    "sinks": ["attention.sinks=learned", "layers=[{distance=3}, {}]"],
    "sinks, alibi": ["attention.sinks=learned", "layers=[{positions={kind='alibi'}}]"],
    "shared keys, smear, value embeddings": [
        *("attention.sharing=2", "num_layers=4", "layers=[{distance=3}, {distance=3}, {}, {}]"),
        *("value_embeddings.every=1", "embedding.smear={}"),
    ],
    "global positions": ["layers=[{distance=2, num_global=2}, {distance=1, num_global=1}]"],
    "latent": ["layers=[{kind='latent', latent_width=3, query_width=5, rotary_width=2}, {}]"],
    "learned scales": ["residual.kind=learned"],
}


def of_choices(folder: str) -> None:
    gradients.MODELS.clear()
    models: dict[str, Any] = gradients.MODELS
    models |= {name: (override(TINY, pairs), Causal()) for name, pairs in CHOICES.items()}
    gradients.distances(folder)


@pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_gradients_of_every_choice_are_those_of_one_process(ranks: int, tmp_path: Path):
    launch(of_choices, ranks, str(tmp_path))
    found: dict[str, float] = json.loads((tmp_path / "found.json").read_text())
    configs = [override(TINY, pairs) for pairs in CHOICES.values()]
    computed = [not gradients.is_refused(mesh, one) for mesh in gradients.LAYOUTS[ranks] for one in configs]
    assert len(found) == 2 * sum(computed)
    assert {name: error for name, error in found.items() if not error <= 1} == {}
