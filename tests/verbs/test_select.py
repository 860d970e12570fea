"""`select` over the checkpoints of a real run."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file

from tests.examples import texts_of
from thetahat.core.config import override
from thetahat.core.errors import DataError, FolderError, ModelError
from thetahat.recipes.catalogue import find_recipe
from thetahat.run.folder.files import all_checkpoints
from thetahat.run.folder.find import find_checkpoint, find_weights
from thetahat.run.train import train
from thetahat.verbs.score import score
from thetahat.verbs.select import select

SMALL = ["model.width=32", "model.num_layers=1", "model.inner_width=48", "data.context=64", "data.vocab_size=300"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("select")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THETAHAT_CACHE", str(place / "cache"))
        every = ["checkpoint.every=4", "checkpoint.keep=9", "evaluation.every=0", "max_steps=16", "batch_size=4"]
        (place / "text.txt").write_text("\n".join(texts_of(300)))
        data = [f"data.train={place / 'text.txt'}", "data.held_out=tail:0.1", "threads=1", "device=cpu"]
        config = override(find_recipe("quickstart"), [*SMALL, *every, *data])
        assert len(list(train(config, place / "run"))) == 16
        for name, seed, count in (("more.jsonl", 1, 60), ("report.jsonl", 2, 40)):
            lines = [json.dumps({"text": text}) for text in texts_of(count, seed)]
            (place / name).write_text("\n".join(lines) + "\n")
        yield place


def test_each_candidate_has_the_likelihood_that_score_gives_it(place):
    found = select(str(place / "run"), [str(place / "more.jsonl")], report=[str(place / "report.jsonl")], averages=3)
    names = [standing.name for standing in found.selection.standings]
    assert names == ["0", "4", "8", "12", "16", "mean:2", "mean:3"]
    for standing in found.selection.standings[:5]:
        scored = score(f"{place / 'run'}@{standing.name}", [str(place / "more.jsonl")])
        assert standing.value == pytest.approx(scored.summary.bits_per_byte, rel=1e-12)
    best = found.selection.standings[found.selection.best]
    assert best.value == min(standing.value for standing in found.selection.standings)
    assert (found.num_report_units, found.unit) == (40, "documents")
    assert found.last.summary == score(str(place / "run"), [str(place / "report.jsonl")]).summary
    json.dumps(found.to_dict(), allow_nan=False)


def test_one_document_is_chosen_by_every_other_block_and_reported_on_by_the_rest(place):
    found = select(str(place / "run"), [str(place / "text.txt")], averages=1)
    (row,) = score(str(place / "run"), [str(place / "text.txt")]).rows
    assert len(row.blocks) >= 4
    assert found.unit == "blocks of 1,024 tokens of 1 document"
    assert found.selection.num_units + found.num_report_units == len(row.blocks)
    nats, size = (sum(getattr(block, name) for block in row.blocks[::2]) for name in ("log_prob", "num_bytes"))
    last = found.selection.standings[-1]
    assert last.value == pytest.approx(-nats / math.log(2) / size, rel=1e-12)
    assert last.error > 0
    summary = found.last.summary
    assert (summary.num_documents, summary.interval_unit) == (1, found.unit)
    assert summary.num_tokens == sum(block.num_tokens for block in row.blocks[1::2])
    assert summary.bits_per_byte_ci95
    json.dumps(found.to_dict(), allow_nan=False)


def test_the_mean_of_checkpoints_is_saved_as_a_model(place, tmp_path):
    folders = all_checkpoints(place / "run")[-2:]
    first, second = (load_file(folder / "model.safetensors") for folder in folders)
    mean = find_weights(f"{place / 'run'}@mean:2").tensors()
    for name, value in mean.items():
        torch.testing.assert_close(value, (first[name] + second[name]) / 2, rtol=1e-6, atol=1e-9)
    found = select(str(place / "run"), [str(place / "more.jsonl")], save=tmp_path / "best")
    chosen = [row for row in score(str(tmp_path / "best"), [str(place / "more.jsonl")]).rows]
    standing = found.selection.standings[found.selection.best]
    mine = [row for row in chosen if int(row.digest[:8], 16) % 2]
    nats = -sum(row.log_prob for row in mine) / 0.6931471805599453 / sum(row.num_bytes for row in mine)
    assert standing.value == pytest.approx(nats, rel=1e-9)


def test_a_checkpoint_that_is_not_there_is_named_with_those_that_are(place):
    steps = "0, 4, 8, 12, 16"
    for name in ("7", "newest"):
        with pytest.raises(ModelError) as error:
            find_checkpoint(f"{place / 'run'}@{name}")
        assert f"@{name}: there is no such checkpoint\n" in str(error.value)
        assert str(error.value).endswith(f"run@ one of: latest, best, {steps}")


def test_what_cannot_be_chosen_from_is_refused_before_anything_is_scored(place, tmp_path, monkeypatch):
    more = str(place / "more.jsonl")
    monkeypatch.delattr("thetahat.verbs.select.score_corpus")
    with pytest.raises(DataError, match="60 documents would choose and be reported on"):
        select(str(place / "run"), [more], report=[more])
    (tmp_path / "short.txt").write_text("\n".join(texts_of(6)))
    with pytest.raises(DataError, match="1 document of 1 block of 1,024 tokens is too little"):
        select(str(place / "run"), [str(tmp_path / "short.txt")])
    with pytest.raises(ModelError, match="0 whole checkpoints"):
        select(str(tmp_path), [more])
    with pytest.raises(FolderError, match="nothing is written over"):
        select(str(place / "run"), [more], save=place / "run")
