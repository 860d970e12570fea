"""How often a training step waits for its device: one is played, which has what is computed of what it has."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from tests.examples import SENTENCE, run_config
from thetahat.core.batch import Batch
from thetahat.data.config import DataConfig
from thetahat.diagnosis.config import DiagnosisConfig
from thetahat.run import step as one_step, train as loop
from thetahat.scoring.config import EvaluationConfig

READ = ("item", "tolist", "numpy", "cpu", "__bool__", "__float__", "__int__", "__index__")


class Device(TorchDispatchMode):
    """Marks what is computed of marked tensors, as a device has what is computed there."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **kwargs or {})
        if any(is_there(one) for one in tree_iter((args, kwargs))):
            move(found)
        return found


def is_there(value):
    return isinstance(value, torch.Tensor) and getattr(value, "is_on_the_device", False)


def move(values):
    for one in tree_iter(values):
        if isinstance(one, torch.Tensor):
            one.is_on_the_device = True
    return values


@pytest.fixture
def waits(monkeypatch):
    """What the host waits for, in turn, with the updates between."""
    seen = []

    def noting(name):
        plain = getattr(torch.Tensor, name)

        def read(tensor, *others):
            if is_there(tensor):
                seen.append(name)
                tensor = tensor.detach().clone()
                del tensor.is_on_the_device
            return plain(tensor, *others)

        monkeypatch.setattr(torch.Tensor, name, read)

    def later(tensor):
        there = tensor.detach().clone()
        if is_there(there):
            del there.is_on_the_device
        return lambda: there

    for name in READ:
        noting(name)
    monkeypatch.setattr(one_step, "later", later)
    monkeypatch.setattr(Batch, "to", lambda batch, device: batch.map(lambda tensor: move(tensor.clone())))
    return seen


@pytest.mark.parametrize("is_on", [False, True], ids=["alone", "with diagnosis"])
def test_a_step_waits_once_and_before_its_update(is_on, waits, tmp_path, monkeypatch):
    (tmp_path / "text.txt").write_text(f"{SENTENCE} " * 60)
    data = DataConfig(train=str(tmp_path / "text.txt"), context=32, over_long="split", vocab_size=270, held_out="none")
    diagnosis = DiagnosisConfig(alarms=is_on, every=0, preflight="off")
    config = run_config(data=data, max_steps=3, diagnosis=diagnosis, evaluation=EvaluationConfig(every=0))
    plain = loop.make_step

    def make_step(run, clock):
        move([*run.state.model.parameters(), *run.state.model.buffers()])
        update = run.state.optimizer.step
        waits.append("step")
        with Device():
            run.state.optimizer.step = lambda factor: (waits.append("update"), update(factor))
            try:
                return plain(run, clock)
            finally:
                del run.state.optimizer.step

    monkeypatch.setattr(loop, "make_step", make_step)
    for _ in loop.train(config, tmp_path / "run"):
        waits.append("said")
    turn = ["step", "wait", "update", "said"]
    assert [one if one in turn else "wait" for one in waits[waits.index("step") :]] == 3 * turn, waits
