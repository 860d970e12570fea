import errno
import json
import os
import posix
import random
import resource
import shutil
import signal
import sys
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from thetahat.core import store
from thetahat.core.errors import DamagedError, DiskFullError, FolderError, ModelError

CONTENT = {"model.bin": bytes(range(256)) * 20, "empty": b"", "below/state.json": b'{"step": 3}', "below/deep/x": b"x"}


@pytest.fixture(autouse=True)
def _flushed(monkeypatch):
    """Here files are flushed in truth."""
    monkeypatch.setattr(os, "fsync", posix.fsync)


def fill(folder, content=CONTENT):
    for name, data in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def publish(target, content=CONTENT):
    with store.publishing(target) as folder:
        fill(folder, content)


def read(folder):
    """Every file below, but for the manifest."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def memory(tmp_path):
    """A folder in memory, where there is one: hundreds of kills need not wait for a disk.

    The operations are the same, and a kill loses nothing that was written, flushed or not.
    """
    room = Path("/dev/shm")
    if not os.access(room, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=room) as folder:
        yield Path(folder)


def in_child(act):
    """Runs in a process of its own, which has no threads, and returns how that ended."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(act() or 0)
        finally:
            os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


READS = {"open", "stat", "lstat", "listdir", "scandir", "read", "readinto", "readall"}
OPERATIONS = ("posix", "io", "_io", "fcntl")


def killed_before_operation(number, act):
    """Runs `act` in a child that dies, without a word, just before its operation of this number; False if it has none.

    An operation is whatever C does for us in the modules that talk to the system: open, write, fsync, rename, ...
    """

    def watch(_frame, event, called):
        nonlocal number
        owner = getattr(called, "__module__", None) or type(getattr(called, "__self__", None)).__module__
        if event == "c_call" and owner in OPERATIONS:
            if number == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            number -= 1

    def watched():
        sys.setprofile(watch)
        act()
        sys.setprofile(None)

    code = in_child(watched)
    assert code in (0, -signal.SIGKILL)
    return code != 0


@contextmanager
def failing_at_read(number):
    """What reads for the time of this number within the block fails as on a bad disk; yields whether it has."""
    left = number

    def watch(_frame, event, called):
        nonlocal left
        owner = getattr(called, "__module__", None) or type(getattr(called, "__self__", None)).__module__
        if event == "c_call" and owner in OPERATIONS and called.__name__ in READS:
            left -= 1
            if left == -1:
                raise OSError(errno.EIO, os.strerror(errno.EIO))

    sys.setprofile(watch)
    try:
        yield lambda: left < 0
    finally:
        sys.setprofile(None)


def every_kill(act):
    number = 0
    while killed_before_operation(number, act):
        yield number
        number += 1


def test_what_is_published_is_verified_and_is_what_was_written(tmp_path):
    publish(tmp_path / "a")
    store.verify(tmp_path / "a")
    store.verify(tmp_path / "a", deep=False)
    assert {name: data for name, data in read(tmp_path / "a").items() if name != store.MANIFEST} == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_an_error_while_writing_publishes_nothing(tmp_path):
    with pytest.raises(TypeError, match="bytes-like"):
        publish(tmp_path / "a", CONTENT | {"z": "not bytes"})
    assert list(tmp_path.iterdir()) == []


def test_what_is_published_is_never_overwritten(tmp_path):
    publish(tmp_path / "a")
    with pytest.raises(FolderError, match="never overwritten"):
        publish(tmp_path / "a", {"other": b""})
    store.verify(tmp_path / "a")


def test_a_kill_between_any_two_operations_leaves_all_or_nothing(memory):
    target, seen = memory / "checkpoints" / "step-1", []
    for _ in every_kill(lambda: publish(target)):
        seen.append(target.exists())
        if target.exists():
            store.verify(target)
            store.remove(target)
        publish(target)  # the next start is not in the way of what the last one left
        store.verify(target)
        store.remove(target)
        assert list(target.parent.iterdir()) == []
    assert len(seen) > 50
    assert set(seen) == {False, True}


def test_every_byte_and_name_is_durable_before_it_is_published(tmp_path):
    """What a power cut would show: no rename overtakes the flush of what it names, nor its own."""
    called = []

    def note(_frame, event, function):
        if event == "c_call" and getattr(function, "__module__", "") == "posix":
            called.append(function.__name__)

    with store.publishing(tmp_path / "a") as folder:
        fill(folder)
        sys.setprofile(note)
    sys.setprofile(None)
    durable = [name for name in called if name in {"fsync", "replace", "rename"}]
    files, folders = ["fsync"] * len(CONTENT), ["fsync"] * 2
    manifest = ["fsync", "replace", "fsync"]
    assert durable == [*files, *folders, *manifest, "rename", "fsync"]


def test_a_kill_between_any_two_operations_leaves_the_old_text_or_the_new(memory):
    path, seen = memory / "latest", set()
    store.write_text(path, "old\n")
    for _ in every_kill(lambda: store.write_text(path, "new\n" * 5000)):
        seen.add(path.read_text())
        store.remove_partial(memory)
        assert os.listdir(memory) == ["latest"]
        store.write_text(path, "old\n")
    assert seen == {"old\n", "new\n" * 5000}


def test_a_kill_between_any_two_operations_removes_all_or_nothing(memory):
    target, seen = memory / "a", set()
    publish(target)
    for _ in every_kill(lambda: store.remove(target)):
        seen.add(target.exists())
        if target.exists():
            store.verify(target)
        store.remove_partial(memory)
        assert [path.name for path in memory.iterdir()] in ([], ["a"])
        if not target.exists():
            publish(target)
    assert seen == {False, True}


def damaged(folder, act):
    """Whether damage is found; the folder is whole again after."""
    path = random.choice(sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size))
    before = path.read_bytes()
    path.write_bytes(act(before))
    try:
        store.verify(folder)
    except ModelError:
        return True
    finally:
        path.write_bytes(before)
    return False


def flipped(data):
    bit = random.randrange(8 * len(data))
    return data[: bit // 8] + bytes([data[bit // 8] ^ (1 << bit % 8)]) + data[bit // 8 + 1 :]


def cut(data):
    return data[: random.randrange(len(data))]


def zeroed(data):
    first = random.randrange(len(data))
    return (
        data[:first] + bytes(len(data[first : first + 4096])) + data[first + 4096 :]
        if any(data[first:][:4096])
        else b""
    )


@pytest.mark.parametrize("act", [flipped, cut, zeroed])
def test_no_damage_goes_unseen(tmp_path, act):
    publish(tmp_path / "a")
    random.seed(0)
    assert [damaged(tmp_path / "a", act) for _ in range(200)] == [True] * 200
    store.verify(tmp_path / "a")


def test_every_bit_of_the_manifest_counts(tmp_path):
    publish(tmp_path / "a", {"x": b"x"})
    path = tmp_path / "a" / store.MANIFEST
    before = path.read_bytes()
    for bit in range(8 * len(before)):
        path.write_bytes(before[: bit // 8] + bytes([before[bit // 8] ^ (1 << bit % 8)]) + before[bit // 8 + 1 :])
        with pytest.raises(ModelError, match="damaged"):
            store.verify(tmp_path / "a", deep=False)


def test_missing_and_swapped_files_are_named_and_the_files_of_others_are_no_damage(tmp_path):
    publish(tmp_path / "a", {"x": b"1", "y": b"2"})
    x, y = tmp_path / "a" / "x", tmp_path / "a" / "y"
    x.rename(tmp_path / "x")
    with pytest.raises(ModelError, match="x is missing"):
        store.verify(tmp_path / "a")
    x.write_bytes(b"2")
    y.write_bytes(b"1")
    store.verify(tmp_path / "a", deep=False)
    with pytest.raises(ModelError, match="x is damaged"):
        store.verify(tmp_path / "a")
    x.write_bytes(b"1")
    y.write_bytes(b"2")
    (tmp_path / "a" / ".hidden").touch()
    (tmp_path / "a" / "folder").mkdir()
    (tmp_path / "a" / "folder" / "nowhere").symlink_to(tmp_path / "gone")
    store.verify(tmp_path / "a")
    assert store.names(tmp_path / "a") == ["x", "y"]
    y.unlink()
    y.mkdir()
    with pytest.raises(DamagedError, match="y is missing"):
        store.verify(tmp_path / "a")


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "{}", '{"files": []}', '{"files": {"/etc/hostname": 1}}', "[" * 9999]
)
def test_a_manifest_of_any_other_shape_is_damaged(tmp_path, text):
    (tmp_path / store.MANIFEST).write_text(text)
    with pytest.raises(ModelError, match="damaged"):
        store.verify(tmp_path)


def test_a_manifest_cannot_point_outside(tmp_path):
    (tmp_path / "secret").write_text("s")
    entries = {"../secret": {"bytes": 1, "sha256": store.digest_file(tmp_path / "secret")}}
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / store.MANIFEST).write_text(store._manifest(entries))
    with pytest.raises(DamagedError, match="damaged"):
        store.verify(tmp_path / "a")


def test_what_others_put_into_a_folder_outlives_it(tmp_path):
    """And where a kill comes between, it is in one of the two places."""
    mine = {"notes.txt": b"mine", "below/.trace": b"y", "new/empty": b""}
    seen = set()
    for number in range(0, 999, 9):
        publish(tmp_path / "a")
        fill(tmp_path / "a", mine)
        (tmp_path / "a" / "link").symlink_to("/nowhere")
        was_killed = killed_before_operation(number, lambda: store.remove(tmp_path / "a"))
        seen.add((tmp_path / "a").exists())
        kept = {name: data for place in tmp_path.iterdir() for name, data in read(place).items() if name in mine}
        assert kept == mine
        assert any(path.is_symlink() for path in tmp_path.rglob("*"))
        for place in tmp_path.iterdir():
            shutil.rmtree(place)
        if not was_killed:
            break
    assert seen == {True, False}


def test_what_cannot_be_read_is_an_error_and_no_damage(tmp_path):
    publish(tmp_path / "a")
    store.verify(tmp_path / "a")
    for number in range(10):
        with failing_at_read(number), pytest.raises(ModelError, match=r"cannot be read: \[Errno 5\]") as found:
            store.verify(tmp_path / "a")
        assert not isinstance(found.value, DamagedError)


def test_what_is_rejected_is_set_aside_with_the_reason(tmp_path):
    for number in ("", "-2", "-3"):
        publish(tmp_path / "a")
        assert store.set_aside(tmp_path / "a", "damaged", "half of it is gone").name == f"a.damaged{number}"
        store.verify(tmp_path / f"a.damaged{number}")
        assert (tmp_path / f"a.damaged{number}.txt").read_text() == "a: half of it is gone\n"
    (tmp_path / "file").write_text("x")
    assert store.set_aside(tmp_path / "file", "damaged", "no folder").read_text() == "x"


def test_a_folder_without_a_manifest_was_never_published(tmp_path):
    with pytest.raises(ModelError, match="never published"):
        store.verify(tmp_path)


def with_room_for(num_bytes, act):
    """The exit code of the error that `act` raises where no file may grow beyond this; 0 if it raises none."""

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, resource.RLIM_INFINITY))
        try:
            act()
        except DiskFullError as error:
            return error.exit_code
        return 0

    return in_child(limited)


@pytest.mark.parametrize("num_bytes", [0, 1, 100, 500, 600, 700, 4096, 5000, 5119, 5120, 1 << 20])
def test_a_full_disk_leaves_nothing_half_written(tmp_path, num_bytes):
    code = with_room_for(num_bytes, lambda: publish(tmp_path / "a"))
    assert code == (0 if num_bytes >= 5120 else 8)
    assert [path.name for path in tmp_path.iterdir()] == (["a"] if code == 0 else [])


def test_a_full_disk_keeps_the_old_text(tmp_path):
    store.write_json(tmp_path / "latest", {"step": 1})
    before = read(tmp_path)
    assert with_room_for(10, lambda: store.write_json(tmp_path / "latest", {"step": [2] * 99})) == 8
    assert read(tmp_path) == before


def test_a_full_disk_is_named_when_tensors_are_saved(tmp_path):
    def save():
        with store.publishing(tmp_path / "a") as folder:
            save_file({"x": torch.zeros(4096)}, folder / "model.safetensors")

    assert with_room_for(4096, save) == 8
    assert list(tmp_path.iterdir()) == []
    assert with_room_for(1 << 20, save) == 0
    store.verify(tmp_path / "a")


def refused(folder):
    """The exit code with which another process is refused; 0 if it may come in."""

    def enter():
        try:
            with store.holding(folder):
                return 0
        except FolderError as error:
            return error.exit_code if f"(pid {os.getppid()})" in str(error) else 98

    return in_child(enter)


@pytest.mark.parametrize("name", ["there", "folder", "nowhere", ".", "there/file"])
def test_a_target_that_cannot_be_written_is_refused_before_anything_is_done(tmp_path, name, caplog):
    (tmp_path / "there").write_text("precious")
    (tmp_path / "folder").mkdir()
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(FolderError, match="--save") as error:
        store.check_target(tmp_path / name, "--save")
    assert ("cannot be written" if "/" in name else "exists") in str(error.value)
    assert sorted(tmp_path.iterdir()) == before
    with caplog.at_level("INFO", "thetahat"):
        for _ in range(2):  # said once, since it is made once
            store.check_target(tmp_path / "new" / "file")
    assert [record.getMessage() for record in caplog.records] == [f"made the folder {tmp_path / 'new'}"]
    assert list((tmp_path / "new").iterdir()) == []
    longest = tmp_path / ("x" * (255 - len("..thetahat-partial")))
    store.check_target(longest)
    store.write_text(longest, "text")
    with pytest.raises(FolderError, match="cannot be written"):
        store.check_target(tmp_path / ("y" * 247))


def test_one_process_at_a_time_holds_a_folder(tmp_path):
    with store.holding(tmp_path / "run"):
        assert refused(tmp_path / "run") == 7
        assert refused(tmp_path / "other") == 0
    assert refused(tmp_path / "run") == 0
    with suppress(KeyError), store.holding(tmp_path / "run"):
        raise KeyError
    assert refused(tmp_path / "run") == 0


def test_a_folder_is_free_when_its_holder_is_killed(tmp_path):
    ready, told = os.pipe()

    def hold():
        with store.holding(tmp_path):
            os.write(told, b"held")
            signal.pause()

    child = os.fork()
    if child == 0:
        hold()
        os._exit(99)
    assert os.read(ready, 4) == b"held"
    with pytest.raises(FolderError, match=f"pid {child}"), store.holding(tmp_path):
        pass
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with store.holding(tmp_path):
        assert (tmp_path / ".lock").read_text() == f"{os.getpid()}\n"


def test_json_is_readable_and_replaced_whole(tmp_path):
    store.write_json(tmp_path / "x.json", {"θ̂": [1, None]})
    store.write_json(tmp_path / "x.json", {"θ̂": [2]})
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == {"θ̂": [2]}
    assert "θ̂" in (tmp_path / "x.json").read_text(encoding="utf-8")


def test_what_a_killed_process_left_is_deleted_and_nothing_else(tmp_path):
    publish(tmp_path / "a")
    shutil.copytree(tmp_path / "a", store.partial_name(tmp_path / "b"))
    store.partial_name(tmp_path / "latest").write_text("half")
    for name in ("notes.partial", ".notes.partial"):  # a person's own, hidden or not
        (tmp_path / name).write_text("kept")
    store.remove_partial(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".notes.partial", "a", "notes.partial"]
