"""What several ranks cannot do, by the config alone: each says so by itself, before it has met the others."""

import pytest
import torch.distributed as dist

from tests.commands import ended, started, worlds
from tests.scale.conftest import KINDS, RUN, trained
from thetahat.core.config import from_toml, override
from thetahat.core.errors import ConfigError
from thetahat.distribution.world import take_gpu
from thetahat.run.config import RunConfig
from thetahat.run.start import check

NOWHERE = ["data.train=nowhere.jsonl", "data.held_out=none"]
PIPELINE = "mesh.pipeline=2"
FLOAT8 = ["dtype=bfloat16", "float8=true"]
REFUSED = {
    "mesh.shards=3": (["mesh.shards=3"], "mesh.shards=3 needs a multiple of 3 ranks, and 2 ranks were started"),
    "two axes": (["mesh.tensor=2", "mesh.shards=2"], "mesh.shards=2 mesh.tensor=2 needs a multiple of 4 ranks"),
    "standard input": (["data.train=-"], "standard input has one reader, not 2 ranks"),
    "offload": (["mesh.shards=2", "mesh.offload=true"], "mesh.offload=true with device=cpu"),
    "heads": (["mesh.tensor=2", "model.num_kv_heads=1"], "allowed: mesh.tensor=1"),
    "columns": (["mesh.tensor=2", "model.inner_width=1"], "leaves a rank nothing of 1 inner columns"),
    "norms": (
        ["mesh.tensor=2", "model.attention.query_key_norm=joined"],
        "allowed: model.attention.query_key_norm=head",
    ),
    "states": (["mesh.tensor=2", *KINDS["states"]], "a state, which is not divided"),
    "compiled": (["mesh.tensor=2", "compile=true"], "try: compile=false"),
    "layers": ([PIPELINE, "model.num_layers=1"], "allowed: mesh.pipeline=1 mesh.turns=1"),
    "turns": ([PIPELINE, "mesh.turns=2"], "model.num_layers=2: mesh.turns=2 needs 4"),
    "shared layers": ([PIPELINE, "model.shares_layers=true"], "allowed: model.shares_layers=false"),
    "encoder": ([PIPELINE, *KINDS["encoder"]], "allowed: model.kind=decoder"),
    "encoder-decoder": ([PIPELINE, *KINDS["encoder-decoder"]], "allowed: model.kind=decoder"),
    "float8 in parts of rows": (["mesh.tensor=2", *FLOAT8], "float8=true with mesh.tensor=2"),
    "float8 of odd widths": (["model.width=24", *FLOAT8], "no map of a block is to and from widths"),
    "frozen": (['frozen=["nothing.*"]'], "matches no parameter of this model"),
    "trackers": (["track=trackio"], "trackio"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_rank_refuses_alone(name, monkeypatch):
    """The other one is never started, so to wait for it would take half an hour."""
    keys, told = REFUSED[name]
    for key, value in worlds(2)[1].items():
        monkeypatch.setenv(key, value)
    with pytest.raises(ConfigError) as error:
        check(override(from_toml(RUN, RunConfig), [*NOWHERE, *keys]))
    assert told in str(error.value)
    assert not dist.is_initialized()


@pytest.mark.multi
@pytest.mark.parametrize(
    ("command", "keys", "told"),
    [
        (["train"], [PIPELINE, *KINDS["encoder-decoder"]], "allowed: model.kind=decoder"),
        (["train", "--fresh"], ["mesh.shards=3"], "mesh.shards=3 needs a multiple of 3 ranks"),
        (["verify"], ["mesh.tensor=2", "model.num_kv_heads=1"], "allowed: mesh.tensor=1"),
        (["bench"], ["mesh.shards=2", "mesh.offload=true"], "try: mesh.offload=false"),
    ],
    ids=["train", "fresh", "verify", "bench"],
)
def test_a_rank_that_starts_when_the_other_has_ended_says_the_same(bench, command, keys, told):
    """Of ranks that had met, it would say that the other is lost."""
    out = ["--out", "above/refused"] if "train" in command else []
    words = [*command, "tiny.toml", *out, *NOWHERE, *keys]
    done = [ended(started(bench, *words, environment=world), 60) for world in worlds(2)]
    assert [one.returncode for one in done] == [2, 2]
    assert told in done[0].stderr
    assert done[0].stderr.splitlines()[-2:] == done[1].stderr.splitlines()[-2:]
    assert not (bench / "above").exists()


def test_a_process_alone_is_told_how_to_start_more(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(ConfigError, match=r"1 rank was started.*\n.*torchrun --nproc-per-node 3"):
        check(override(from_toml(RUN, RunConfig), [*NOWHERE, "mesh.shards=3"]))


@pytest.mark.slow
@pytest.mark.multi
def test_new_rows_that_ranks_cannot_divide_are_refused(bench):
    if not (bench / "base").exists():
        trained(bench, "base", 1, "max_steps=3")
    keys = [*KINDS["new-rows"], "mesh.tensor=2", *NOWHERE]
    done = [ended(started(bench, "train", "tiny.toml", *keys, environment=world)) for world in worlds(2)]
    assert [one.returncode for one in done] == [2, 2]
    assert "rows of new tokens are trained beside a frozen table" in done[1].stderr


def test_a_rank_without_a_gpu_says_so(monkeypatch):
    for key, value in worlds(65)[64].items():
        monkeypatch.setenv(key, value)
    with pytest.raises(ConfigError, match="rank 64 of this machine has no GPU"):
        take_gpu()
