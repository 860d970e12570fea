from pathlib import Path

import pytest

from thetahat.core.errors import FolderError
from thetahat.data.read.cache import cache_folder, default_cache, waiting_for


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
