"""What a run held out is the same text at whatever context it is scored, and another one only where it has changed."""

import json

import pytest
from msgspec.structs import replace

from tests.verbs.test_families import config_of
from thetahat.core.errors import FolderError
from thetahat.run.train import train
from thetahat.verbs.load import load
from thetahat.verbs.score import score

OTHERS = {
    "labels": ("context=12", "data.over_long=truncate-right"),
    "causal on dialogues": ("context=200", "data.over_long=keep-last-turns"),
    "conditional": ("data.context=64", "data.over_long=truncate-left"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_held_out_text_is_the_same_in_another_context(name, tmp_path, monkeypatch):
    monkeypatch.setenv("THETAHAT_CACHE", str(tmp_path / "cache"))
    config = config_of(name, tmp_path, max_steps=1)
    config = replace(config, data=replace(config.data, held_out="tail:0.3"))
    list(train(config, tmp_path / "run"))
    run = str(tmp_path / "run")
    plain, other = score(load(run)), score(load(run, OTHERS[name]))
    assert [row.digest for row in other.rows] == [row.digest for row in plain.rows]
    path = tmp_path / "records.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    records[-1] = records[0]  # of the part that was held out
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    for changes in ((), OTHERS[name]):
        with pytest.raises(FolderError, match="has changed since"):
            score(load(run, changes))
