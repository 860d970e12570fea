"""Layers that are computed again in the backward pass: the same numbers in less memory."""

import pytest
from msgspec.structs import replace
from torch.autograd.graph import saved_tensors_hooks

from tests.commands import thetahat
from tests.examples import SMALL, run_config
from tests.scale.conftest import RUN, texts
from thetahat.core.store import digest_file
from thetahat.model.build import build_model
from thetahat.model.init import initialize
from thetahat.model.memory import saved_per_position
from thetahat.model.stack import recompute
from thetahat.objective.objective import log_likelihood
from thetahat.run.config import RunConfig, differences
from thetahat.run.diagnosis.fitting import fitting_pairs

KINDS = {
    "decoder": ["model.dropout=0.1"],
    "encoder-decoder": [
        "model.kind=encoder-decoder",
        "model.num_encoder_layers=2",
        "objective.factorization.kind=spans",
        "model.dropout=0.1",
    ],
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_has_the_same_bits(tmp_path, kind):
    texts(tmp_path / "data.jsonl", 40, [3, 5, 2, 9, 4, 12, 7, 40], 0)
    texts(tmp_path / "held.jsonl", 5, [4, 6, 20], 1)
    (tmp_path / "tiny.toml").write_text(RUN)
    bits = []
    for layers in ("0", "1", "2"):
        keys = [*KINDS[kind], f"recompute={layers}", "max_steps=4", "diagnosis.preflight=off"]
        done = thetahat(tmp_path, "train", "tiny.toml", "--out", f"run{layers}", "--quiet", *keys)
        assert done.returncode == 0, done.stderr
        folder = tmp_path / f"run{layers}" / "checkpoints" / "step-00000004"
        bits.append([digest_file(folder / name) for name in ("model.safetensors", "optimizer.safetensors")])
    assert bits[0] == bits[1] == bits[2]


def kept(model, batch, layers):
    """Bytes that the backward pass needs, of what the forward pass makes: each storage once, parameters apart."""
    recompute(model, layers)
    owned = {one.untyped_storage().data_ptr() for one in model.parameters()}
    found: dict[int, int] = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in owned:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        total = log_likelihood(model, batch)
    del total
    return sum(found.values())


def test_what_a_layer_does_not_keep_is_what_the_formula_says():
    from tests.scale.gradients import SYMBOLS, batch_of

    model = build_model(replace(SMALL, num_layers=6), SYMBOLS.vocab_size)
    initialize(model, 0)
    batch = batch_of("windows", 0)
    positions = batch.targets.numel()
    plain, four = kept(model, batch, 0), kept(model, batch, 4)
    formula = [saved_per_position(model.config, "float32", batch.targets.shape[1], n) * positions for n in (4, 3)]
    a_layer = formula[0] - formula[1]  # what one more layer saves
    assert (plain - four) / 4 == pytest.approx(a_layer, rel=0.15)


def test_it_is_no_difference_and_is_proposed_before_anything_that_changes_a_result():
    config = run_config(SMALL, batch_size=4, micro_batch_size=1)
    assert differences(replace(config, recompute=2), config) == []

    def needs(one: RunConfig) -> int:
        return 10 - (one.recompute if isinstance(one.recompute, int) else 0)

    assert fitting_pairs(config, needs, 7) == "recompute=auto"


def test_a_number_below_0_or_another_word_is_refused(tmp_path):
    for word in ("-1", "some"):
        done = thetahat(tmp_path, "train", "quickstart", f"recompute={word}")
        assert done.returncode == 2
        assert "recompute" in done.stderr
