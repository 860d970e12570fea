"""What ranks on several nodes must see alike."""

import pytest

from tests.commands import ended, started, thetahat, worlds
from tests.launch import small


@pytest.mark.multi
def test_ranks_that_see_different_run_folders_are_told(tmp_path):
    """They would go on from different parameters, or end with a file that is missing."""
    first, second = tmp_path / "a", tmp_path / "b"
    words = ["train", *small.words(tmp_path, 8), "--out", "run"]
    for folder in (first, second):
        folder.mkdir()
    assert thetahat(first, *words, "--max-minutes", "0.001").returncode == 0
    pair = [
        started(folder, *words, environment=world) for folder, world in zip((first, second), worlds(2), strict=True)
    ]
    done = [ended(one) for one in pair]
    assert {one.returncode for one in done} == {7}, [one.stderr for one in done]
    assert "rank 0 sees step-" in done[0].stderr
    assert "rank 1 sees no checkpoint" in done[1].stderr
    assert "--out on a file system that all nodes share" in done[1].stderr
    assert len(small.lines(first / "run")) < 8
