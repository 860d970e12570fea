"""Ranks that digest a checkpoint together answer as one that digests all of it."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given, strategies as st
from msgspec.structs import replace

from tests.examples import SENTENCE, run_config
from tests.run.test_base import SHAPE, ran, write
from thetahat.core import store
from thetahat.core.errors import ThetahatError
from thetahat.data.config import DataConfig
from thetahat.distribution.launch import launch
from thetahat.distribution.world import join_world
from thetahat.model.config import DecoderConfig
from thetahat.run.config import CheckpointConfig
from thetahat.run.folder.config import read_config
from thetahat.run.folder.verified import newest_verified, shared_out

NEWEST, BEFORE, FIRST = "step-00000004", "step-00000002", "step-00000000"
TENSORS = {"model.safetensors", "optimizer.safetensors"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Copies of a run, each with another fault."""
    place = tmp_path_factory.mktemp("verified")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THETAHAT_CACHE", str(place / "cache"))
        texts = write(place / "texts.jsonl", [{"text": f"{SENTENCE} {i}"} for i in range(12)])
        data = DataConfig(train=texts, held_out="none", context=64, over_long="split", vocab_size=300)
        config = run_config(DecoderConfig(**SHAPE), data=data, max_steps=4)
        ran(replace(config, checkpoint=CheckpointConfig(every=2, keep=9)), place / "whole")
    for name in ("model", "optimizer", "state", "cut", "gone", "both", "other"):
        shutil.copytree(place / "whole", place / name)
    harm(place / "model" / "checkpoints" / NEWEST / "model.safetensors")
    harm(place / "optimizer" / "checkpoints" / NEWEST / "optimizer.safetensors")
    harm(place / "state" / "checkpoints" / NEWEST / "state.json")
    (place / "gone" / "checkpoints" / NEWEST / "model.safetensors").unlink()
    with (place / "cut" / "checkpoints" / NEWEST / "optimizer.safetensors").open("ab") as file:
        file.write(b"more")
    harm(place / "both" / "checkpoints" / NEWEST / "optimizer.safetensors")
    harm(place / "both" / "checkpoints" / BEFORE / "model.safetensors")
    harm(place / "other" / "checkpoints" / NEWEST / "model.safetensors")
    return place


def harm(path):
    """Changes one byte in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def answer(run, config, world=None):
    """What is found, in words; or the error."""
    try:
        newest, rejected = newest_verified(run, config, *([world] if world else []))
    except ThetahatError as error:
        return [type(error).__name__, error.what]
    return [newest and newest.name, [[one.folder.name, one.kind, one.reason] for one in rejected]]


def as_ranks(place):
    """Each rank's answers, and what it has digested of the whole run."""
    world, place = join_world("cpu"), Path(place)
    digest, read = store.digest_file, []

    def noted(path, *more):
        read.append(path.name)
        if place.joinpath("unreadable").exists() and path.name in TENSORS and world.rank == 1:
            raise OSError(5, "Input/output error")
        return digest(path, *more)

    store.digest_file = noted
    said = {}
    for run in sorted(path.parent for path in place.glob("*/config.toml")):
        read.clear()
        config = read_config(run)
        if run.name == "other":
            config = replace(config, seed=config.seed + 1)
        said[run.name] = answer(run, config, world)
        if run.name == "whole":
            said["read"] = list(read)
    mine = place / ("whole" if world.rank == 0 else "model")
    said["apart"] = answer(mine, read_config(mine), world)
    mine = place / ("model" if world.rank == 0 else "whole")
    said["apart the other way"] = answer(mine, read_config(mine), world)
    fewer = place / "whole" if world.rank == 0 else place / "fewer" / "run"
    said["fewer"] = answer(fewer, read_config(fewer), world)
    world.any(False)  # all have answered: those that see other files did not wait for each other
    world.first_does(lambda: (place / "unreadable").touch())
    said["unreadable"] = answer(place / "whole", read_config(place / "whole"), world)
    (place / f"said-{world.size}-{world.rank}.json").write_text(json.dumps(said))
    world.leave()


@pytest.mark.multi
@pytest.mark.parametrize("size", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_ranks_that_share_the_digests_answer_as_one(place, size):
    if not (place / "fewer").exists():
        shutil.copytree(place / "whole", place / "fewer" / "run")
        shutil.rmtree(place / "fewer" / "run" / "checkpoints" / NEWEST)
    (place / "unreadable").unlink(missing_ok=True)
    launch(as_ranks, size, str(place))
    said = [json.loads((place / f"said-{size}-{rank}.json").read_text()) for rank in range(size)]
    for run in ("whole", "model", "optimizer", "state", "cut", "gone", "both", "other"):
        config = read_config(place / run)
        alone = answer(place / run, replace(config, seed=config.seed + 1) if run == "other" else config)
        assert [one[run] for one in said] == [json.loads(json.dumps(alone))] * size
    found = [said[0][run][0] for run in ("whole", "model", "optimizer", "state", "cut", "gone", "both", "other")]
    assert found == [NEWEST, BEFORE, BEFORE, BEFORE, BEFORE, BEFORE, FIRST, None]
    assert said[0]["other"][1][0][1] == "damaged"  # first of all it is not whole
    digested = [name for one in said for name in one["read"] if name in TENSORS]
    assert sorted(digested) == sorted(TENSORS)  # each by one rank
    assert all("state.json" in one["read"] for one in said)
    assert [one["apart"][0] for one in said] == [NEWEST] + [BEFORE] * (size - 1)
    assert [one["apart the other way"][0] for one in said] == [BEFORE] + [NEWEST] * (size - 1)
    assert [one["fewer"][0] for one in said] == [NEWEST] + [BEFORE] * (size - 1)
    errors = [one["unreadable"] for one in said]
    assert errors[1][0] == "ModelError"
    assert "cannot be read" in errors[1][1]
    assert all(error == ["ThetahatError", "rank 1 stopped; its message says why"] for error in errors[:1] + errors[2:])


@given(st.dictionaries(st.text("abcd", max_size=3), st.integers(0, 100)), st.integers(1, 5))
def test_each_file_is_read_by_one_rank_and_no_rank_by_much_more_than_its_part(sizes, num_ranks):
    shares = shared_out(sizes, num_ranks)
    assert sorted(name for share in shares for name in share) == sorted(sizes)
    most = max(sum(sizes[name] for name in share) for share in shares)
    assert most <= sum(sizes.values()) / num_ranks + max(sizes.values(), default=0)
