"""Whatever lies in a run folder or goes wrong with it, nothing that was published or is the user's is lost."""

import contextlib
import random
import shutil
from collections import Counter

import pytest

from tests.core.test_store import failing_at_read
from tests.faults.test_damage import BEFORE, DAMAGES, FILES, NEWEST
from thetahat.core import store
from thetahat.core.errors import ModelError
from thetahat.distribution.world import World
from thetahat.run.folder.checkpoint import read_config, settle
from thetahat.run.folder.find import find_checkpoint
from thetahat.run.start import find_newest

NAMES = (".DS_Store", ".nfs000000000012a", "._model.safetensors", "Thumbs.db", "notes.txt", "model.safetensors~", "ü n",
         "step-00000099", "MANIFEST.json.swp", "state.json.old", "latest.txt")  # fmt: skip


@pytest.fixture
def run(oracle, tmp_path):
    shutil.copytree(oracle.run, tmp_path / "run")
    return tmp_path / "run"


def files(run):
    """The content of every file below the checkpoints, wherever it lies; pointers are written anew."""
    found = [path for path in (run / "checkpoints").rglob("*") if path.is_file() and not path.is_symlink()]
    return Counter(path.read_bytes() for path in found if path.name not in {"latest", "best"})


def stray(run, chance):
    """Puts something of the user's somewhere below the checkpoints."""
    above = run / "checkpoints"
    place = chance.choice([above, above / NEWEST, above / NEWEST, above / BEFORE])
    path = place / chance.choice(NAMES)
    if path.exists():
        return
    match chance.randrange(4 if place != above else 2):
        case 0 | 1:
            path.write_bytes(b"mine" + chance.randbytes(20))
        case 2:
            (path / "below").mkdir(parents=True)
            (path / "below" / "x").write_bytes(b"mine" + chance.randbytes(20))
        case _:
            path.symlink_to("/nowhere" if chance.randrange(2) else above)


def harm(run, chance):
    """Damages a file of the newest checkpoint or of the one before."""
    folder = run / "checkpoints" / chance.choice([NEWEST, BEFORE])
    with contextlib.suppress(FileNotFoundError):
        chance.choice(DAMAGES)(folder / chance.choice(FILES), chance, folder.with_name(BEFORE))


def check(run, number):
    """One run folder with strays, perhaps damage, and perhaps a disk that fails once: asked, then gone on with."""
    chance, config = random.Random(number), read_config(run)
    is_harmed, fails = chance.randrange(3) == 0, chance.randrange(2) == 0
    if is_harmed:
        harm(run, chance)
    for _ in range(chance.randrange(1, 5)):
        stray(run, chance)
    before = files(run)

    def tried(act):
        """What the action found; None where an error said why not, which it may only where something is wrong."""
        with failing_at_read(chance.randrange(80) if fails else 10**9) as has_failed:
            try:
                return act().name
            except (ModelError, OSError) as error:
                found = error
        assert has_failed() or is_harmed, (number, found)
        return None

    assert tried(lambda: find_checkpoint(str(run), with_optimizer=True)) in {NEWEST, None}, number
    assert tried(lambda: find_newest(run, config, World())) in {NEWEST, None, *([BEFORE] if is_harmed else [])}, number
    assert before <= files(run), number
    with contextlib.suppress(ModelError):
        newest = find_checkpoint(str(run))
        settle(run, newest, keep=1)
        lost = before - files(run)
        assert sum(lost.values()) <= len(FILES), number  # those of the older checkpoint, which was not to be kept
        assert not any(content.startswith(b"mine") for content in lost), number


def check_all(run, numbers):
    whole = run.with_name("whole")
    run.rename(whole)
    for number in numbers:
        shutil.copytree(whole, run, symlinks=True)
        check(run, number)
        shutil.rmtree(run)


def test_nothing_that_was_published_is_deleted_and_the_newest_is_used_or_an_error_says_why(run):
    check_all(run, range(30))


@pytest.mark.slow
def test_nothing_that_was_published_is_deleted_whatever_lies_there(run):
    check_all(run, range(1000, 2000))


def test_files_of_the_user_outlive_the_checkpoint_in_which_they_lie(run, caplog):
    above = run / "checkpoints"
    (above / BEFORE / "plot.png").write_bytes(b"mine")
    settle(run, above / NEWEST, keep=1)
    assert not (above / BEFORE).exists()
    assert (above / f"{BEFORE}.other-files" / "plot.png").read_bytes() == b"mine"
    assert f"{BEFORE}: what is not of it is kept in {above}/{BEFORE}.other-files" in caplog.text


def test_a_stray_file_changes_nothing(run):
    (run / "checkpoints" / NEWEST / ".DS_Store").write_text("finder")
    inode = (run / "checkpoints" / NEWEST / "model.safetensors").stat().st_ino
    assert find_checkpoint(str(run)).name == NEWEST
    assert find_newest(run, read_config(run), World()).name == NEWEST
    assert (run / "checkpoints" / NEWEST / "model.safetensors").stat().st_ino == inode
    assert (run / "checkpoints" / NEWEST / ".DS_Store").exists()


def test_a_checkpoint_that_cannot_be_read_is_not_passed_over(run, monkeypatch):
    real = store.digest_file

    def refused(path):
        if NEWEST in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(store, "digest_file", refused)
    with pytest.raises(ModelError, match=r"cannot be read: .*Permission denied") as error:
        find_checkpoint(str(run))
    assert f"{run}@21" in str(error.value)
    with pytest.raises(ModelError, match=r"cannot be read: .*Permission denied"):
        find_newest(run, read_config(run), World())
    assert sorted(path.name for path in (run / "checkpoints").glob("step-*")) == [BEFORE, NEWEST]
