"""`thetahat bench`: what it counts, what it calls noise, and what it refuses."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace as changed
from types import SimpleNamespace

import pytest
import torch

from thetahat.core.config import override
from thetahat.core.errors import ConfigError, ModelError
from thetahat.core.work.regions import DATA, OBJECTIVE, UPDATE
from thetahat.core.work.threads import Workers
from thetahat.proof.speed import kinds
from thetahat.proof.speed.ceilings import Ceiling, narrower
from thetahat.proof.speed.found import Benched, Memory, Pace, with_notes
from thetahat.proof.speed.kinds import STEP, shares_of
from thetahat.proof.speed.living import Living
from thetahat.proof.speed.peer import Peer, check_peer, check_rows
from thetahat.proof.speed.read import counted_in, logits_of
from thetahat.proof.speed.workers import WAITING, Within
from thetahat.recipes.catalogue import find_recipe
from thetahat.run.machine import resolve
from thetahat.run.prepare import prepare
from thetahat.run.state import first_state
from thetahat.verbs.bench import BenchConfig, bench

SMALL = [
    *("data.held_out=none", "data.vocab_size=300", "data.context=32", "batch_size=4", "threads=1", "device=cpu"),
    *("model.num_layers=1", "model.width=16", "model.num_heads=2", "model.num_kv_heads=1", "model.head_width=8"),
    *("model.inner_width=32", "max_steps=40", "diagnosis.preflight=off"),
]
LINES = [
    "Of man's first disobedience, and the fruit",
    "of that forbidden tree, whose mortal taste",
    "brought death",
    "in",
]


@pytest.fixture
def config(tmp_path, monkeypatch):
    """One document a row, of unequal lengths: some of each row is padding."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.jsonl").write_text("".join(json.dumps({"text": LINES[i % 4] + f" {i}."}) + "\n" for i in range(60)))
    pairs = [*SMALL, "data.train=my.jsonl", "data.packing=none", "data.over_long=truncate-right"]
    return override(find_recipe("quickstart"), pairs)


def test_a_training_is_measured_and_leaves_nothing(config, tmp_path):
    before = sorted(path.name for path in tmp_path.iterdir())
    found = bench(config, BenchConfig(steps=3, trace=str(tmp_path / "trace.json")))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*before, "trace.json"])
    assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert 0 < found.pace.padding < 1
    assert found.pace.low <= found.pace.median <= found.pace.high
    assert found.utilisation < found.with_update
    assert found.utilisation == pytest.approx(found.pace.flops / found.pace.median / found.ceiling)
    assert found.with_update <= 1 or any("cannot be" in note for note in found.notes)
    assert sum(one.share for one in found.shares) == pytest.approx(1)
    assert {kinds.PRODUCTS, kinds.ATTENTION, kinds.SCORED, kinds.UPDATED} <= {one.kind for one in found.shares}
    assert 0.75 < found.memory.measured / found.memory.said < 1.25


def test_what_is_read_is_counted_position_by_position(config):
    prepared = prepare(resolve(config))
    for batch in prepared.batches(0):
        rows = batch.inputs.visibility.piece.tolist()
        targets = [weight for row in batch.weights.tolist() for weight in row if weight > 0]
        found = counted_in(batch)
        assert found.positions == sum(len(row) for row in rows)
        assert found.filled == sum(piece >= 0 for row in rows for piece in row)
        assert found.targets == len(targets)
        assert logits_of([batch]) >= found.targets


def event(name, micros=0.0, above=None, number=-1, kernels=()):
    return SimpleNamespace(
        name=name,
        device_type=torch._C._autograd.DeviceType.CPU,
        cpu_parent=above,
        sequence_nr=number,
        kernels=[SimpleNamespace(duration=one) for one in kernels],
        self_cpu_time_total=micros,
    )


def profiled():
    """A step with a product, its objective forward and backward, an update; and something that is no part of it."""
    step = event(STEP, 5)
    objective, update = event(OBJECTIVE, 0, step), event(UPDATE, 0, step)
    logits = event("aten::mm", 20, objective, 7, [200])
    softmax = event("aten::logsumexp", 10, objective, 8, [100])
    back = event("autograd::engine::evaluate_function: LogsumexpBackward0", 0, None, 8)
    other = event("autograd::engine::evaluate_function: MulBackward0", 0, None, 9)
    return [
        *(step, objective, update, logits, softmax, back, other),
        event("aten::mul", 4, back, -1, [40]),
        event("aten::mul", 3, other, -1, [30]),
        event("aten::mm", 6, update, -1, [60]),
        event("aten::bmm", 2, step, 10, [20]),
        event("aten::copy_", 1, step, 11, [10]),
        event("aten::_index", 8, event(DATA, 0, step)),
        event(WAITING, 1000, step),
        event("aten::mm", 500),  # of another program in this process
    ]


def test_time_goes_to_the_kind_of_work_that_takes_it():
    found = {one.kind: round(one.seconds * 1e6, 6) for one in shares_of(profiled(), 1, 1.0, on_device=False)}
    assert found == {
        **{kinds.PRODUCTS: 20, kinds.SCORED: 14, kinds.ELEMENTWISE: 3, kinds.UPDATED: 6, kinds.ATTENTION: 2},
        **{kinds.COPIES: 1, kinds.FED: 8, kinds.HOST: 5},
    }


def test_of_a_device_kernels_count_and_what_is_left_it_waits():
    found = {one.kind: round(one.seconds * 1e6, 6) for one in shares_of(profiled()[:-1], 2, 1e-3, on_device=True)}
    assert (found[kinds.PRODUCTS], found[kinds.SCORED]) == (100, 70)
    assert found[kinds.IDLE] == 1000 - (200 + 140 + 30 + 60 + 20 + 10) / 2
    assert kinds.HOST not in found


def test_what_cannot_be_is_explained():
    pace, ceilings = Pace(1.0, 1.0, 1.0, (1.0,), 0.0, 1.0, 1.0, 0.0, 0.5, 0.1), (Ceiling("x", "FLOP/s", (1.0, 1.0)),)
    calm = Benched(
        *("run", "CPU", 1, ceilings, pace, 3, 1.0, 0.5, 0.6, Memory(None, None, "nothing"), 1.0, 1.0, (), ()),
    )
    quiet = [note for note in with_notes(calm, []).notes if "cores" not in note]
    assert quiet == []
    above = with_notes(changed(calm, with_update=1.2), []).notes
    assert any("which cannot be" in note for note in above)
    noisy = with_notes(changed(calm, pace=changed(calm.pace, high=1.4)), []).notes
    assert any("steps differ by 40%" in note for note in noisy)


def test_bytes_are_counted_over_threads():
    with Living() as living:
        here = torch.zeros(1000)
        workers = Within(Workers(2), lambda: Living(living.tally))
        there = [*workers.map(lambda number: torch.zeros(number), [3000, 5000])]
        assert living.tally.now == 4 * 9000
        del here
        assert living.tally.now == 4 * 8000
    with ThreadPoolExecutor(1) as pool:
        pool.submit(torch.zeros, 10**6).result()
    assert living.most == 4 * 9000
    assert len(there) == 2


def test_a_peer_says_the_same_or_is_refused(config):
    pytest.importorskip("transformers")
    config = resolve(config)
    assert check_peer(config) == "qwen3"
    prepared = prepare(config)
    state = first_state(config, prepared.tokenizer.vocab_size, 10, torch.device("cpu"))
    peer, (batch, *_) = Peer(state), prepared.batches(0)
    ours, theirs = peer.check(state, batch)
    assert ours == pytest.approx(theirs, rel=1e-5)
    for _ in range(20):
        peer.step([batch])
    with pytest.raises(ModelError, match="another likelihood"):
        peer.check(state, batch)


@pytest.mark.parametrize(
    ("recipe", "pairs", "told"),
    [
        ("masked", [], "left to right"),
        ("quickstart", ["model.dropout=0.1"], "model.dropout"),
        ("quickstart", ["model.residual.kind=learned"], "no family"),
    ],
)
def test_what_no_peer_can_do_is_refused_by_name(recipe, pairs, told):
    with pytest.raises((ConfigError, ModelError), match=told):
        check_peer(override(find_recipe(recipe), pairs))


def test_documents_that_would_see_each_other_are_refused(config):
    packed = resolve(override(config, ["data.packing=best-fit"]))
    with pytest.raises(ConfigError, match="several") as error:
        check_rows(prepare(packed).batches(0))
    assert error.value.cure == "data.packing=none"


def test_another_dtype_is_pointed_out_where_its_products_are_much_quicker(config):
    state = first_state(resolve(config), 300, 1, torch.device("cpu"))
    assert "dtype=bfloat16" in str(narrower(state, 1.0))
    assert narrower(state, 1e30) is None
    state.config = override(state.config, ["dtype=bfloat16"])
    assert narrower(state, 1.0) is None


def test_too_few_steps_are_refused_and_fewer_are_said(config):
    with pytest.raises(ConfigError, match="too few") as error:
        bench(override(config, ["max_steps=6"]), BenchConfig(steps=5))
    assert error.value.cure == "max_steps=11"
    with pytest.raises(ConfigError, match="3 or more"):
        BenchConfig(steps=2)
