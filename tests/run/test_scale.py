"""One dial: what follows from the number of layers, and how it is typed."""

import pytest

from tests.commands import thetahat
from thetahat.cli.words import find_config
from thetahat.core.errors import ConfigError
from thetahat.model.size import num_parameters
from thetahat.model.transfer.rule import fitted
from thetahat.recipes.catalogue import find_recipe, take_dials
from thetahat.run.ignored import refuse_ignored


@pytest.mark.parametrize("depth", [2, 3, 12, 40, 128])
def test_everything_follows_from_the_depth(depth):
    config = find_recipe("scale", depth=depth)
    model, growth = config.model, depth / 2
    in_blocks = 13 * model.width**2 * depth
    tables_and_gains = 2 * 1024 * model.width + (2 + 4 * depth) * model.width
    assert num_parameters(model, 1024) == pytest.approx(in_blocks + tables_and_gains, rel=0.01)
    rows = config.batch_size * config.data.context
    assert 20 * in_blocks <= config.max_steps * rows < 20 * in_blocks + rows
    assert config.batch_size == pytest.approx(8 * growth**1.5, abs=0.5)
    assert config.optimization.matrices.weight_decay * config.max_steps == pytest.approx(0.1 * 1040, rel=0.07)
    assert (config.transfer.width, config.transfer.num_layers) == (64, 2)
    assert fitted(model, config.transfer) == model
    refuse_ignored(config)


def test_the_dial_comes_before_all_keys_and_the_last_one_holds():
    config = find_config(["scale", "depth=12", "model.num_heads=6", "model.num_kv_heads=6", "model.head_width=64"])
    assert (config.model.width, config.model.num_heads, config.model.num_layers) == (384, 6, 12)
    assert find_config(["scale", "depth=12", "depth=3"]) == find_recipe("scale", depth=3)
    assert find_config(["scale"]) == find_recipe("scale", depth=2)
    assert take_dials("quickstart", ["depth=2"]) == ({}, ["depth=2"])


def test_a_dial_that_does_not_fit_is_refused():
    for typed in ("depth=x", "depth=", "depth=1.5"):
        with pytest.raises(ConfigError, match="allowed: a whole number"):
            find_config(["scale", typed])
    for depth in (1, 129):
        with pytest.raises(ConfigError, match="a number of layers, 2 to 128"):
            find_recipe("scale", depth=depth)
    with pytest.raises(ConfigError, match=r"quickstart has no dial depth\n  allowed: scale depth=\.\.\."):
        find_recipe("quickstart", depth=3)
    with pytest.raises(ConfigError, match=r"model\.num_layers"):
        find_config(["quickstart", "depth=3"])


def test_the_command_trains_what_the_dial_says(tmp_path):
    small = ["data.context=32", "data.vocab_size=300", "batch_size=2", "max_steps=2", "threads=1"]
    schedule = ["optimization.schedule.warmup_steps=0", "evaluation.every=0", "evaluation.max_documents=1"]
    done = thetahat(tmp_path, "train", "scale", "depth=3", *small, *schedule, "--out", "run", "--json")
    assert done.returncode == 0, done.stderr
    assert "width = 96" in (tmp_path / "run" / "config.toml").read_text()
