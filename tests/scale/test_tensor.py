"""What ranks compute together, each a part of every product, is what one computes alone: value, gradients, logits."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tests.scale.conftest import distance
from thetahat.core.batch import Inputs
from thetahat.core.visibility import Visibility
from thetahat.distribution.launch import launch
from thetahat.distribution.mesh import MeshConfig
from thetahat.distribution.pieces import fill, whole
from thetahat.distribution.world import join_world
from thetahat.model.attention.cache import Cache
from thetahat.model.build import build_model
from thetahat.model.config import AttentionConfig, DecoderConfig, EncoderConfig, HeadConfig, MLPConfig, RelativeConfig
from thetahat.model.decoder import Decoder
from thetahat.model.init import allocate, initialize
from thetahat.objective.chunked import Chunked
from thetahat.objective.log_prob import judged, reference

pytestmark = pytest.mark.multi

SHAPE = DecoderConfig(
    num_layers=2,
    width=12,
    num_heads=4,
    num_kv_heads=2,
    head_width=4,
    inner_width=9,
    attention=AttentionConfig(has_bias=True, has_output_bias=True, relative=RelativeConfig(num_buckets=4)),
    mlp=MLPConfig(has_bias=True),
    head=HeadConfig(has_bias=True, cap=5.0),
)
OF_LABELS = EncoderConfig(num_layers=1, width=12, num_heads=2, num_kv_heads=2, head_width=4, inner_width=9)
VOCAB = 61


def drawn(model: nn.Module) -> None:
    """Other values than the first ones, so that biases and gains count."""
    allocate(model, dtype=torch.float64)
    initialize(model, 1, fill)
    chance = torch.Generator().manual_seed(2)
    for parameter in model.parameters():
        values = whole(parameter) + 0.1 * torch.randn(parameter.shape, generator=chance, dtype=torch.float64)
        fill(parameter, values)


def computed(model) -> dict[str, torch.Tensor]:
    """The value by three kernels, all gradients, all logits, and logits after a cache."""
    tokens = torch.randint(VOCAB, (3, 10), generator=torch.Generator().manual_seed(3))
    position = torch.arange(10).expand(3, 10)
    seen = Visibility(torch.zeros_like(tokens), is_plain=True, lengths=(10,) * 3)
    targets = tokens.roll(-1, 1).flatten() % model.head.num_outputs
    found = {}
    with torch.no_grad():
        hidden = model.hidden(Inputs(tokens, position, seen)).flatten(0, 1)
        told = judged(hidden, model.head, targets, room=7)
        found |= {f"judged {name}": values.double() for name, values in told._asdict().items()}
        found["logits"] = model.head(hidden)
        cache = Cache(model.config, 3, 10, hidden)
        for cut in (slice(0, 9), slice(9, 10)) if isinstance(model, Decoder) else ():
            part = Visibility(torch.zeros_like(tokens[:, cut]), is_plain=True)
            states = model.hidden(Inputs(tokens[:, cut], position[:, cut], part), cache)
            found["after a cache"] = model.head(states)
    for name, kernel in (("reference", reference), ("chunked", Chunked(7)), ("summed", Chunked(7).summed)):
        model.zero_grad()
        hidden = model.hidden(Inputs(tokens, position, seen)).flatten(0, 1)
        if name == "summed":
            value, told = kernel(hidden, model.head, targets, torch.linspace(0, 1, len(targets)), 0.1)
        else:
            told = kernel(hidden, model.head, targets)
            value = told.log_prob.sum() + 0.1 * told.log_normalizer.sum()
        value.backward()
        found |= {f"{name} log_prob": told.log_prob.detach(), f"{name} missed": told.is_missed.double()}
        found |= {f"{name} {key}": whole(one.grad).clone() for key, one in model.named_parameters()}
    return found


def of_ranks(path: str, shape: DecoderConfig | EncoderConfig, num_labels: int) -> None:
    from thetahat.distribution.tensor import split

    world = join_world("cpu", MeshConfig(tensor=2))
    model = build_model(shape, VOCAB, num_labels)
    split(model, world.layout.tensor)
    drawn(model)
    found = computed(model)
    if world.is_first:
        save_file({name: tensor.contiguous() for name, tensor in found.items()}, path)
    world.leave()


@pytest.mark.parametrize(
    ("shape", "num_labels"), [(SHAPE, 0), pytest.param(OF_LABELS, 3, marks=pytest.mark.slow)], ids=["decoder", "labels"]
)
def test_two_ranks_compute_what_one_does(tmp_path: Path, shape, num_labels):
    path = str(tmp_path / "found.safetensors")
    launch(of_ranks, 2, path, shape, num_labels)
    model = build_model(shape, VOCAB, num_labels)
    drawn(model)
    error, name = distance(load_file(path), computed(model))
    assert error < 1e-13, name
