from pathlib import Path

import pytest

from thetahat.core.errors import FolderError
from thetahat.data.read.cache import default_cache, waiting_for


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
