"""What is said of memory before a training begins."""

import logging
from pathlib import Path

import pytest
import torch

from tests.examples import run_config
from thetahat.core.config import override
from thetahat.core.plain import sized
from thetahat.data.config import DataConfig
from thetahat.distribution.world import World
from thetahat.run.diagnosis import room
from thetahat.run.diagnosis.room import fitting, needed_of, tell_room
from thetahat.run.machine import free_memory
from thetahat.run.prepare import prepare

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THETAHAT_CACHE", str(tmp_path_factory.mktemp("cache")))
        data = tmp_path_factory.mktemp("data") / "a.txt"
        data.write_text("one two three four five six seven " * 400)
        config = run_config(data=DataConfig(train=str(data), context=512, vocab_size=300, held_out="none"))
        yield prepare(override(config, ["data.over_long=split"]), None, World())


@pytest.mark.parametrize(("times", "level"), [(3.0, None), (1.5, logging.INFO), (0.9, logging.WARNING)])
def test_memory_is_told_where_it_is_much_of_what_is_free(prepared, monkeypatch, caplog, times, level):
    needed = needed_of(prepared, prepared.config).total
    monkeypatch.setattr(room, "free_memory", lambda device: int(times * needed))
    with caplog.at_level(logging.INFO, "thetahat"):
        tell_room(prepared, CPU, World())
    assert [record.levelno for record in caplog.records] == [level] * (level is not None)
    if level is not None:
        assert caplog.messages[0].startswith(f"training needs about {sized(needed)} of memory, with 4 rows of 512 ")


def test_what_is_proposed_fits_and_changes_no_more_than_it_must(prepared):
    whole = needed_of(prepared, prepared.config).total
    for share in (0.9, 0.4, 0.2, 0.1):
        free = int(share * whole)
        typed = fitting(prepared, free)
        if "=MODEL" in typed:
            assert share < 0.2
            continue
        assert needed_of(prepared, override(prepared.config, typed.split())).total <= free
        assert ("data.context" in typed) == (
            needed_of(prepared, override(prepared.config, ["micro_batch_size=1", "objective.chunk_size=1024"])).total
            > free
        )
    assert "MODEL" in fitting(prepared, 0)


def test_rows_have_no_more_positions_than_the_data(prepared):
    longer = [needed_of(prepared, override(prepared.config, [f"data.context={2**k}"])) for k in (19, 20)]
    assert longer[0].activations == longer[1].activations


def test_the_memory_that_is_free_is_that_of_this_machine():
    lines = Path("/proc/meminfo").read_text().splitlines()
    total = next(int(line.split()[1]) for line in lines if line.startswith("MemTotal"))
    assert 0 < free_memory(CPU) <= 1024 * total
