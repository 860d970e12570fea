"""What a run reads before step 1: the text once where nothing is cached, and not at all where it is."""

import json

import pytest

from thetahat.core.config import override
from thetahat.data.read.shards import parse
from thetahat.distribution.world import World
from thetahat.recipes.catalogue import find_recipe
from thetahat.run.prepare import prepare

SMALL = ["data.vocab_size=300", "data.context=64", "batch_size=4", "max_steps=2", "device=cpu", "data.over_long=split"]


@pytest.fixture
def parsed(monkeypatch, tmp_path):
    """The files that are parsed, in order."""
    monkeypatch.setenv("THETAHAT_CACHE", str(tmp_path / "cache"))
    seen = []
    read = parse.read_objects
    monkeypatch.setattr(
        parse, "read_objects", lambda path, *rest, **more: seen.append(path.name) or read(path, *rest, **more)
    )
    return seen


def run(tmp_path, name, *overrides):
    (tmp_path / name).mkdir(exist_ok=True)
    config = override(find_recipe("quickstart"), [*SMALL, f"data.train={tmp_path}/a.jsonl", *overrides])
    return prepare(config, tmp_path / name, World())


@pytest.mark.parametrize("held_out", ["hash:0.3", "tail:0.3", "none"])
def test_the_text_is_parsed_once_before_step_one_and_not_on_resume(tmp_path, parsed, held_out):
    lines = [{"text": f"the {n}th lighthouse on the shore", "id": n} for n in range(60)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    first = run(tmp_path, "run", f"data.held_out={held_out}")
    assert parsed == ["a.jsonl"]  # division, tokenizer and both corpora
    again = run(tmp_path, "run", f"data.held_out={held_out}")
    run(tmp_path, "other", f"data.held_out={held_out}", "data.vocab_size=310")
    assert parsed == ["a.jsonl"]
    assert again.train.fingerprint == first.train.fingerprint


def test_what_is_on_both_sides_is_named_before_step_one(tmp_path, parsed, caplog):
    def write(name, lines):
        (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in lines))

    write("a.jsonl", [{"text": "The lighthouse"}, {"prompt": "Which bird?", "completion": "A gull."}, {"text": "Kelp"}])
    write(
        "b.jsonl", [{"text": "The lighthouse"}, {"prompt": "which  bird?", "completion": "A tern."}, {"text": "Sand"}]
    )
    with caplog.at_level("WARNING", "thetahat"):
        run(tmp_path, "run", f"data.held_out={tmp_path}/b.jsonl")
    told = [record.getMessage() for record in caplog.records]
    assert any(
        line.startswith("1 held-out document is in the training part, word for word: b.jsonl:1") for line in told
    )
    assert any(
        "1 held-out record begins like one of the training part, but for case and blanks" in line
        and "b.jsonl:2" in line
        for line in told
    )
