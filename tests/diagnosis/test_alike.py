"""Ranks that should have the same parameters and do not: which rank, and which tensor, in every layout."""

import json

import pytest
from msgspec.structs import replace

from tests.diagnosis.alike import LAYOUTS, MATRIX, VECTOR, looked, trained
from tests.diagnosis.faults import SHAPE
from tests.examples import SENTENCE, run_config
from thetahat.core.config import override, to_toml
from thetahat.data.config import DataConfig
from thetahat.distribution.launch import launch

pytestmark = pytest.mark.multi
TWINS = {  # of a piece: the ranks that have the same one, rank 0's among them, in the first line of each layout
    "2 x shards 2": [(0, 2), (1, 3)],
    "2 x tensor 2": [(0, 2), (1, 3)],
    "context 2 x shards 2": [(0,), (1,), (2,), (3,)],
    "shards 2 x tensor 2": [(0,), (1,), (2,), (3,)],
}


def expected(rank, twins):
    """The rank that is named: the first that is not like the first of its twins; None where it has none."""
    mine = next(group for group in twins if rank in group)
    return None if len(mine) == 1 else mine[1] if rank == mine[0] else rank


def test_a_bit_that_differs_is_found_with_its_rank_and_tensor_in_every_layout(tmp_path):
    launch(looked, 4, str(tmp_path))
    told = [json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in range(4)]
    assert told[1:] == told[:1] * 3
    for layout in LAYOUTS:
        found = told[0][layout]
        assert found.pop("pieces") == ([MATRIX] if layout in TWINS else [])
        assert found.pop("None ") is None
        for rank in range(4):
            for tensor in (MATRIX, VECTOR):
                all_alike = [(0, 1, 2, 3)]
                named = expected(rank, TWINS.get(layout, all_alike) if tensor == MATRIX else all_alike)
                assert found.pop(f"{rank} {tensor}") == (None if named is None else [named, tensor]), (layout, rank)
        assert not found


def test_a_run_of_replicas_in_shards_says_which_rank_diverged(tmp_path, monkeypatch):
    monkeypatch.setenv("THETAHAT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "text.txt").write_text(f"{SENTENCE} " * 20)
    data = DataConfig(train=str(tmp_path / "text.txt"), held_out="none", context=32, over_long="split", vocab_size=300)
    config = run_config(replace(SHAPE, num_layers=2), data=data, max_steps=6, dtype="float32", batch_size=4)
    keys = ["mesh.shards=2", "diagnosis.every=2", "diagnosis.preflight=off", "checkpoint.every=0"]
    (tmp_path / "config.toml").write_text(to_toml(override(config, keys)))
    launch(trained, 4, str(tmp_path))
    lines = [json.loads(line) for line in (tmp_path / "run" / "alarms.jsonl").read_text().splitlines()]
    alarms = [one for one in lines if one["name"] == "rank-divergence"]
    assert [(one["step"], one["where"], one["evidence"]["rank"]) for one in alarms] == [(4, MATRIX, 3)]
