"""Ranks that read different things take part in the same collectives, in the same order: else they wait for ever."""

import json
from itertools import combinations, permutations

import pytest

from tests.scale.collectives import noted
from tests.scale.conftest import RUN, WORDS
from thetahat.core.config import from_toml, override, to_toml
from thetahat.distribution.launch import launch
from thetahat.run.config import RunConfig

pytestmark = pytest.mark.multi

LAYOUTS = {  # ranks, how they are laid out, rows of a global batch
    "replicas": (2, [], 3),
    "shards": (2, ["mesh.shards=2"], 3),
    "context": (2, ["mesh.context=2"], 3),
    "tensor": (2, ["mesh.tensor=2"], 3),
    "pipeline": (2, ["mesh.pipeline=2"], 3),
    "turns": (2, ["mesh.pipeline=2", "mesh.turns=2", "model.num_layers=4"], 3),
    "2x-pipeline": (4, ["mesh.pipeline=2"], 3),
    "shards-pipeline": (4, ["mesh.pipeline=2", "mesh.shards=2"], 3),
    "2x2": (4, ["mesh.shards=2"], 3),  # one rank has no row
    "3": (3, ["mesh.shards=3"], 2),
    "context-shards": (4, ["mesh.context=2", "mesh.shards=2"], 1),
    "2x-tensor": (4, ["mesh.tensor=2"], 3),
    "shards-tensor": (4, ["mesh.shards=2", "mesh.tensor=2"], 1),
}
FAST = ("replicas", "shards", "context", "tensor", "turns")


def folder_of(path, keys, rows):
    """A run whose rows have one to seven pieces, and of whose records a third has no targets."""
    lines = [
        {"id": f"d{i}", "text": " ".join(WORDS[: 1 + i * 5 % 13]) + ".", "weight": 0.0 if i % 3 == 0 else 1.0}
        for i in range(40)
    ]
    (path / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    held = [{"id": f"h{i}", "text": " ".join(WORDS[:size])} for i, size in enumerate([4, 2, 14, 3, 9])]
    (path / "held.jsonl").write_text("".join(json.dumps(line) + "\n" for line in held))
    often = ["max_steps=4", "evaluation.every=2", "evaluation.batch_size=1", "checkpoint.every=2", "diagnosis.every=2"]
    often += [f"batch_size={rows}", "micro_batch_size=1", "dtype=float32", 'samples.prompts=["the quick"]']
    often += ["samples.max_tokens=3", "samples.every=2", "model.dropout=0.1"]
    config = override(from_toml(RUN, RunConfig), [*often, *keys])
    (path / "config.toml").write_text(to_toml(config))
    return str(path)


@pytest.mark.parametrize("name", [*FAST, *(pytest.param(n, marks=pytest.mark.slow) for n in LAYOUTS if n not in FAST)])
def test_ranks_with_different_data_take_part_in_the_same_collectives(tmp_path, monkeypatch, name):
    monkeypatch.setenv("THETAHAT_CACHE", str(tmp_path / "cache"))
    size, keys, rows = LAYOUTS[name]
    launch(noted, size, folder_of(tmp_path, keys, rows))
    told = [json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in range(size)]
    assert {one["steps"] for one in told} == {4}
    assert min(len(one["seen"]) for one in told) > 50
    for one, other in combinations(range(size), 2):
        ours, theirs = ([did for did in told[rank]["seen"] if {one, other} <= set(did[1])] for rank in (one, other))
        assert ours == theirs
    for one, other in permutations(range(size), 2):
        sent = [did[2:] for did in told[one]["handed"] if did[:2] == ["sent to", other]]
        assert sent == [did[2:] for did in told[other]["handed"] if did[:2] == ["received from", one]]
    assert any(one["handed"] for one in told) == ("mesh.pipeline=2" in keys)
    print(f"{name}: {[len(one['seen']) for one in told]} collectives by rank")
