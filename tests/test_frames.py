"""A reader's test: from the command line to log-softmax in seven frames of ours."""

import sys
import traceback
from pathlib import Path

import pytest

import thetahat
from thetahat.cli.main import main
from thetahat.objective import chunked

PACKAGE = Path(thetahat.__file__).parent


def test_from_the_command_line_to_log_softmax_in_seven_frames(tmp_path, monkeypatch, capsys):
    seen = []

    def stop_here(hidden, head, targets):
        seen.extend(Path(frame.filename) for frame in traceback.extract_stack()[:-1])
        raise KeyboardInterrupt

    monkeypatch.setenv("THETAHAT_CACHE", str(tmp_path))
    monkeypatch.setattr(chunked, "reference", stop_here)
    (tmp_path / "text.txt").write_text("to be or not to be " * 200)
    small = [f"data.train={tmp_path}/text.txt", "data.held_out=none", "data.vocab_size=260", "data.context=32"]
    words = [*small, "max_steps=1", "threads=1", "diagnosis.preflight=off", "--out", str(tmp_path / "run"), "--quiet"]
    monkeypatch.setattr(sys, "argv", ["thetahat", "train", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130
    assert capsys.readouterr().err == "thetahat: interrupted\n"
    ours = [path.relative_to(PACKAGE).as_posix() for path in seen if PACKAGE in path.parents]
    assert ours == [
        "cli/main.py",
        "cli/train.py",
        "run/train.py",
        "run/train.py",
        "run/step.py",
        "objective/objective.py",
    ]
    assert len([*ours, "objective/log_prob.py"]) == 7
