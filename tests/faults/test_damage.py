"""Damage to a checkpoint never passes: the one before it is used and the damaged one named, or there is an error."""

import json
import logging
import random
import shutil

import pytest

from tests.faults.conftest import kept, outcome
from thetahat.core import store
from thetahat.core.config import from_toml
from thetahat.core.errors import ModelError
from thetahat.distribution.world import World
from thetahat.run.folder.checkpoint import read_config, settle
from thetahat.run.folder.find import find_checkpoint
from thetahat.run.start import find_newest
from thetahat.verbs.load import load

NEWEST, BEFORE = "step-00000024", "step-00000021"


def flip(path, chance, other):
    data = bytearray(path.read_bytes())
    bit = chance.randrange(8 * len(data))
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def cut(path, chance, other):
    data = path.read_bytes()
    path.write_bytes(data[: chance.randrange(len(data))])


def zero(path, chance, other):
    data = path.read_bytes()
    first = chance.randrange(len(data))
    path.write_bytes(data[:first] + bytes(len(data[first : first + 4096])) + data[first + 4096 :])
    if path.read_bytes() == data:
        flip(path, chance, other)


def lengthen(path, chance, other):
    with path.open("ab") as file:
        file.write(chance.randbytes(chance.randrange(1, 100)))


def swap(path, chance, other):
    """The same file of another checkpoint: whole in itself, and of another generation."""
    data, there = path.read_bytes(), other / path.name
    if data == there.read_bytes():
        return lengthen(path, chance, other)
    path.write_bytes(there.read_bytes())


def exchange(path, chance, other):
    """Two files of one checkpoint under each other's names."""
    beside = chance.choice([each for each in sorted(path.parent.iterdir()) if each != path])
    data = path.read_bytes()
    path.write_bytes(beside.read_bytes())
    beside.write_bytes(data)


def lose(path, chance, other):
    path.unlink()


def empty(path, chance, other):
    path.write_bytes(b"")


DAMAGES = (flip, flip, flip, cut, zero, lengthen, swap, exchange, lose, empty)
FILES = (
    "model.safetensors",
    "optimizer.safetensors",
    "state.json",
    "config.toml",
    "tokenizer.json",
    "card.toml",
    "MANIFEST.json",
)


@pytest.fixture
def run(oracle, tmp_path):
    shutil.copytree(oracle.run, tmp_path / "run")
    return tmp_path / "run"


def damaged(run, number, chance):
    """Damages one file of the newest checkpoint, and says how."""
    act, name = DAMAGES[number % len(DAMAGES)], FILES[number // len(DAMAGES) % len(FILES)]
    folder = run / "checkpoints" / NEWEST
    act(folder / name, chance, folder.with_name(BEFORE))
    return f"{act.__name__} {name}"


def is_of_optimizer_alone(folder, whole):
    """Whether only bytes of the optimizer's state changed, which asking a model does not read."""
    here, there = folder / "optimizer.safetensors", whole / "optimizer.safetensors"
    others = [name for name in FILES if name != here.name]
    return (
        all((folder / name).exists() and (folder / name).read_bytes() == (whole / name).read_bytes() for name in others)
        and here.exists()
        and here.stat().st_size == there.stat().st_size
    )


def check(run, what, caplog):
    """The three ways in: `score CHECKPOINT`, `score RUN`, `train`."""
    folder = run / "checkpoints" / NEWEST
    if is_of_optimizer_alone(folder, run.with_name("whole") / "checkpoints" / NEWEST):
        assert load(str(run)).folder == folder, what
    else:
        for name in (folder, run):
            with pytest.raises(ModelError) as caught:
                load(str(name))
            assert caught.value.exit_code == 4, what
        assert f"try: {run}@21; thetahat train {run}/config.toml --out {run} sets it aside" in str(caught.value), what
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    caplog.clear()
    assert find_newest(run, read_config(run), World()).name == BEFORE, what
    assert f"checkpoint {NEWEST} is damaged, and set aside as {folder}.damaged: " in caplog.text, what
    assert {path.name: path.read_bytes() for path in folder.with_name(f"{NEWEST}.damaged").iterdir()} == before, what
    assert f"{NEWEST}: " in folder.with_name(f"{NEWEST}.damaged.txt").read_text()
    assert load(str(run)).folder.name == BEFORE, what


def check_damages(run, numbers, caplog):
    caplog.set_level(logging.WARNING, "thetahat")
    whole = run.with_name("whole")
    shutil.copytree(run, whole)
    for number in numbers:
        check(run, damaged(run, number, random.Random(number)), caplog)
        shutil.rmtree(run)
        shutil.copytree(whole, run)
    print(f"{len(numbers)} damages, each found thrice")


def test_a_damaged_checkpoint_is_never_used(run, caplog):
    check_damages(run, range(0, 60, 5), caplog)


@pytest.mark.slow
def test_a_damaged_checkpoint_is_never_used_whatever_the_damage(run, caplog):
    check_damages(run, range(1000, 1000 + 60 * 4), caplog)


def test_a_whole_checkpoint_under_another_name_is_not_used(run, caplog):
    folder = run / "checkpoints" / NEWEST
    shutil.rmtree(folder)
    shutil.copytree(folder.with_name(BEFORE), folder)
    with pytest.raises(ModelError, match=f"{NEWEST} is misplaced: it holds step 21"):
        find_checkpoint(str(run))
    assert find_newest(run, read_config(run), World()).name == BEFORE
    assert f"{NEWEST} is misplaced, and set aside as {folder}.misplaced: it holds step 21" in caplog.text
    store.verify(folder.with_name(f"{NEWEST}.misplaced"))


def test_a_whole_checkpoint_of_another_config_is_not_used(run, caplog):
    other = from_toml((run / "config.toml").read_text().replace("seed = 3", "seed = 4"), type(read_config(run)))
    with pytest.raises(ModelError, match=r"step-00000024: it belongs to another config \(seed: 3 -> 4\)"):
        find_newest(run, other, World())
    assert kept(run) == [BEFORE, NEWEST]


def test_a_users_copy_of_a_checkpoint_is_left_alone(run):
    mine = run / "checkpoints" / "step-00000021-mine"
    shutil.copytree(run / "checkpoints" / BEFORE, mine)
    assert find_newest(run, read_config(run), World()).name == NEWEST
    assert load(f"{run}@21").folder.name == BEFORE
    assert mine.exists()


def use(oracle, bed):
    shutil.copytree(oracle.run, bed.run)


def test_training_goes_on_from_the_checkpoint_before_a_damaged_one(oracle, warm):
    use(oracle, warm)
    flip(warm.run / "checkpoints" / NEWEST / "optimizer.safetensors", random.Random(0), None)
    attempt = warm.finish()
    assert f"checkpoint {NEWEST} is damaged, and set aside as run/checkpoints/{NEWEST}.damaged: " in attempt.err
    assert "optimizer.safetensors is damaged" in attempt.err
    assert outcome(warm.run) == oracle.outcome


def test_where_every_checkpoint_is_damaged_nothing_starts_over(oracle, warm):
    use(oracle, warm)
    for name in (NEWEST, BEFORE):
        cut(warm.run / "checkpoints" / name / "model.safetensors", random.Random(0), None)
    before = contents(warm.run)
    for command in (warm.command(), ["score", "run"]):
        attempt = warm.finish(*command, code=4)
        assert NEWEST in attempt.err
        assert "bytes where" in attempt.err
    assert contents(warm.run) == before
    fresh = warm.finish(*warm.command("--fresh"))
    assert "run-2" in fresh.err
    assert outcome(warm.folder / "run-2") == oracle.outcome


def test_where_every_checkpoint_is_gone_nothing_starts_over(oracle, warm):
    use(oracle, warm)
    shutil.rmtree(warm.run / "checkpoints")
    assert "no checkpoint can be used" in warm.finish(code=4).err


def contents(run):
    """Every byte but for the name of the last holder."""
    return {path: path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file() and path.name != ".lock"}


def stop_at(bed, num_lines):
    attempt = bed.start()
    assert bed.until(attempt, lambda: bed.lines() >= num_lines), attempt.err
    attempt.kill()


def test_a_tokenizer_damaged_beside_the_checkpoints_is_put_back(oracle, warm):
    """Two ids that changed places: it would still load, and would silently be another tokenizer."""
    stop_at(warm, 8)
    path = warm.run / "tokenizer.json"
    text = path.read_text()
    parts = json.loads(text)
    ids = parts["model"]["vocab"]
    ids["e"], ids["o"] = ids["o"], ids["e"]
    path.write_text(json.dumps(parts))
    warm.finish()
    assert path.read_text() == text
    assert outcome(warm.run) == oracle.outcome


def test_text_that_changed_since_is_refused(warm):
    stop_at(warm, 4)
    path = warm.folder / "data.jsonl"
    path.write_text(path.read_text().replace("fox", "cat"))
    attempt = warm.finish(code=7)
    assert "other text" in attempt.err
    assert "--fresh" in attempt.err


def test_lost_lines_of_metrics_are_reported_and_never_made_up(oracle, warm):
    stop_at(warm, 10)
    path = warm.run / "metrics.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:4])[:-10])
    attempt = warm.finish()
    assert "metrics.jsonl has lost" in attempt.err
    assert all(line.startswith('{"step": ') for line in path.read_text().splitlines())
    assert path.read_text().splitlines()[2].startswith('{"step": 3,')


def test_a_damaged_newer_checkpoint_is_not_counted_among_those_to_keep(run):
    """Else a run that fell back to an older one would delete the only one that is whole."""
    settle(run, run / "checkpoints" / BEFORE, keep=1)
    assert BEFORE in kept(run)
    settle(run, run / "checkpoints" / NEWEST, keep=1)
    assert kept(run) == [NEWEST]


def test_what_is_damaged_is_neither_counted_nor_deleted(run, caplog):
    """Beside a newest that is whole, however old it is and however many are to be kept."""
    above = run / "checkpoints"
    for step in (3, 6, 9):
        shutil.copytree(above / BEFORE, above / f"step-{step:08d}")
    flip(above / "step-00000009" / "model.safetensors", random.Random(0), None)
    flip(above / BEFORE / "optimizer.safetensors", random.Random(0), None)
    cut(above / "step-00000006" / "state.json", random.Random(0), None)
    settle(run, above / NEWEST, keep=9, deep=True)
    assert kept(run) == ["step-00000003", NEWEST]
    aside = sorted(path.name for path in above.glob("*.damaged"))
    assert aside == ["step-00000006.damaged", "step-00000009.damaged", f"{BEFORE}.damaged"]
    settle(run, above / NEWEST, keep=1)
    assert kept(run) == [NEWEST]
    assert sorted(path.name for path in above.glob("*.damaged")) == aside


def test_a_pointer_names_a_folder_that_is_there(run):
    """The best may have been deleted before the run fell back to a time when it was the best."""
    path = run / "checkpoints" / BEFORE / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"best_step": 3}))
    settle(run, path.parent, keep=2)
    assert (run / "checkpoints" / "latest").read_text() == BEFORE
    assert not (run / "checkpoints" / "best").exists()
