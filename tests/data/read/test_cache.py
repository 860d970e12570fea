from pathlib import Path

import pytest

from thetahat.core.errors import FolderError
from thetahat.data.read import cache
from thetahat.data.read.cache import cache_folder, default_cache, doing_without, waiting_for


def test_a_cache_that_cannot_be_is_named_with_the_setting(tmp_path, monkeypatch):
    for name in ("THETAHAT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", lambda: Path("~nobody-of-this-name").expanduser())
    with pytest.raises(FolderError, match=r"no home folder to keep a cache in\n  try: THETAHAT_CACHE=DIR"):
        default_cache()
    (tmp_path / "file").touch()
    with (
        pytest.raises(FolderError, match=r"file cannot be written: .*\n  try: THETAHAT_CACHE=DIR"),
        waiting_for(tmp_path / "file" / ".lock"),
    ):
        pass


def test_no_folder_of_a_cache_that_cannot_be_written_is_used(tmp_path, monkeypatch):
    monkeypatch.setenv("THETAHAT_CACHE", str(tmp_path / "cache"))
    assert cache_folder("corpora").is_dir()
    (tmp_path / "cache" / "files").touch()  # root may write into every folder, so a file stands in the way
    with pytest.raises(FolderError, match=r"cache/files cannot be written: .*\n  try: THETAHAT_CACHE=DIR"):
        cache_folder("files")
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(FolderError, match=r"cache/corpora cannot be written: .*\n  try: THETAHAT_CACHE=DIR"):
        cache_folder("corpora")


def test_what_needs_no_cache_does_without_and_says_so_once(tmp_path, monkeypatch, caplog):
    cache._temporary.cache_clear()
    (tmp_path / "file").touch()
    monkeypatch.setenv("THETAHAT_CACHE", str(tmp_path / "file"))
    with doing_without():
        folders = [cache_folder(name) for name in ("files", "corpora", "files")]
    assert folders[0] == folders[2] != folders[1]
    assert all(folder.is_dir() and folder.parent == folders[0].parent for folder in folders)
    (said,) = [record.getMessage() for record in caplog.records]
    assert "cannot be written: Not a directory; a temporary folder takes its place, and nothing is kept" in said
    assert "THETAHAT_CACHE=DIR" in said
    with pytest.raises(FolderError):
        cache_folder("files")
    monkeypatch.setenv("THETAHAT_CACHE", str(tmp_path / "good"))
    with doing_without():
        assert cache_folder("files") == tmp_path / "good" / "files"
