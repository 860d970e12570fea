"""What a shell offers: commands, options, recipes, runs, keys and values; in the words as bash divides them, too."""

import os
import pty
import select
import shutil
import sys
import time
from pathlib import Path

import pytest
import typer

from thetahat.cli.completion import SCRIPTS, candidates
from thetahat.cli.main import app, main
from thetahat.core.schema import known_keys
from thetahat.run.config import RunConfig

PROGRAM = typer.main.get_command(app)


def offered(line):
    return candidates(PROGRAM, line.split(" "))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("tra", ["train", "track"]),
        ("trai", ["train"]),
        ("tokenizer ", ["train"]),
        ("train qu", ["quickstart"]),
        ("train --max-", ["--max-steps", "--max-tokens", "--max-minutes"]),
        ("train --fresh --fre", []),
        ("train mod", ["model."]),
        ("train model.kind=enc", ["model.kind=encoder", "model.kind=encoder-decoder"]),
        ("train model.kind = enc", ["encoder", "encoder-decoder"]),  # as bash divides it
        ("train model.ties_embeddings =", ["true", "false"]),
        ("train data.chat.template=ll", ["data.chat.template=llama-3"]),
        ("train optimization.schedule.kind=w", ["optimization.schedule.kind=wsd"]),
        ("train model.attention.rel", ["model.attention.relative."]),
        ("train batch", ["batch_size="]),
        ("train batch_size=", []),
        ("score runs/mine dev", ["device="]),
        ("score runs/mine model.k", []),
        ("train --branch ", ["runs/mine"]),
        ("score ru", ["runs/mine"]),
        ("keys optimization.v", ["optimization.vectors"]),
        ("plot --y r", ["rate"]),
        ("completion ", ["bash", "zsh", "fish"]),
    ],
)
def test_what_may_stand_next_is_offered(line, expected, tmp_path, monkeypatch):
    (tmp_path / "runs" / "mine" / "checkpoints").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert offered(line) == expected


def test_files_and_folders_are_offered_where_they_may_stand(tmp_path, monkeypatch):
    for name in ("corpus/a.jsonl", "mine.txt", ".hidden", "runs/mine/checkpoints/latest", "other/one/checkpoints/best"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    monkeypatch.chdir(tmp_path)
    assert offered("train corpus/") == ["corpus/a.jsonl"]
    assert offered("train mi") == ["micro_batch_size=", "mine.txt"]
    assert offered("score other/") == ["other/one"]
    assert offered("chat mi") == []
    assert offered("plot ") == ["runs/mine", "corpus/", "other/"]
    assert offered("train data.train=mi") == ["data.train=mine.txt"]
    assert offered("train data.sources.one.path = cor") == ["corpus/"]
    assert offered("keys ") == sorted(offered("keys "), key=lambda one: one.endswith("/"))
    assert ".hidden" in offered("train .")


def test_every_key_can_be_reached():
    """From dot to dot, as a person types."""
    reached, level = set(), {"optimization.", *(f"{letter}" for letter in "abcdefghijklmnopqrstuvwxyz")}
    seen = set()
    while level:
        seen |= level
        found = {one for prefix in level for one in offered(f"train {prefix}")}
        reached |= {one.removesuffix("=") for one in found if one.endswith("=")}
        level = {one for one in found if one.endswith(".")} - seen
    known = known_keys(RunConfig)
    tables = {key for key in known if any(other.startswith(f"{key}.") for other in known)}
    assert reached == set(known) - tables


def test_a_shell_that_is_none_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["thetahat", "completion", "powershell"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "bash, zsh, fish" in capsys.readouterr().err


def read_until(terminal, mark, limit=120.0):
    said, end = b"", time.monotonic() + limit
    while mark not in said and time.monotonic() < end:
        if select.select([terminal], [], [], 0.2)[0]:
            said += os.read(terminal, 4096)
    assert mark in said, said
    return said.decode()


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash on this machine")
def test_a_real_bash_completes(tmp_path):
    """Keys behind which a value comes get no blank; a value replaces only what stands behind `=`."""
    (tmp_path / "script").write_text(SCRIPTS["bash"])
    (tmp_path / "thetahat").write_text(f'#!/bin/sh\nexec {sys.executable} -m thetahat "$@"\n')
    (tmp_path / "thetahat").chmod(0o755)
    (tmp_path / "notes.txt").write_text("")
    source = str(Path(__file__).parents[2] / "src")
    clean = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "TERM": "dumb", "PS1": "", "PYTHONPATH": source}
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(tmp_path)
        os.execvpe("bash", ["bash", "--norc", "--noprofile", "-i"], clean)
    try:
        os.write(terminal, b"source script; bind 'set enable-bracketed-paste off'; echo rea'dy'\n")
        read_until(terminal, b"ready")
        line = b"thetahat trai\tmodel.ki\tdec\t batch\t8 --max-st\t7 not\t"
        os.write(terminal, line + b"\x01echo '<' \x05'>'\n")
        said = read_until(terminal, b"\n< ")
        said += read_until(terminal, b">") if ">" not in said.rpartition("\n< ")[2] else ""
    finally:
        os.write(terminal, b"exit\n")
        os.waitpid(child, 0)
        os.close(terminal)
    typed = said.rpartition("\n< ")[2].partition(" >")[0]
    assert typed == "thetahat train model.kind=decoder batch_size=8 --max-steps 7 notes.txt"
