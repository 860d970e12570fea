"""One batch can be learned by heart, or something is wrong; nothing of the trial is left."""

import math
from dataclasses import replace as with_fields

import pytest
import torch
from msgspec.structs import replace

from tests.diagnosis.faults import SHAPE, probe_of, with_rate
from tests.examples import run_config
from thetahat.core.errors import ConfigError
from thetahat.diagnosis.config import DiagnosisConfig
from thetahat.diagnosis.preflight.memory import entropy, memorise
from thetahat.run.diagnosis.preflight import memory


def of(rate, most=80, **changes):
    config = with_rate(rate)
    return memorise(probe_of(config=config, **changes), config.optimization, most)


def test_a_sound_model_learns_its_batch_by_heart_and_stops_as_soon_as_it_has():
    found = of(0.01)
    assert found.is_learned
    assert found.last <= found.bound < found.first
    assert 1 < found.num_updates < 80
    again = of(0.01, most=found.num_updates - 1)
    assert not again.is_learned
    assert again.num_updates == found.num_updates - 1


def test_the_bound_is_half_of_what_shares_of_tokens_give():
    probe = probe_of()
    targets = probe.batch.targets[probe.batch.weights != 0].tolist()
    shares = [targets.count(token) / len(targets) for token in set(targets)]
    assert entropy(probe) == pytest.approx(-math.fsum(share * math.log(share) for share in shares))
    assert of(0.01, most=0).bound == pytest.approx(entropy(probe) / 2)


@pytest.mark.parametrize("fault", ["slow", "frozen", "blind"])
def test_what_cannot_learn_is_found(fault):
    if fault == "slow":
        assert not of(1e-6).is_learned
        return
    config = with_rate(0.01)
    probe = probe_of(config=config)
    if fault == "frozen":
        for parameter in probe.model.parameters():
            parameter.requires_grad_(parameter.ndim == 1)  # gains alone
    else:  # every target is drawn anew for the same context: nothing can be learned of it
        tokens = torch.zeros_like(probe.batch.inputs.tokens)
        batch = probe.batch
        probe = with_fields(probe, batch=with_fields(batch, inputs=with_fields(batch.inputs, tokens=tokens)))
        hidden = probe.model.hidden
        probe.model.hidden = lambda inputs: hidden(inputs)[:, :1].expand(-1, tokens.shape[1], -1)
    assert not memorise(probe, config.optimization, 80).is_learned


def test_nothing_is_left_of_it():
    config = with_rate(0.01)
    probe = probe_of(config=config)
    probe.model.train()
    before = {name: tensor.clone() for name, tensor in probe.model.state_dict().items()}
    slots = {name: tensor.clone() for name, tensor in probe.optimizer.state().items()}
    torch.manual_seed(5)
    random = torch.get_rng_state()
    memorise(probe, config.optimization, 12)
    assert all(torch.equal(tensor, before[name]) for name, tensor in probe.model.state_dict().items())
    assert all(torch.equal(tensor, slots[name]) for name, tensor in probe.optimizer.state().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(parameter.grad is None for parameter in probe.model.parameters())
    assert probe.model.training


def test_it_is_asked_on_request_and_says_what_it_found(caplog):
    caplog.set_level("INFO", logger="thetahat")
    usual = run_config(SHAPE, dtype="float32")
    assert list(memory(probe_of(), usual)) == []
    asked = replace(with_rate(0.01), diagnosis=DiagnosisConfig(memorize=80))
    assert list(memory(probe_of(config=asked), asked)) == []
    assert "one micro-batch was learned by heart: from " in caplog.text
    slow = replace(with_rate(1e-6), diagnosis=DiagnosisConfig(memorize=3))
    (finding,) = memory(probe_of(config=slow), slow)
    assert (finding.name, finding.is_wrong) == ("cannot-memorise", True)
    with pytest.raises(ConfigError, match=r"diagnosis.memorize=5 has no effect"):
        DiagnosisConfig(memorize=5, preflight="off")
